"""What an application uses: submit jobs, follow them, change their course. Works with `requirements.txt` alone."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Unpack

from scoreline.storage.errors import JobNotFound, ObjectNotFound, require_extra
from scoreline.storage.ledger.base import Ledger
from scoreline.storage.models.manifest import PinnedModel
from scoreline.storage.models.registry import ModelRegistry
from scoreline.storage.objects.buckets import Buckets
from scoreline.tasks.dispatch.connections import Connections
from scoreline.tasks.dispatch.messages import MessageQueue
from scoreline.tasks.dispatch.outcome import end_job, is_complete
from scoreline.tasks.dispatch.reconcile import reconcile
from scoreline.tasks.dispatch.resume import begin_run, rejected_again
from scoreline.tasks.dispatch.submission import Submission, refuse_other_spec
from scoreline.tasks.job.documents import Job, Outcome, Status, read_job, read_outcome, read_run, seconds_since
from scoreline.tasks.job.layout import ResultsLayout
from scoreline.tasks.job.plan_file import PlanFile
from scoreline.tasks.job.spec import JobSpec
from scoreline.tasks.job.submit_options import RecordsOptions, SubmitOptions
from scoreline.tasks.records import job as records_job
from scoreline.tasks.records.job import RecordsJob
from scoreline.tasks.webhooks.settings import WebhookSettings

if TYPE_CHECKING:
    from scoreline.storage.models.settings import ModelSettings
    from scoreline.tasks.rejects.report import RejectedRows
    from scoreline.tasks.steps.preflight import Preflight


class Client:
    """What an application uses.

    Parameters
    ----------
    buckets : Buckets
        Where models, jobs and results are.
    queue : MessageQueue
        Where messages go.
    ledger : Ledger
        Where progress is kept.
    webhooks : WebhookSettings, optional
        Which addresses may be notified of how jobs end.
    """

    def __init__(
        self, buckets: Buckets, queue: MessageQueue, ledger: Ledger, webhooks: WebhookSettings | None = None
    ) -> None:
        self.buckets = buckets
        self.queue = queue
        self.ledger = ledger
        self.submission = Submission(buckets, queue, ledger, webhooks or WebhookSettings())
        self._statuses = self.submission.statuses
        self._dispatcher = self.submission.dispatcher

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> Client:
        """Make a client from environment variables; raises `InvalidSettings`.

        Parameters
        ----------
        environ : mapping of str to str, optional
            By default, the environment of this process; or the client of `stand_in`, while there is one.
        """
        if environ is None and (instead := stand_in_client()) is not None:
            return instead
        environ = os.environ if environ is None else environ
        connections = Connections(environ)
        return cls(connections.buckets, connections.queue, connections.ledger, WebhookSettings.from_env(environ))

    @property
    def registry(self) -> ModelRegistry:
        """Models by name."""
        return self.submission.registry

    def submit(self, model: str, input: str | Sequence[str], **options: Unpack[SubmitOptions]) -> Status:
        """Pin the model, record the job, and enqueue it.

        Submitting again with the same `job_id` and the same arguments is the same job, sent once more.

        Parameters
        ----------
        model : str
            ``name``, ``name@alias`` or ``name@version``.
        input : str or sequence of str
            ``s3://bucket/key``, ``s3://bucket/prefix/`` or a glob; or several of these.
        **options
            As described in `SubmitOptions`.

        Raises
        ------
        InvalidRequest (ModelNotFound, InvalidURI, BucketNotAllowed, JobConflict among them)
            Nothing was recorded.
        QueueUnavailable, LedgerUnavailable, StoreUnavailable
            Transient: try again with the same `job_id`.
        """
        return self.submission.submit(self.submission.spec(model, input, options), webhook=options.get("webhook"))

    def preflight(
        self,
        model: str,
        input: str | Sequence[str],
        *,
        trust: ModelSettings | None = None,
        **options: Unpack[SubmitOptions],
    ) -> Preflight:
        """Try what `submit` would do with the same arguments: plan the job and score a few rows in this process.

        Nothing is written or sent, and Redis is not asked. Needs ml-requirements.txt, as a worker does.

        Parameters
        ----------
        model, input, **options
            As for `submit`.
        trust : ModelSettings, optional
            Which models may be loaded; by default what the environment of this process says.

        Raises
        ------
        ScorelineError
            What `submit` would raise, or what would fail the job, with the same message.
        PackageMissing
            A package that a worker needs is not installed.
        """
        with require_extra("trying a job"):
            from scoreline.storage.models.manager import ModelStorageManager
            from scoreline.storage.models.settings import ModelSettings
            from scoreline.tasks.steps.preflight import preflight
        spec = self.submission.spec(model, input, options)
        self.submission.check(spec, options.get("webhook") or self.submission.webhooks.url)
        main = self.buckets.main
        trust = trust or ModelSettings.from_env(os.environ)
        models = ModelStorageManager(main, cloud_only=True, use_r2=True, settings=trust)  # no copies on a disk
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        job = Job(spec=spec, model=self.registry.resolve(spec.model), submitted=now)
        with contextlib.suppress(JobNotFound):
            refuse_other_spec(read_job(main, spec.job_id), spec)
        return preflight(self.buckets, self.ledger, models, job)

    def submit_records(self, model: str, records: Any, **options: Unpack[RecordsOptions]) -> RecordsJob:
        """Score rows that the application has at hand (see `scoreline.tasks.records.job.submit_records`)."""
        return records_job.submit_records(self.submission, model, records, **options)

    def submit_spec(self, spec: JobSpec, *, webhook: str | None = None) -> Status:
        """Submit a job whose spec is written out (see `submit`)."""
        return self.submission.submit(spec, webhook=webhook)

    @staticmethod
    def new_job_id() -> str:
        """Make a job id from the time, for an application that stores the id before it submits the job."""
        return Submission.new_job_id()

    def default_output(self, model: str) -> str:
        """Return the prefix of a model's results for a job that names none."""
        return self.submission.default_output(model)

    def status(self, job_id: str) -> Status:
        """Return how far a job is; raises `JobNotFound`."""
        return self._statuses.status(job_id)

    def watch(self, job_id: str, timeout_s: float | None = None) -> Iterator[Status]:
        """Yield the status until the job has ended; raises `TimeoutError` if that takes longer than `timeout_s`."""
        return self._statuses.watch(job_id, timeout_s, self.queue.pause)

    def jobs(self) -> Iterator[Status]:
        """Yield the status of every job, in the order of their ids.

        A job whose document is corrupt is reported as failed with that reason, so that it hides no other job.
        """
        return self._statuses.jobs()

    def cancel(self, job_id: str) -> Status:
        """End a job now and keep what is written; parts under way stop within one record batch.

        A job that has ended keeps its outcome.

        Raises
        ------
        JobNotFound
            No job has that id.
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
        """Run what is missing of a job that failed or was cancelled, with the model and inputs that it pinned.

        Parameters
        ----------
        job_id : str
            Its results so far are kept, and are not scored again.
        max_rejected : str or int, optional
            The reject budget from now on, if the job failed because it rejected too many rows.

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
        """Report why rows of a job were rejected; while it is under way, those of the parts that are done.

        Memory is bounded, however many rows there are. Needs pyarrow, which is in ml-requirements.txt.

        Parameters
        ----------
        job_id : str
            The job whose rejected rows are read.
        examples : int
            How many rows to return for each reason.

        Raises
        ------
        JobNotFound
            No job has that id.
        PackageMissing
            pyarrow is not installed.
        StoreUnavailable
            Transient: try again.
        """
        with require_extra("reading rejected rows"):
            from scoreline.tasks.rejects.report import Tally, count_rejects
        job, state = read_job(self.buckets.main, job_id), self.status(job_id).state
        try:
            columns = PlanFile(self.buckets.main, job_id).columns
        except ObjectNotFound:  # it is not planned yet, or planning it failed
            return Tally((), 0).report(job_id, state)
        tally = Tally(columns.names, examples)
        count_rejects(ResultsLayout.of(self.buckets, job), tally)
        return tally.report(job_id, state)

    def resume_rejected(
        self, job_id: str, *, model: str | None = None, max_rejected: str | int | None = None
    ) -> Status:
        """Score the rows that a job rejected, and these alone, as a job of its own that reads the same objects.

        Parameters
        ----------
        job_id : str
            A job that has ended. Its results stay as they are; the new ones are beside them.
        model : str, optional
            The model to score with now; by default what the job was submitted with, resolved again.
        max_rejected : str or int, optional
            How many rows may be rejected again; by default all.

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
        allowed = "100%" if max_rejected is None else str(max_rejected)
        return self.submit_spec(rejected_again(self._dispatcher, job_id, model, allowed))

    def reconcile(self) -> dict[str, str]:
        """Do what is due for every job under way: rebuild a lost ledger, dispatch what got lost, finalize.

        Returns
        -------
        dict of str to str
            What was done, by job id.
        """
        self.queue.ping()
        return reconcile(self._dispatcher)

    def delete_model(self, pinned: PinnedModel) -> None:
        """Remove a model version for good; raises `ModelInUse` if an alias or a job under way needs it."""
        self.submission.delete_model(pinned)


_stand_ins: list[Client] = []


@contextlib.contextmanager
def stand_in(client: Client) -> Iterator[None]:
    """Use `client`, while the block runs, wherever the settings of this process would make one: in tests.

    It stands in for `Client.from_env` without an environment, for the functions of this module, and for
    `scoreline.tasks.django.client`, in all threads. Blocks may be nested; the innermost counts.
    """
    _stand_ins.append(client)
    try:
        yield
    finally:
        _stand_ins.remove(client)


def stand_in_client() -> Client | None:
    """Return the client that stands in for that of the settings, if there is one."""
    return _stand_ins[-1] if _stand_ins else None


def submit(model: str, input: str | Sequence[str], **options: Unpack[SubmitOptions]) -> Status:
    """Submit a job with the settings of this process (see `Client.submit`)."""
    return Client.from_env().submit(model, input, **options)


def submit_records(model: str, records: Any, **options: Unpack[RecordsOptions]) -> RecordsJob:
    """Score rows at hand with the settings of this process (see `Client.submit_records`)."""
    return Client.from_env().submit_records(model, records, **options)


def status(job_id: str) -> Status:
    """Return how far a job is (see `Client.status`)."""
    return Client.from_env().status(job_id)


def watch(job_id: str, timeout_s: float | None = None) -> Iterator[Status]:
    """Yield the status until the job has ended (see `Client.watch`)."""
    return Client.from_env().watch(job_id, timeout_s)


def cancel(job_id: str) -> Status:
    """End a job now (see `Client.cancel`)."""
    return Client.from_env().cancel(job_id)


def resume_rejected(job_id: str, *, model: str | None = None, max_rejected: str | int | None = None) -> Status:
    """Score the rows that a job rejected, as a job of its own (see `Client.resume_rejected`)."""
    return Client.from_env().resume_rejected(job_id, model=model, max_rejected=max_rejected)


def resume(job_id: str, *, max_rejected: str | int | None = None) -> Status:
    """Run what is missing of a job (see `Client.resume`)."""
    return Client.from_env().resume(job_id, max_rejected=max_rejected)
