"""Submit jobs and follow them: works with `requirements.txt` alone."""

from __future__ import annotations

import contextlib
import os
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any

from scoreline.storage import keys
from scoreline.storage.errors import (
    DocumentCorrupt,
    JobConflict,
    JobNotFound,
    ModelInUse,
    ObjectNotFound,
    PreconditionFailed,
    describe,
    require_extra,
)
from scoreline.storage.ledger.redis_ledger import RedisLedger
from scoreline.storage.models.manifest import PinnedModel
from scoreline.storage.models.registry import ModelRegistry
from scoreline.storage.objects.buckets import Buckets
from scoreline.storage.tables.options import READ_OPTIONS, read_options
from scoreline.tasks.dispatch.dispatcher import Dispatcher, Documents, send_step
from scoreline.tasks.dispatch.outcome import clean_up_if_ended, end_job, is_complete
from scoreline.tasks.dispatch.queue import Queue
from scoreline.tasks.dispatch.reconcile import reconcile
from scoreline.tasks.dispatch.resume import begin_run, rejected_again
from scoreline.tasks.dispatch.settings import QueueSettings
from scoreline.tasks.job.documents import (
    Job,
    Outcome,
    Status,
    mark_active,
    read_job,
    read_outcome,
    read_run,
    seconds_since,
)
from scoreline.tasks.job.layout import parts, results
from scoreline.tasks.job.plan_file import PlanFile
from scoreline.tasks.job.spec import JobSpec, check_apart
from scoreline.tasks.job.uris import parse_uri
from scoreline.tasks.records import job
from scoreline.tasks.records.job import RecordsJob
from scoreline.tasks.webhooks.settings import WebhookSettings

if TYPE_CHECKING:
    from scoreline.storage.models.settings import ModelSettings
    from scoreline.tasks.rejects.report import RejectedRows
    from scoreline.tasks.steps.preflight import Preflight

_POLL_S = 0.02, 0.25
"""At first, and at most: the end of a short job is told soon, and a long one costs few requests."""


class Client:
    """What an application uses.

    Parameters
    ----------
    buckets : Buckets
        Where models, jobs and results are.
    queue : Queue
        Where messages go.
    ledger : RedisLedger
        Where progress is read.
    events : WebhookSettings, optional
        Who may be told how jobs end.
    """

    def __init__(
        self, buckets: Buckets, queue: Queue, ledger: RedisLedger, events: WebhookSettings | None = None
    ) -> None:
        self.buckets = buckets
        self.queue = queue
        self.ledger = ledger
        self.events = events or WebhookSettings()
        self._totals: dict[str, int] = {}

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> Client:
        """Read the settings; raises `InvalidSettings`."""
        environ = os.environ if environ is None else environ
        settings = QueueSettings.from_env(environ)
        return cls(
            buckets := Buckets.from_env(environ, patient=False),
            Queue(settings.broker_url, settings.broker_tls),
            RedisLedger(
                settings.redis_url,
                namespace=buckets.main.bucket,
                tls=settings.redis_tls,
                connect_timeout_s=4,
                timeout_s=5,
                patience_s=settings.patience_s,
            ),
            WebhookSettings.from_env(environ),
        )

    @cached_property
    def registry(self) -> ModelRegistry:
        """Models by name."""
        return ModelRegistry(self.buckets.main)

    def submit(
        self,
        model: str,
        input: str | Sequence[str],
        *,
        output: str | None = None,
        method: str | None = None,
        keep: str | Sequence[str] = "all",
        features: Sequence[str] | None = None,
        job_id: str | None = None,
        max_rejected: str | int = "1%",
        part_rows: int | None = None,
        max_attempts: int = 3,
        partition_by: str | None = None,
        gather: bool = False,
        webhook: str | None = None,
        format: str | None = None,
        delimiter: str | None = None,
        quote: str = '"',
        columns: Sequence[str] | None = None,
        encoding: str = "utf-8",
        null_values: Sequence[str] | None = None,
        types: Mapping[str, str] | None = None,
    ) -> Status:
        """Pin the model, record the job, and enqueue it.

        Submitting again with the same `job_id` and the same arguments is the same job, sent once more.

        Parameters
        ----------
        model : str
            ``name``, ``name@alias`` or ``name@version``.
        input : str or sequence of str
            ``s3://bucket/key``, ``s3://bucket/prefix/`` or a glob; or several of these.
        output : str, optional
            Prefix of the results; ``s3://<R2_BUCKET>/results/<model>/`` by default.
        method, keep, features, max_rejected, part_rows, max_attempts, partition_by, gather
            As in `JobSpec`.
        job_id : str, optional
            Made from the time by default.
        webhook : str, optional
            Address within ALLOWED_WEBHOOKS that is told how the job ended; WEBHOOK_URL by default.
        format, delimiter, quote, columns, encoding, null_values, types
            How the objects are read, where their names do not say it: as in `ReadOptions`.

        Raises
        ------
        InvalidRequest (ModelNotFound, InvalidURI, BucketNotAllowed, JobConflict among them)
            Nothing was recorded.
        QueueUnavailable, LedgerUnavailable, StoreUnavailable
            Transient: try again with the same `job_id`.
        """
        return self.submit_spec(
            self._spec(
                model,
                input,
                output=output,
                method=method,
                keep=keep,
                features=features,
                job_id=job_id,
                max_rejected=max_rejected,
                part_rows=part_rows,
                max_attempts=max_attempts,
                partition_by=partition_by,
                gather=gather,
                format=format,
                delimiter=delimiter,
                quote=quote,
                columns=columns,
                encoding=encoding,
                null_values=null_values,
                types=types,
            ),
            webhook=webhook,
        )

    @staticmethod
    def new_job_id() -> str:
        """Make a job id from the time."""
        return f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"

    def preflight(
        self,
        model: str,
        input: str | Sequence[str],
        *,
        webhook: str | None = None,
        trust: ModelSettings | None = None,
        **options: Any,
    ) -> Preflight:
        """Try what `submit` would do with the same arguments: plan the job, and score a few rows, in this process.

        Nothing is written or sent, and Redis is not asked. Needs what a worker needs, ml-requirements.txt.

        Parameters
        ----------
        model, input, webhook, **options
            As for `submit`.
        trust : ModelSettings, optional
            Which models are loaded; by default as the environment of this process says.

        Raises
        ------
        ScorelineError
            What `submit` would raise, or what would fail the job, with the same message.
        PackageMissing
            A package of a worker is not installed.
        """
        with require_extra("trying a job"):
            from scoreline.storage.models.manager import ModelStorageManager
            from scoreline.storage.models.settings import ModelSettings
            from scoreline.tasks.steps.preflight import preflight
        spec = self._spec(model, input, **options)
        self._check(spec, webhook or self.events.url)
        main = self.buckets.main
        trust = trust or ModelSettings.from_env(os.environ)
        models = ModelStorageManager(main, cloud_only=True, use_r2=True, settings=trust)  # no copies on a disk
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        job = Job(spec=spec, model=self.registry.resolve(spec.model), submitted=now)
        with contextlib.suppress(JobNotFound):
            _refuse_other(read_job(main, spec.job_id), spec)
        return preflight(self.buckets, self.ledger, models, job)

    def _spec(
        self,
        model: str,
        input: str | Sequence[str],
        *,
        output: str | None = None,
        features: Sequence[str] | None = None,
        job_id: str | None = None,
        **options: Any,
    ) -> JobSpec:
        """Spell out what was left to us, and write numbers and lists as the spec has them."""
        if type(options.get("max_rejected")) is int:
            options["max_rejected"] = str(options["max_rejected"])
        if isinstance(options.get("keep"), list | tuple):
            options["keep"] = ",".join(map(str, options["keep"])) or "none"
        reading = {name: options.pop(name) for name in READ_OPTIONS if options.get(name) is not None}
        return JobSpec(
            job_id=job_id or self.new_job_id(),
            model=model,
            inputs=_several(input),
            output=output or self.default_output(str(model).partition("@")[0]),
            features=tuple(features) if features else None,
            read=read_options(reading),
            **{name: value for name, value in options.items() if name not in READ_OPTIONS},
        )

    def default_output(self, model: str) -> str:
        """Return where the results of a model go unless a job says otherwise."""
        return f"s3://{self.buckets.main.bucket}/results/{model}/"

    def submit_records(self, model: str, records: Any, **options: Any) -> RecordsJob:
        """Score rows that the application has at hand (see `scoreline.tasks.records.job.submit_records`)."""
        return job.submit_records(self, model, records, **options)

    def submit_spec(self, spec: JobSpec, *, webhook: str | None = None) -> Status:
        """Submit a job that is spelled out (see `submit`)."""
        self.accept(spec, webhook=webhook)
        send_step(self._dispatcher, "plan", spec.job_id)
        return self.status(spec.job_id)

    def accept(
        self,
        spec: JobSpec,
        *,
        webhook: str | None = None,
        pinned: PinnedModel | None = None,
        before: Mapping[str, bytes] | None = None,
    ) -> None:
        """Record a job without sending it: the reconciler would (errors as `submit`).

        Parameters
        ----------
        pinned : PinnedModel, optional
            What the spec's model stands for, where that is known.
        before : mapping of str to bytes, optional
            Objects, by key, that have to be there once the job is; their keys name their content.
        """
        webhook = webhook or self.events.url
        self._check(spec, webhook)
        self.queue.ping()
        self.ledger.ping()
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        pinned = pinned or self.registry.resolve(spec.model)
        self._record(Job(spec=spec, model=pinned, submitted=now, webhook=webhook), before or {})

    def score_soon(self, job_id: str) -> None:
        """Have one process do all of a small job, unless its plan was sent lately; the reconciler sends the plan."""
        send_step(self._dispatcher, "plan", job_id, task="scoreline.score_staged")

    def documents(self, job_id: str) -> Documents:
        """Return a job and its plan; raises `JobNotFound`, or `ObjectNotFound` where there is no plan yet."""
        return self._dispatcher.documents(job_id)

    def status(self, job_id: str) -> Status:
        """Return how far a job is; raises `JobNotFound`."""
        job = read_job(self.buckets.main, job_id)
        where = f"{job.spec.output}job_id={job_id}/"
        outcome = read_outcome(self.buckets.main, job_id)
        if outcome is not None:
            return Status(
                job_id=job_id,
                state=outcome.state,
                model=job.model.ref,
                output=where,
                parts=outcome.parts,
                parts_done=outcome.parts_done,
                rows=outcome.rows,
                rejected=outcome.rejected,
                total_rows=self._total(job_id),
                seconds=outcome.seconds,
                error=outcome.error,
                submitted=job.submitted,
            )
        seconds = seconds_since(job.submitted)
        progress = self.ledger.progress(job_id)
        if progress is None:
            return Status(
                job_id=job_id,
                state="submitted",
                model=job.model.ref,
                output=where,
                seconds=seconds,
                submitted=job.submitted,
            )
        return Status(
            job_id=job_id,
            state="running",
            model=job.model.ref,
            output=where,
            parts=progress.parts,
            parts_done=progress.parts_done,
            rows=progress.rows,
            rejected=progress.rejected,
            total_rows=self._total(job_id),
            seconds=seconds,
            submitted=job.submitted,
        )

    def watch(self, job_id: str, timeout_s: float | None = None) -> Iterator[Status]:
        """Yield the status until the job has ended, or `TimeoutError`."""
        begun = time.monotonic()
        least, most = _POLL_S
        while True:
            now = self.status(job_id)
            yield now
            if now.ended:
                return
            waited = time.monotonic() - begun
            if timeout_s is not None and waited > timeout_s:
                raise TimeoutError(f"job {job_id} has not ended after {timeout_s} s")
            time.sleep(min(most, max(least, waited / 10)))

    def jobs(self) -> Iterator[Status]:
        """Yield the status of every job, oldest first; one whose record is broken says so, and hides no other."""
        for info in self.buckets.main.list("jobs/"):
            match info.key.split("/"):
                case ["jobs", job_id, "job.json"]:
                    try:
                        yield self.status(job_id)
                    except DocumentCorrupt as error:
                        yield Status(job_id=job_id, state="failed", model="", output="", error=describe(error))

    def cancel(self, job_id: str) -> Status:
        """End a job now, keeping what is written; parts under way stop within one record batch.

        Harmless where the job has ended: its outcome stays.

        Raises
        ------
        JobNotFound
            There is none.
        StoreUnavailable, LedgerUnavailable
            Transient: try again.
        """
        job = read_job(self.buckets.main, job_id)
        if read_outcome(self.buckets.main, job_id) is None and not is_complete(self._dispatcher, job_id):
            now = self.status(job_id)
            run, _ = read_run(self.buckets.main, job_id)
            outcome = Outcome(
                state="cancelled",
                rows=now.rows,
                rejected=now.rejected,
                parts=now.parts,
                parts_done=now.parts_done,
                seconds=seconds_since(job.submitted),
                failures={},
                run=run.number,
            )
            end_job(self._dispatcher, job_id, outcome)
        return self.status(job_id)

    def resume(self, job_id: str, *, max_rejected: str | int | None = None) -> Status:
        """Run what is missing of a job that failed or was cancelled; model and inputs stay those that it pinned.

        Parameters
        ----------
        job_id : str
            Its results so far are kept, and not scored again.
        max_rejected : str, optional
            Reject budget from now on, where the job failed for having rejected too many rows.

        Raises
        ------
        NothingToResume
            The job is under way, or has all its results.
        JobNotFound, InvalidRequest
            Nothing was changed.
        """
        self.queue.ping()
        self.ledger.ping()
        begin_run(self._dispatcher, job_id, None if max_rejected is None else str(max_rejected))
        return self.status(job_id)

    def rejected(self, job_id: str, *, examples: int = 3) -> RejectedRows:
        """Say why rows of a job were rejected; of one that is under way, those of the parts that are done.

        Memory is bounded, however many there are. Needs pyarrow, of ml-requirements.txt.

        Parameters
        ----------
        job_id : str
            Its rejected rows are read where they lie.
        examples : int
            Rows to return of each reason.

        Raises
        ------
        JobNotFound
            There is none.
        PackageMissing
            pyarrow is not installed.
        StoreUnavailable
            Transient: try again.
        """
        with require_extra("what reads rejected rows"):
            from scoreline.tasks.rejects.report import Tally, count_rejected
        job, state = read_job(self.buckets.main, job_id), self.status(job_id).state
        try:
            columns = PlanFile(self.buckets.main, job_id).columns
        except ObjectNotFound:  # not planned yet, or not to be planned
            return Tally((), 0).report(job_id, state)
        tally = Tally(columns.names, examples)
        count_rejected(*results(self.buckets, job), parts(self.buckets, job)[1], tally)
        return tally.report(job_id, state)

    def resume_rejected(self, job_id: str, *, model: str | None = None, max_rejected: str = "100%") -> Status:
        """Score the rows that a job rejected, and these alone, as a job of its own that reads the same objects.

        Parameters
        ----------
        job_id : str
            A job that has ended. Its results stay as they are; the new ones are beside them.
        model : str, optional
            What to score with now; by default what the job was submitted with, looked up again.
        max_rejected : str
            Rows that may be rejected again; by default all.

        Returns
        -------
        Status
            Of the new job, whose id is ``<job_id>-rejected-<n>``.

        Raises
        ------
        NothingToResume
            The job is under way, or has rejected nothing.
        JobNotFound, InvalidRequest
            Nothing was submitted.
        """
        return self.submit_spec(rejected_again(self._dispatcher, job_id, model, max_rejected))

    def reconcile(self) -> dict[str, str]:
        """Do for every job under way what is due: rebuild a lost ledger, dispatch what got lost, finalize.

        Returns
        -------
        dict of str to str
            What was done, by job id.
        """
        self.queue.ping()
        return reconcile(self._dispatcher)

    @cached_property
    def _dispatcher(self) -> Dispatcher:
        return Dispatcher(buckets=self.buckets, ledger=self.ledger, send=self.queue.send)

    def _record(self, job: Job, before: Mapping[str, bytes]) -> None:
        """Write a job, after what it needs, or find it written before with the same spec.

        The marker is first: a submitter that dies after it leaves nothing, or a job that the reconciler plans.
        """
        main, job_id = self.buckets.main, job.spec.job_id
        mark_active(main, job_id)
        for key, data in before.items():
            with contextlib.suppress(PreconditionFailed):  # written before, by a try that died
                main.put(key, data, create_only=True)
        try:
            main.put(keys.job(job_id), job.to_json(), create_only=True)
        except PreconditionFailed:
            existing = read_job(main, job_id)
            clean_up_if_ended(self._dispatcher, job_id)
            _refuse_other(existing, job.spec)

    def _check(self, spec: JobSpec, webhook: str | None) -> None:
        spec.check()
        if webhook is not None:
            self.events.check(webhook)
        check_apart(spec)
        for uri in (*spec.inputs, spec.output):
            _ = self.buckets[parse_uri(uri)[0]]

    def delete_model(self, pinned: PinnedModel) -> None:
        """Remove a model version for good; raises `ModelInUse` where an alias or a job under way needs it."""
        self.registry.delete(pinned, self._refuse_used)

    def _refuse_used(self, pinned: PinnedModel) -> None:
        for info in self.buckets.main.list(keys.JOBS_ACTIVE):
            job_id = info.key.removeprefix(keys.JOBS_ACTIVE)
            try:
                job = read_job(self.buckets.main, job_id)
            except JobNotFound:
                continue
            if job.model.ref == pinned.ref:
                raise ModelInUse(f"{pinned.ref} is what job {job_id} scores with: wait for its end, or cancel it")

    def _total(self, job_id: str) -> int:
        if job_id not in self._totals:
            try:
                self._totals[job_id] = PlanFile(self.buckets.main, job_id).rows
            except ObjectNotFound:
                return 0
        return self._totals[job_id]


def _refuse_other(existing: Job, spec: JobSpec) -> None:
    if existing.spec != spec:
        raise JobConflict(f"job id {spec.job_id!r} is taken by a job with another spec: choose another id")


def _several(input: str | Sequence[str]) -> tuple[str, ...]:
    return (input,) if isinstance(input, str) or not isinstance(input, Sequence) else tuple(input)


def submit(model: str, input: str | Sequence[str], **options: Any) -> Status:
    """Submit a job with the settings of this process (see `Client.submit`)."""
    return Client.from_env().submit(model, input, **options)


def submit_records(model: str, records: Any, **options: Any) -> RecordsJob:
    """Score rows at hand, with the settings of this process (see `scoreline.tasks.records.job.submit_records`)."""
    return Client.from_env().submit_records(model, records, **options)


def status(job_id: str) -> Status:
    """Return how far a job is (see `Client.status`)."""
    return Client.from_env().status(job_id)


def watch(job_id: str) -> Iterator[Status]:
    """Yield the status until the job has ended (see `Client.watch`)."""
    return Client.from_env().watch(job_id)


def cancel(job_id: str) -> Status:
    """End a job now (see `Client.cancel`)."""
    return Client.from_env().cancel(job_id)


def resume_rejected(job_id: str, **options: Any) -> Status:
    """Score the rows that a job rejected, as a job of its own (see `Client.resume_rejected`)."""
    return Client.from_env().resume_rejected(job_id, **options)


def resume(job_id: str, **options: Any) -> Status:
    """Run what is missing of a job (see `Client.resume`)."""
    return Client.from_env().resume(job_id, **options)
