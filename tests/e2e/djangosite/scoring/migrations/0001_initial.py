from __future__ import annotations

import uuid

from django.db import migrations, models


class Migration(migrations.Migration):
    initial = True

    dependencies = []

    operations = [
        migrations.CreateModel(
            name="Scoring",
            fields=[
                ("id", models.UUIDField(default=uuid.uuid4, primary_key=True, serialize=False)),
                ("model", models.CharField(help_text="name, name@alias or name@version", max_length=200)),
                (
                    "input",
                    models.CharField(help_text="s3://bucket/key, s3://bucket/prefix/ or a glob", max_length=1024),
                ),
                ("created", models.DateTimeField(auto_now_add=True)),
                ("job_id", models.CharField(max_length=100, unique=True)),
                ("state", models.CharField(default="not sent", max_length=20)),
                ("version", models.CharField(default="", max_length=300)),
                ("output", models.CharField(default="", max_length=1200)),
                ("error", models.TextField(default="")),
                ("rows", models.PositiveBigIntegerField(default=0)),
                ("rejected", models.PositiveBigIntegerField(default=0)),
                ("total_rows", models.PositiveBigIntegerField(default=0)),
            ],
            options={
                "ordering": ("-created",),
            },
        ),
    ]
