"""The model `Scoring`: a row for each job that an application submits."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Self, cast

from django.db import models, router, transaction
from django.urls import NoReverseMatch, reverse
from django.utils import timezone

from scoreline.storage.audit import acting_as, is_acting, submitter
from scoreline.storage.errors import InvalidRequest
from scoreline.tasks.django.project_client import client
from scoreline.tasks.django.scoring import sending
from scoreline.tasks.django.scoring.defaults import REFUSED, SUBMITTING
from scoreline.tasks.django.scoring.job_row import JobRow
from scoreline.tasks.django.scoring.observed import observe, record
from scoreline.tasks.job.submit_options import SubmitOptions
from scoreline.tasks.quality.checks.checks_of import check_text


class ScoringQuerySet(models.QuerySet):
    """The rows of a model that derives from `Scoring`."""

    def submitting(self) -> Self:
        """Return the rows whose jobs are not known to be submitted."""
        return self.filter(state=SUBMITTING)

    def under_way(self) -> Self:
        """Return the rows whose jobs are submitted and not known to have ended."""
        return self.filter(ended__isnull=True).exclude(state=SUBMITTING)

    def ended(self) -> Self:
        """Return the rows whose jobs have ended."""
        return self.filter(ended__isnull=False)


class Scoring(JobRow):
    """A job and its last known state, as an abstract base for a model of an application.

    ::

        class Prediction(Scoring):
            customer = models.ForeignKey(Customer, on_delete=models.CASCADE)

        prediction = Prediction.submit("churn@champion", "s3://data/in/", customer=customer)

    The row is saved in the transaction of the caller, and its job is submitted when the transaction is committed. If
    Redis or the bucket does not answer then, the row keeps the state ``submitting``, and the job is submitted later: by
    ``manage.py scoreline_resend``, with a notification, or with the next submission.
    """

    objects = ScoringQuerySet.as_manager()

    class Meta(JobRow.Meta):
        """The application gives the model its table."""

        abstract = True

    @classmethod
    def submit(
        cls,
        model: str,
        input: str | Sequence[str],
        *,
        options: SubmitOptions | None = None,
        **fields: Any,
    ) -> Self:
        """Save a row, and submit its job when the present transaction is committed.

        If the transaction is rolled back, there is neither a row nor a job. Outside of a transaction, the job is
        submitted at once.

        Parameters
        ----------
        model : str
            ``name``, ``name@alias`` or ``name@version``.
        input : str or sequence of str
            ``s3://bucket/key``, ``s3://bucket/prefix/`` or a glob; or several of these.
        options : SubmitOptions, optional
            The options of the job, such as ``{"max_rejected": "5%"}``. They are kept in the row as JSON.
        **fields
            Values of the fields that the application has added.

        Raises
        ------
        InvalidRequest
            An option, an address or a name cannot be used. Nothing was saved. Faults that only the bucket knows, such
            as a model that does not exist, make the row ``refused`` instead.
        InvalidSettings
            Settings of the project are missing or wrong. Nothing was saved.
        """
        found = client()
        using = router.db_for_write(cls)
        inputs = [input] if isinstance(input, str) else list(input)
        given = _plain(options or {})
        if "job_id" in given:
            fields["job_id"] = given.pop("job_id")
        row = cls(model=model, inputs=inputs, options=given, submitter=_acting(), **fields)
        spec = found.submission.spec(model, inputs, row.request)
        check_text(spec.checks)
        found.submission.check(spec, given.get("webhook") or found.submission.webhooks.url)
        with transaction.atomic(using=using):
            row.save(using=using, force_insert=True)
            row.waits_for_commit = True
            sending.after_commit(row, using)
        return row

    def save(self, **options: Any) -> None:
        """Save the row.

        Of a row that exists, only the fields that the application has added are written, unless `update_fields` names
        others. The fields of the job may have changed since they were read, for example by a notification.
        """
        exists = self.pk is not None and not self._state.adding and options.get("using") in (None, self._state.db)
        if exists and not options.get("force_insert") and options.get("update_fields") is None:
            kept = {field.name for field in JobRow._meta.get_fields()} | self.get_deferred_fields()
            own = (field for field in self._meta.concrete_fields if not field.primary_key)
            options["update_fields"] = [field.name for field in own if not kept & {field.name, field.attname}]
        super().save(**options)

    @property
    def is_under_way(self) -> bool:
        """Whether the job is submitted, and not known to have ended."""
        return self.ended is None and self.state != SUBMITTING

    @property
    def percent(self) -> int:
        """How much of the input is scored."""
        return min(100, 100 * (self.rows + self.rejected) // self.total_rows) if self.total_rows else 0

    @property
    def page(self) -> str:
        """The address of the job's page; empty if the project has no pages, or if there is no job yet."""
        try:
            return "" if self.state in (SUBMITTING, REFUSED) else reverse("scoreline:job", args=[self.job_id])
        except NoReverseMatch:
            return ""

    def refresh(self) -> bool:
        """Ask for the state of the job, and submit it if it is not submitted yet. Return whether it ended meanwhile.

        In the transaction that saves the row, this does nothing.

        Raises
        ------
        ScorelineError
            The job could not be asked for. The row says what was last known.
        """
        if self.waits_for_commit:
            return False
        if self.state == SUBMITTING:
            sending.send(self)
            return self.ended is not None
        is_new = record(self, observe(client(), self.job_id, knows_run=self.run, now=timezone.now()))
        sending.reload(self)
        return is_new

    def cancel(self) -> None:
        """End the job now. A job that is not submitted yet is submitted first, so that no later attempt starts it.

        Raises
        ------
        InvalidRequest
            The transaction that saves the row is still open. Roll it back, or cancel after the commit.
        ScorelineError
            The job could not be cancelled.
        """
        if self.waits_for_commit:
            raise InvalidRequest(
                f"job {self.job_id} is submitted when the transaction is committed: roll it back, or cancel afterwards"
            )
        if self.state == SUBMITTING:
            sending.send(self)
        if self.ended is None:
            with acting_as(None if is_acting() else self.submitter):
                client().cancel(self.job_id)
            self.refresh()


def _plain(options: SubmitOptions) -> dict[str, Any]:
    """Return options as they come back from the database; raises `InvalidRequest`."""
    try:
        return cast(dict[str, Any], json.loads(json.dumps(options)))
    except TypeError as error:
        raise InvalidRequest(f"options must be JSON, because they are kept in a row: {error}") from None


def _acting() -> str:
    return submitter().who if is_acting() else ""
