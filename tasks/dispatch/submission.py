"""Turns a request into a job in the bucket and a message in the queue. Works with `requirements.txt` alone."""

from __future__ import annotations

import logging
import secrets
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from functools import cached_property
from typing import Any, Protocol

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
from scoreline.storage.hashing import sha256_hex
from scoreline.storage.ledger.base import Ledger
from scoreline.storage.models.manifest import Manifest, PinnedModel
from scoreline.storage.models.registry import ModelRegistry
from scoreline.storage.objects.base import CREATE, exists
from scoreline.storage.objects.buckets import Buckets
from scoreline.tasks.dispatch.answer_box import AnswerBox
from scoreline.tasks.dispatch.dispatcher import Dispatcher, send_step
from scoreline.tasks.dispatch.job_index import forget_removed, note_existing, note_submission
from scoreline.tasks.dispatch.messages import MessageQueue
from scoreline.tasks.dispatch.outcome import clean_up_if_ended, drop_marker_if_removed
from scoreline.tasks.dispatch.status import StatusReader
from scoreline.tasks.job.deadline import has_passed, resolve_deadline
from scoreline.tasks.job.documents import Job, Status, mark_active, read_job, read_model_refs
from scoreline.tasks.job.index_entry import entry_of
from scoreline.tasks.job.labels import check_labels
from scoreline.tasks.job.places import check_job_id, check_places
from scoreline.tasks.job.spec import JobSpec, check_apart
from scoreline.tasks.job.submit_options import SubmitOptions, spec_from
from scoreline.tasks.job.uris import parse_uri

_MANIFESTS_KEPT = 16
log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """A job that is written to the bucket."""

    job: Job
    document: bytes
    """The content of ``job.json``, if the job is new."""
    is_new: bool
    """Whether this call wrote the job. Otherwise, the same job was written before."""
    is_indexed: bool
    """Whether the job has an entry in the index."""
    etags: Mapping[str, str]
    """The ETags of the objects that this call wrote."""


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
        self.answers = AnswerBox(ledger)
        self.carries_records = True
        """Whether a few records may pass through the ledger (see `QueueSettings.carries_records`)."""
        self._manifests: dict[PinnedModel, Manifest] = {}
        self._guard = threading.Lock()

    @cached_property
    def registry(self) -> ModelRegistry:
        """The registry of models."""
        return ModelRegistry(self.buckets.main)

    def manifest(self, pinned: PinnedModel) -> Manifest:
        """Return the manifest of a pinned version. Manifests never change, so those used last are kept in memory."""
        with self._guard:
            if (known := self._manifests.get(pinned)) is not None:
                return known
        found = self.registry.manifest(pinned)
        with self._guard:
            self._manifests[pinned] = found
            while len(self._manifests) > _MANIFESTS_KEPT:
                del self._manifests[next(iter(self._manifests))]
        return found

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
        recorded = self.accept(spec, webhook=webhook, schedule=schedule, labels=labels)
        send_step(self.dispatcher, "plan", spec.job_id)
        return self.statuses.of(recorded.job) if recorded.is_new else self.status(spec.job_id)

    def accept(
        self,
        spec: JobSpec,
        *,
        webhook: str | None = None,
        pinned: PinnedModel | None = None,
        before: Mapping[str, bytes] | None = None,
        schedule: str | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> Recorded:
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
            challenger=self.pin_challenger(spec, pinned),
        )
        return self._record(job, before or {})

    def pin_challenger(self, spec: JobSpec, pinned: PinnedModel) -> PinnedModel | None:
        """Return the version that the challenger of a job resolves to; None without a challenger.

        Raises
        ------
        InvalidRequest (ModelNotFound among them)
            There is no such version, or it is the version that the job scores with.
        """
        if spec.challenger is None:
            return None
        found = self.registry.resolve(spec.challenger)
        if found == pinned:
            raise InvalidRequest(
                f"challenger {spec.challenger!r} is {found.ref}, and so is the model of the job: name another version"
            )
        return found

    def score_inline(self, job_id: str, carried: str = "") -> None:
        """Send one message that makes a single process do a whole small job, unless the job was enqueued recently.

        If this message gets lost, the reconciler enqueues the planning of the job.

        Parameters
        ----------
        carried : str
            What the process needs (see `scoreline.tasks.records.carried`).
        """
        send_step(self.dispatcher, "plan", job_id, task="scoreline.score_staged", carried=carried)

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

    def _record(self, job: Job, before: Mapping[str, bytes]) -> Recorded:
        """Write the objects that a job needs, its marker, and the job, unless the same job is already written.

        The objects are written side by side. Before that, the job is put on the reconciler's watchlist. If this process
        dies, the reconciler finds the job there, or by its marker, and plans the job if it was written.
        """
        main, job_id = self.buckets.main, job.spec.job_id
        recorded = self._with_deadline(job)
        document = recorded.to_json()
        self.ledger.watchlist.add([job_id])
        etags: dict[str, str] = {}

        def write(key: str, data: bytes) -> bool:
            try:
                etags[key] = main.put(key, data, mode=CREATE).etag
            except PreconditionFailed:  # an earlier attempt wrote this object
                return False
            return True

        with ThreadPoolExecutor(2 + len(before), "record") as pool:
            indexed = pool.submit(note_submission, main, recorded)
            pending: list[Future[Any]] = [pool.submit(write, key, data) for key, data in before.items()]
            pending.append(pool.submit(mark_active, main, job_id, sha256_hex(document)))
            is_new = write(keys.job(job_id), document)
        for other in pending:
            other.result()
        if not is_new:
            try:
                existing = read_job(main, job_id)
            except JobRemoved as error:
                forget_removed(main, entry_of(job).key)
                drop_marker_if_removed(self.dispatcher, job_id)
                raise JobConflict(f"{describe(error)}. Its id stays taken: choose another id") from None
            note_existing(main, job, existing)
            clean_up_if_ended(self.dispatcher, job_id)
            refuse_other_spec(existing, job.spec)
        return Recorded(job=recorded, document=document, is_new=is_new, is_indexed=indexed.result(), etags=etags)

    def _with_deadline(self, job: Job) -> Job:
        """Return a job whose deadline is a time. Raise `InvalidRequest` if a new job has a deadline that has passed."""
        deadline = job.spec.deadline
        if deadline is None:
            return job
        resolved = replace(job, spec=replace(job.spec, deadline=resolve_deadline(deadline, job.submitted)))
        if has_passed(resolved.spec.deadline) and not exists(self.buckets.main, keys.job(job.spec.job_id)):
            raise InvalidRequest(f"deadline {deadline!r} has passed already: name a later time, or a duration")
        return resolved

    def _refuse_if_used(self, pinned: PinnedModel) -> None:
        for info in self.buckets.main.list(keys.JOBS_ACTIVE):
            job_id = info.key.removeprefix(keys.JOBS_ACTIVE)
            try:
                refs = read_model_refs(self.buckets.main, job_id)
            except JobNotFound:
                continue
            except (DocumentCorrupt, InvalidRequest) as error:  # a corrupt job cannot score with any model
                log.warning("job.unreadable", extra={"key": info.key, "error": describe(error)})
                continue
            if pinned.ref in refs:
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
