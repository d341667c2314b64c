"""Creates the permissions of the app. The model has no table."""

from typing import ClassVar

from django.db import migrations, models


class Migration(migrations.Migration):
    """Adds the model that carries the permissions."""

    initial = True
    dependencies: ClassVar[list[tuple[str, str]]] = []
    operations: ClassVar[list[migrations.CreateModel]] = [
        migrations.CreateModel(
            name="Access",
            fields=[("id", models.AutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID"))],
            options={
                "verbose_name": "access to Scoreline",
                "verbose_name_plural": "pages",
                "managed": False,
                "default_permissions": (),
                "permissions": (
                    ("view", "Can see jobs, models and schedules, and download results"),
                    ("operate", "Can submit, cancel and resume jobs, and run or pause schedules"),
                    ("promote", "Can accept and reject results, go back to earlier runs, and move aliases"),
                ),
            },
        )
    ]
