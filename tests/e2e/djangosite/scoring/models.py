"""A table with one row for each job that a user requested."""

from __future__ import annotations

import contextlib
import uuid

from django.db import models
from django.urls import reverse

from scoreline.storage.errors import JobNotFound
from scoreline.tasks.django import client
from scoreline.tasks.job.documents import ENDED, Status

UNSENT = "not sent"


class Scoring(models.Model):
    """A requested job and its last known status. The status is no longer refreshed once the job has ended."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    model = models.CharField(max_length=200, help_text="name, name@alias or name@version")
    input = models.CharField(max_length=1024, help_text="s3://bucket/key, s3://bucket/prefix/ or a glob")
    created = models.DateTimeField(auto_now_add=True)
    job_id = models.CharField(max_length=100, unique=True)
    state = models.CharField(max_length=20, default=UNSENT)
    version = models.CharField(max_length=300, default="")
    output = models.CharField(max_length=1200, default="")
    error = models.TextField(default="")
    rows = models.PositiveBigIntegerField(default=0)
    rejected = models.PositiveBigIntegerField(default=0)
    total_rows = models.PositiveBigIntegerField(default=0)

    class Meta:
        ordering = ("-created",)

    def __str__(self) -> str:
        return self.job_id

    def save(self, *args: object, **options: object) -> None:
        self.job_id = f"site-{self.pk}"
        super().save(*args, **options)

    def get_absolute_url(self) -> str:
        return reverse("detail", args=[self.pk])

    @property
    def unsent(self) -> bool:
        return self.state == UNSENT

    @property
    def ended(self) -> bool:
        return self.state in ENDED

    @property
    def under_way(self) -> bool:
        return not (self.unsent or self.ended)

    @property
    def percent(self) -> int:
        return 100 * (self.rows + self.rejected) // self.total_rows if self.total_rows else 0

    def send(self) -> None:
        """Enqueue the job; a second call enqueues the same job."""
        self.hear(client().submit(self.model, self.input, job_id=self.job_id))

    def refresh(self) -> None:
        """Ask Scoreline for the status of the job."""
        if self.ended:
            return
        with contextlib.suppress(JobNotFound):  # the job has not been enqueued yet
            self.hear(client().status(self.job_id))

    def hear(self, status: Status) -> None:
        """Save a status that Scoreline returned."""
        self.state, self.version, self.output, self.error = status.state, status.model, status.output, status.error
        self.rows, self.rejected, self.total_rows = status.rows, status.rejected, status.total_rows
        self.save()
