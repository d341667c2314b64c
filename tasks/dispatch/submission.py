"""Turns a request into a job in the bucket and a message in the queue. Works with `requirements.txt` alone."""

from __future__ import annotations

import contextlib
import logging
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from datetime import UTC, datetime
from functools import cached_property
from typing import Protocol

from scoreline.storage import keys
from scoreline.storage.audit import submitter
from scoreline.storage.errors import (
    DocumentCorrupt,
    InvalidRequest,
    JobConflict,
    JobNotFound,
    JobRemoved,
    ModelInUse,
    PreconditionFailed,
    describe,
)
from scoreline.storage.ledger.base import Ledger
from scoreline.storage.models.manifest import PinnedModel
from scoreline.storage.models.registry import ModelRegistry
from scoreline.storage.objects.base import CREATE, exists
from scoreline.storage.objects.buckets import Buckets
from scoreline.tasks.dispatch.dispatcher import Dispatcher, send_step
from scoreline.tasks.dispatch.job_index import forget_removed, note_existing, noting_submission
from scoreline.tasks.dispatch.messages import MessageQueue
from scoreline.tasks.dispatch.outcome import clean_up_if_ended, drop_marker_if_removed
from scoreline.tasks.dispatch.status import StatusReader
from scoreline.tasks.job.deadline import has_passed, resolve_deadline
from scoreline.tasks.job.documents import Job, Status, read_job, read_model_ref
from scoreline.tasks.job.index_entry import entry_of
from scoreline.tasks.job.labels import check_labels
from scoreline.tasks.job.places import check_job_id, check_places
from scoreline.tasks.job.spec import JobSpec, check_apart
from scoreline.tasks.job.submit_options import SubmitOptions, spec_from
from scoreline.tasks.job.uris import parse_uri

log = logging.getLogger(__name__)


class WebhookPolicy(Protocol):
    """Decides which addresses may be notified when a job ends."""

    @property
    def url(self) -> str | None:
        """The address to notify if a job names no address."""
        ...

    def check(self, webhook: str) -> str:
        """Return `webhook` if a job may notify this address; otherwise raise `InvalidRequest`."""
        ...


class Submission:
    """Records jobs in the bucket and enqueues them.

    Parameters
    ----------
    buckets : Buckets
        The buckets that contain models, jobs and results.
    queue : MessageQueue
        The queue that carries messages to workers.
    ledger : Ledger
        The ledger, which tracks the progress of jobs.
    webhooks : WebhookPolicy
        Decides which addresses a job may notify.
    """

    def __init__(self, buckets: Buckets, queue: MessageQueue, ledger: Ledger, webhooks: WebhookPolicy) -> None:
        self.buckets = buckets
        self.queue = queue
        self.ledger = ledger
        self.webhooks = webhooks
        self.check_request: Callable[[JobSpec], None] = lambda spec: None
        """Function that raises `InvalidRequest` if a requested job is not allowed. Jobs of schedules are not
        checked."""
        self.submitter: str | None = None
        """The person or program for whom jobs are submitted, unless a block of `acting_as` names another."""
        self.statuses = StatusReader(buckets.main, ledger)
        self.dispatcher = Dispatcher(buckets=buckets, ledger=ledger, send=queue.send)

    @cached_property
    def registry(self) -> ModelRegistry:
        """The registry of models."""
        return ModelRegistry(self.buckets.main)

    @staticmethod
    def new_job_id() -> str:
        """Return a new job id, made of the current time and a random suffix."""
        return f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"

    def default_output(self, model: str) -> str:
        """Return the default output of jobs with a model: a prefix in the main bucket.

        Parameters
        ----------
        model : str
            ``name``, ``name@alias`` or ``name@version``.
        """
        return f"s3://{self.buckets.main.bucket}/results/{str(model).partition('@')[0]}/"

    def spec(self, model: str, input: str | Sequence[str], options: SubmitOptions) -> JobSpec:
        """Turn a request into a spec: fill in the job id and the output, and convert lists and numbers."""
        return spec_from(model, input, options, job_id=self.new_job_id(), output=self.default_output(model))

    def status(self, job_id: str) -> Status:
        """Return the status of a job; raises `JobNotFound`."""
        return self.statuses.status(job_id)

    def submit(
        self,
        spec: JobSpec,
        *,
        webhook: str | None = None,
        schedule: str | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> Status:
        """Record a job and enqueue its planning. The arguments and errors are those of `accept`."""
        self.accept(spec, webhook=webhook, schedule=schedule, labels=labels)
        send_step(self.dispatcher, "plan", spec.job_id)
        return self.status(spec.job_id)

    def accept(
        self,
        spec: JobSpec,
        *,
        webhook: str | None = None,
        pinned: PinnedModel | None = None,
        before: Mapping[str, bytes] | None = None,
        schedule: str | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> None:
        """Record a job without enqueueing it. If the caller does not enqueue the job, the reconciler does.

        Parameters
        ----------
        webhook : str, optional
            Address to notify when the job ends; by default, the address of the policy.
        pinned : PinnedModel, optional
            The version that the spec's model resolves to, if it is already known.
        before : mapping of str to bytes, optional
            Objects to write before the job, by key. Each key contains a digest of the object.
        schedule : str, optional
            The name of the schedule, if a schedule submits the job.
        labels : mapping of str to str, optional
            The labels of the job.

        Raises
        ------
        InvalidRequest (ModelNotFound, InvalidURI, BucketNotAllowed, JobConflict among them)
            Nothing was recorded.
        QueueUnavailable, LedgerUnavailable, StoreUnavailable
            Transient: try again with the same job id.
        """
        webhook = webhook or self.webhooks.url
        self.check(spec, webhook, schedule)
        self.queue.ping()
        self.ledger.ping()
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        pinned = pinned or self.registry.resolve(spec.model)
        job = Job(
            spec=spec,
            model=pinned,
            submitted=now,
            webhook=webhook,
            schedule=schedule,
            labels=check_labels(labels),
            submitter=submitter(self.submitter),
        )
        self._record(job, before or {})

    def score_inline(self, job_id: str) -> None:
        """Send one message that makes a single process do a whole small job, unless the job was enqueued recently.

        If this message gets lost, the reconciler enqueues the planning of the job.
        """
        send_step(self.dispatcher, "plan", job_id, task="scoreline.score_staged")

    def check(self, spec: JobSpec, webhook: str | None, schedule: str | None = None) -> None:
        """Raise `InvalidRequest` if the spec or the webhook cannot be accepted."""
        spec.check()
        if schedule is None:
            check_job_id(spec.job_id)
            self.check_request(spec)
        if webhook is not None:
            self.webhooks.check(webhook)
        check_apart(spec)
        check_places(spec, self.buckets.main.bucket, self.buckets.allowed_outputs)
        for uri in (*spec.inputs, spec.output):
            _ = self.buckets[parse_uri(uri)[0]]

    def delete_model(self, pinned: PinnedModel) -> None:
        """Delete a model version permanently; raises `ModelInUse` if an alias or a job under way needs it."""
        self.registry.delete(pinned, self._refuse_if_used)

    def check_unused(self, pinned: PinnedModel) -> None:
        """Raise `ModelInUse` if a model version cannot be deleted now, because an alias or a job under way needs it."""
        self.registry.check_no_alias(pinned)
        self._refuse_if_used(pinned)

    def _record(self, job: Job, before: Mapping[str, bytes]) -> None:
        """Write the objects that a job needs, and then the job, unless the same job is already written.

        The job's marker is written first. If this process dies later, the reconciler finds the marker and plans the
        job.
        """
        main, job_id, deadline = self.buckets.main, job.spec.job_id, job.spec.deadline
        recorded = job
        if deadline is not None:
            recorded = replace(job, spec=replace(job.spec, deadline=resolve_deadline(deadline, job.submitted)))
            if has_passed(recorded.spec.deadline) and not exists(main, keys.job(job_id)):
                raise InvalidRequest(f"deadline {deadline!r} has passed already: name a later time, or a duration")
        self.dispatcher.mark_active(job_id)
        for key, data in before.items():
            with contextlib.suppress(PreconditionFailed):  # an earlier attempt wrote this object
                main.put(key, data, mode=CREATE)
        try:
            with noting_submission(main, recorded):
                main.put(keys.job(job_id), recorded.to_json(), mode=CREATE)
        except PreconditionFailed:
            try:
                existing = read_job(main, job_id)
            except JobRemoved as error:
                forget_removed(main, entry_of(job).key)
                drop_marker_if_removed(self.dispatcher, job_id)
                raise JobConflict(f"{describe(error)}. Its id stays taken: choose another id") from None
            note_existing(main, job, existing)
            clean_up_if_ended(self.dispatcher, job_id)
            refuse_other_spec(existing, job.spec)

    def _refuse_if_used(self, pinned: PinnedModel) -> None:
        for info in self.buckets.main.list(keys.JOBS_ACTIVE):
            job_id = info.key.removeprefix(keys.JOBS_ACTIVE)
            try:
                ref = read_model_ref(self.buckets.main, job_id)
            except JobNotFound:
                continue
            except (DocumentCorrupt, InvalidRequest) as error:  # a corrupt job cannot score with any model
                log.warning("job.unreadable", extra={"key": info.key, "error": describe(error)})
                continue
            if ref == pinned.ref:
                raise ModelInUse(f"job {job_id} scores with {pinned.ref}: wait until it ends, or cancel it")


def refuse_other_spec(existing: Job, spec: JobSpec) -> None:
    """Raise `JobConflict` if the existing job with this id has another spec.

    A deadline that is a duration counts from the submission of the existing job, because a request that is repeated
    after an error must find its job.
    """
    if spec.deadline is not None:
        spec = replace(spec, deadline=resolve_deadline(spec.deadline, existing.submitted))
    names = [field.name for field in fields(spec)]
    if differing := [name for name in names if getattr(spec, name) != getattr(existing.spec, name)]:
        raise JobConflict(
            f"job id {spec.job_id!r} is taken by a job with another {' and '.join(differing)}: choose another id"
        )
