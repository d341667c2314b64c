"""From a request to a job in the bucket and a message in the queue. Works with `requirements.txt` alone."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import cached_property
from typing import Protocol

from scoreline.storage import keys
from scoreline.storage.errors import JobConflict, JobNotFound, ModelInUse, PreconditionFailed
from scoreline.storage.ledger.base import Ledger
from scoreline.storage.models.manifest import PinnedModel
from scoreline.storage.models.registry import ModelRegistry
from scoreline.storage.objects.base import CREATE
from scoreline.storage.objects.buckets import Buckets
from scoreline.tasks.dispatch.dispatcher import Dispatcher, send_step
from scoreline.tasks.dispatch.messages import MessageQueue
from scoreline.tasks.dispatch.outcome import clean_up_if_ended
from scoreline.tasks.dispatch.status import StatusReader
from scoreline.tasks.job.documents import Job, Status, mark_active, read_job
from scoreline.tasks.job.spec import JobSpec, check_apart
from scoreline.tasks.job.submit_options import SubmitOptions, spec_from
from scoreline.tasks.job.uris import parse_uri


class WebhookPolicy(Protocol):
    """Which addresses may be notified of how a job ended."""

    @property
    def url(self) -> str | None:
        """The address of a job that names none."""
        ...

    def check(self, webhook: str) -> str:
        """Return the address if a job may name it; raises `InvalidRequest`."""
        ...


class Submission:
    """Records jobs in the bucket and enqueues them.

    Parameters
    ----------
    buckets : Buckets
        Where models, jobs and results are.
    queue : MessageQueue
        Where messages go.
    ledger : Ledger
        Where progress is kept.
    webhooks : WebhookPolicy
        Which addresses a job may name.
    """

    def __init__(self, buckets: Buckets, queue: MessageQueue, ledger: Ledger, webhooks: WebhookPolicy) -> None:
        self.buckets = buckets
        self.queue = queue
        self.ledger = ledger
        self.webhooks = webhooks
        self.statuses = StatusReader(buckets.main, ledger)
        self.dispatcher = Dispatcher(buckets=buckets, ledger=ledger, send=queue.send)

    @cached_property
    def registry(self) -> ModelRegistry:
        """Models by name."""
        return ModelRegistry(self.buckets.main)

    @staticmethod
    def new_job_id() -> str:
        """Make a job id from the time."""
        return f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"

    def default_output(self, model: str) -> str:
        """Return the prefix of a model's results for a job that names none.

        Parameters
        ----------
        model : str
            ``name``, ``name@alias`` or ``name@version``.
        """
        return f"s3://{self.buckets.main.bucket}/results/{str(model).partition('@')[0]}/"

    def spec(self, model: str, input: str | Sequence[str], options: SubmitOptions) -> JobSpec:
        """Spell out a request: fill in the job id and the output, and read lists and numbers as the spec has them."""
        return spec_from(model, input, options, job_id=self.new_job_id(), output=self.default_output(model))

    def status(self, job_id: str) -> Status:
        """Return how far a job is; raises `JobNotFound`."""
        return self.statuses.status(job_id)

    def submit(self, spec: JobSpec, *, webhook: str | None = None) -> Status:
        """Record a job and enqueue its planning (errors as `accept`)."""
        self.accept(spec, webhook=webhook)
        send_step(self.dispatcher, "plan", spec.job_id)
        return self.status(spec.job_id)

    def accept(
        self,
        spec: JobSpec,
        *,
        webhook: str | None = None,
        pinned: PinnedModel | None = None,
        before: Mapping[str, bytes] | None = None,
    ) -> None:
        """Record a job without enqueueing it; the reconciler would enqueue it.

        Parameters
        ----------
        webhook : str, optional
            Address to notify of how the job ended; by default that of the policy.
        pinned : PinnedModel, optional
            The version that the spec's model stands for, if it is known.
        before : mapping of str to bytes, optional
            Objects, by key, that must exist once the job does. Each key names its content.

        Raises
        ------
        InvalidRequest (ModelNotFound, InvalidURI, BucketNotAllowed, JobConflict among them)
            Nothing was recorded.
        QueueUnavailable, LedgerUnavailable, StoreUnavailable
            Transient: try again with the same job id.
        """
        webhook = webhook or self.webhooks.url
        self.check(spec, webhook)
        self.queue.ping()
        self.ledger.ping()
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        pinned = pinned or self.registry.resolve(spec.model)
        self._record(Job(spec=spec, model=pinned, submitted=now, webhook=webhook), before or {})

    def score_inline(self, job_id: str) -> None:
        """Have one process do all of a small job, unless its plan was sent lately; the reconciler sends the plan."""
        send_step(self.dispatcher, "plan", job_id, task="scoreline.score_staged")

    def check(self, spec: JobSpec, webhook: str | None) -> None:
        """Refuse a spec, or a webhook, that cannot be accepted; raises `InvalidRequest`."""
        spec.check()
        if webhook is not None:
            self.webhooks.check(webhook)
        check_apart(spec)
        for uri in (*spec.inputs, spec.output):
            _ = self.buckets[parse_uri(uri)[0]]

    def delete_model(self, pinned: PinnedModel) -> None:
        """Remove a model version for good; raises `ModelInUse` if an alias or a job under way needs it."""
        self.registry.delete(pinned, self._refuse_if_used)

    def _record(self, job: Job, before: Mapping[str, bytes]) -> None:
        """Write a job, after what it needs, or find it written before with the same spec.

        The marker is first: a submitter that dies after it leaves nothing, or a job that the reconciler plans.
        """
        main, job_id = self.buckets.main, job.spec.job_id
        mark_active(main, job_id)
        for key, data in before.items():
            with contextlib.suppress(PreconditionFailed):  # written by an earlier try that died
                main.put(key, data, mode=CREATE)
        try:
            main.put(keys.job(job_id), job.to_json(), mode=CREATE)
        except PreconditionFailed:
            existing = read_job(main, job_id)
            clean_up_if_ended(self.dispatcher, job_id)
            refuse_other_spec(existing, job.spec)

    def _refuse_if_used(self, pinned: PinnedModel) -> None:
        for info in self.buckets.main.list(keys.JOBS_ACTIVE):
            job_id = info.key.removeprefix(keys.JOBS_ACTIVE)
            try:
                job = read_job(self.buckets.main, job_id)
            except JobNotFound:
                continue
            if job.model.ref == pinned.ref:
                raise ModelInUse(f"job {job_id} scores with {pinned.ref}: wait until it ends, or cancel it")


def refuse_other_spec(existing: Job, spec: JobSpec) -> None:
    """Raise `JobConflict` if a job id is taken by a job with another spec."""
    if existing.spec != spec:
        raise JobConflict(f"job id {spec.job_id!r} is taken by a job with another spec: choose another id")
