"""The fields of a row that is a job."""

from __future__ import annotations

from typing import Any, cast

from django.db import models, router
from django.utils import timezone

from scoreline.tasks.django.scoring.defaults import MAX_NAME, MAX_REASON, MAX_URI, SUBMITTING, new_job_id, states
from scoreline.tasks.job.submit_options import SubmitOptions


class JobRow(models.Model):
    """The fields of `Scoring`. Forms do not show them, because only Scoreline changes them."""

    job_id = models.CharField("job", max_length=100, unique=True, editable=False, default=new_job_id)
    """Id of the job. It is random, and not made from the primary key, because a database may give a key again after a
    transaction was rolled back or a backup was restored, and because several databases may share a bucket."""
    model = models.CharField(max_length=MAX_NAME, editable=False)
    """The model as it was named: ``name``, ``name@alias`` or ``name@version``."""
    inputs = models.JSONField(editable=False)
    """The URIs of the inputs."""
    options = models.JSONField(editable=False, default=dict, blank=True)
    """The other options of the job (see `SubmitOptions`)."""
    submitter = models.CharField(max_length=200, editable=False, default="", blank=True)
    """For whom the job is submitted, as the audit names the person."""
    state = models.CharField(max_length=20, editable=False, db_index=True, default=SUBMITTING, choices=states)
    """``submitting``: the job is not known to be submitted. ``refused``: there is no job, because the request cannot be
    carried out. ``removed``: retention removed the job before its end was seen. The other states are those of a job."""
    version = models.CharField(max_length=MAX_NAME, editable=False, default="", blank=True)
    """The ``name@version`` that scores the job."""
    output = models.CharField(max_length=MAX_URI, editable=False, default="", blank=True)
    rows = models.PositiveBigIntegerField(editable=False, default=0)
    rejected = models.PositiveBigIntegerField(editable=False, default=0)
    total_rows = models.PositiveBigIntegerField(editable=False, default=0)
    error = models.TextField(editable=False, default="", blank=True)
    """Why the job failed or was refused, or why it is not submitted yet."""
    reason = models.CharField(max_length=MAX_REASON, editable=False, default="", blank=True)
    """Why the job failed, in a form for programs (see `Status.reason`)."""
    run = models.PositiveIntegerField(editable=False, default=0)
    """The last run of the job that has ended; 0 if none has."""
    created = models.DateTimeField(auto_now_add=True)
    tried = models.DateTimeField(editable=False, default=timezone.now)
    """When a process last began to submit the job."""
    submitted = models.DateTimeField(editable=False, null=True, blank=True)
    ended = models.DateTimeField(editable=False, null=True, blank=True)

    waits_for_commit = False
    """Whether this instance was saved in a transaction that is still open."""

    class Meta:
        """The application gives the model its table."""

        abstract = True
        ordering = ("-created",)

    def __str__(self) -> str:
        """Return the job id."""
        return str(self.job_id)

    @property
    def request(self) -> SubmitOptions:
        """The options with which the job is submitted, each time with the same id."""
        return cast(SubmitOptions, {**self.options, "job_id": self.job_id})


def owner_of(model: type[JobRow]) -> type[JobRow]:
    """Return the model whose table has the fields of `JobRow`: not a proxy, and not a child with a second table."""
    return cast(type[JobRow], model._meta.get_field("job_id").model)


def in_database(row: JobRow) -> Any:
    """Return the query of one row, where it is written: it may have been read from a replica.

    Only a query of the table that has the fields can be updated on a condition. Django updates a child with two tables
    by the keys that it has read before.
    """
    owner = owner_of(type(row))
    return owner._base_manager.using(router.db_for_write(owner, instance=row)).filter(job_id=row.job_id)
