"""The client, which an application uses to submit and manage jobs. Works with `requirements.txt` alone."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Unpack

from scoreline.storage import audit
from scoreline.storage.audit import Submitter, acting_as, is_acting
from scoreline.storage.errors import (
    InvalidRequest,
    JobConflict,
    JobNotFound,
    JobRemoved,
    ObjectNotFound,
    describe,
    require_extra,
)
from scoreline.storage.ledger.base import Ledger
from scoreline.storage.models.manifest import PinnedModel
from scoreline.storage.models.registry import ModelRegistry
from scoreline.storage.objects.buckets import Buckets
from scoreline.tasks.backlog.reader import Backlog, BacklogReader
from scoreline.tasks.backlog.settings import CostSettings
from scoreline.tasks.databases.requests import begin_loads, expect_loads, load_again, request_load
from scoreline.tasks.dispatch.connections import Connections
from scoreline.tasks.dispatch.job_index import Rebuilt, rebuild
from scoreline.tasks.dispatch.listing import JobListing
from scoreline.tasks.dispatch.messages import MessageQueue
from scoreline.tasks.dispatch.outcome import end_job, is_complete
from scoreline.tasks.dispatch.reconcile import reconcile
from scoreline.tasks.dispatch.resume import begin_run, rejected_again
from scoreline.tasks.dispatch.submission import Submission, refuse_other_spec
from scoreline.tasks.inputs.only_new import check_still_new
from scoreline.tasks.job.documents import (
    Job,
    Outcome,
    State,
    Status,
    read_job,
    read_outcome,
    read_run,
    seconds_since,
)
from scoreline.tasks.job.job_filter import JobFilter
from scoreline.tasks.job.layout import ResultsLayout
from scoreline.tasks.job.plan_file import PlanFile
from scoreline.tasks.job.spec import JobSpec
from scoreline.tasks.job.submit_options import RecordsOptions, SubmitOptions
from scoreline.tasks.job.uris import with_slash
from scoreline.tasks.quality.checks.checks_of import check_text
from scoreline.tasks.quality.gate.decisions import Decided, decide, roll_back
from scoreline.tasks.quality.gate.latest import Latest
from scoreline.tasks.quality.gate.pointer import Pointer
from scoreline.tasks.quality.gate.runs import ListedRun, list_runs
from scoreline.tasks.quality.outcomes.read_outcomes import Outcomes, read_outcomes
from scoreline.tasks.records import submit as records_submit
from scoreline.tasks.records.job import RecordsJob
from scoreline.tasks.webhooks import delivery
from scoreline.tasks.webhooks.notify import Sender
from scoreline.tasks.webhooks.settings import WebhookSettings

if TYPE_CHECKING:
    from scoreline.storage.models.settings import ModelSettings
    from scoreline.storage.tables.options import ReadOptions
    from scoreline.tasks.quality.outcomes.late_labels import AddedOutcomes
    from scoreline.tasks.quality.report.facts import Report
    from scoreline.tasks.quality.results.reading import Results
    from scoreline.tasks.quality.trace.tracer import Trace, Tracer
    from scoreline.tasks.rejects.report import RejectedRows
    from scoreline.tasks.steps.preflight import Preflight


class Querysets(Protocol):
    """Scores the rows of querysets of Django. `scoreline.tasks.django` provides it."""

    def submit(self, client: Client, model: str, queryset: Any, **options: Any) -> str:
        """Submit a job (see `Client.submit_queryset`)."""
        ...

    def load(self, client: Client, job_id: str, rows: Any, **options: Any) -> int:
        """Write results (see `Client.load_results`)."""
        ...


class Client:
    """Submits jobs, follows them, and cancels or resumes them.

    Parameters
    ----------
    buckets : Buckets
        The buckets that contain models, jobs and results.
    queue : MessageQueue
        The queue that carries messages to workers.
    ledger : Ledger
        The ledger, which tracks the progress of jobs.
    webhooks : WebhookSettings, optional
        The settings that say which addresses may be notified when jobs end.
    submitter : str, optional
        The name of the person or program that the client acts for, which the audit records. The name in a block of
        `acting_as` takes precedence. By default, the name is found as `scoreline.storage.audit` says.
    """

    querysets: ClassVar[Querysets | None] = None
    """Scores the rows of querysets, once `scoreline.django` is imported."""

    def __init__(
        self,
        buckets: Buckets,
        queue: MessageQueue,
        ledger: Ledger,
        webhooks: WebhookSettings | None = None,
        submitter: str | None = None,
    ) -> None:
        self.buckets = buckets
        self.queue = queue
        self.ledger = ledger
        self.webhooks = webhooks or WebhookSettings()
        self.send_webhook: Sender = delivery.send
        """Function that delivers the notification of a refused job. No worker sends this notification."""
        self.submission = Submission(buckets, queue, ledger, self.webhooks)
        self.submission.submitter = submitter
        self._statuses = self.submission.statuses
        self._backlog = BacklogReader(buckets.main, ledger)
        self._dispatcher = self.submission.dispatcher
        self.listing = JobListing(buckets.main, self._statuses)
        """Finds jobs by their index."""
        self.verify_keys: tuple[str, ...] = ()
        """The keys that sign trusted models, which `trace` checks."""

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> Client:
        """Make a client from environment variables; raises `InvalidSettings`.

        Parameters
        ----------
        environ : mapping of str to str, optional
            By default, the environment of this process. Inside a `stand_in` block, the default is to return the client
            of the block.
        """
        if environ is None and (instead := stand_in_client()) is not None:
            return instead
        environ = os.environ if environ is None else environ
        connections = Connections(environ)
        webhooks, submitter = WebhookSettings.from_env(environ), Submitter.from_env(environ).who
        made = cls(connections.buckets, connections.queue, connections.ledger, webhooks, submitter)
        made.submission.carries_records = connections.queue_settings.carries_records
        made.verify_keys = connections.model_settings.verify_keys
        return made

    @property
    def registry(self) -> ModelRegistry:
        """The registry of models."""
        return self.submission.registry

    def _acting(self) -> contextlib.AbstractContextManager[None]:
        """Return a block that acts for the client's submitter, unless an outer block names another person."""
        return acting_as(None if is_acting() else self.submission.submitter)

    def submit(self, model: str, input: str | Sequence[str] = (), **options: Unpack[SubmitOptions]) -> Status:
        """Pin the model, record the job, and enqueue it.

        Submitting again with the same `job_id` and the same arguments enqueues the same job again, and creates no
        second job.

        Parameters
        ----------
        model : str
            ``name``, ``name@alias`` or ``name@version``.
        input : str or sequence of str
            ``s3://bucket/key``, ``s3://bucket/prefix/`` or a glob; or several of these. A job with the option `query`
            or `table` has no input.
        **options
            The options of the job (see `SubmitOptions`).

        Raises
        ------
        InvalidRequest (ModelNotFound, InvalidURI, BucketNotAllowed, JobConflict among them)
            Nothing was recorded.
        QueueUnavailable, LedgerUnavailable, StoreUnavailable
            Transient: try again with the same `job_id`.
        """
        spec = self.submission.spec(model, input, options)
        check_text(spec.checks)
        return self.submission.submit(spec, webhook=options.get("webhook"), labels=options.get("labels"))

    def preflight(
        self,
        model: str,
        input: str | Sequence[str] = (),
        *,
        trust: ModelSettings | None = None,
        **options: Unpack[SubmitOptions],
    ) -> Preflight:
        """Try out a job before `submit`: plan it and score a few of its rows in this process.

        A trial writes nothing and sends no message. Redis is asked for the pace of the model in earlier jobs, and need
        not answer. Trials need the packages of ml-requirements.txt.

        Parameters
        ----------
        model, input, **options
            The same arguments as for `submit`.
        trust : ModelSettings, optional
            Decides which models may be loaded; by default, the settings in the environment of this process.

        Raises
        ------
        ScorelineError
            `submit` would raise the same error, or the job would fail with the same error.
        PackageMissing
            A package that a worker needs is not installed.
        """
        with require_extra("trying a job"):
            from scoreline.storage.databases.settings import DatabaseSettings
            from scoreline.storage.models.manager import ModelStorageManager
            from scoreline.storage.models.settings import ModelSettings
            from scoreline.tasks.steps.preflight import preflight
        spec = self.submission.spec(model, input, options)
        self.submission.check(spec, options.get("webhook") or self.submission.webhooks.url)
        check_text(spec.checks)
        main = self.buckets.main
        trust = trust or ModelSettings.from_env(os.environ)
        models = ModelStorageManager(main, cloud_only=True, use_r2=True, settings=trust)  # write no model to a disk
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        pinned = self.registry.resolve(spec.model)
        challenger = self.submission.pin_challenger(spec, pinned)
        job = Job(spec=spec, model=pinned, submitted=now, challenger=challenger)
        try:
            refuse_other_spec(read_job(main, spec.job_id), spec)
        except JobRemoved as error:
            raise JobConflict(f"{describe(error)}. Its id stays taken: choose another id") from None
        except JobNotFound:
            pass
        databases = DatabaseSettings.from_env(os.environ) if spec.reads_database else None
        prices = CostSettings.from_env(os.environ).prices
        return preflight(self.buckets, self.ledger, models, job, prices, databases)

    def submit_records(self, model: str, records: Any, **options: Unpack[RecordsOptions]) -> RecordsJob:
        """Score rows from the application's memory (see `scoreline.tasks.records.submit.submit_records`)."""
        return records_submit.submit_records(self.submission, model, records, **options)

    def submit_queryset(self, model: str, queryset: Any, **options: Any) -> str:
        """Score the rows of a queryset (see `scoreline.tasks.django.querysets.submitting.submit_queryset`)."""
        return self._querysets().submit(self, model, queryset, **options)

    def load_results(self, job_id: str, rows: Any, **options: Any) -> int:
        """Write results into a model of Django (see `scoreline.tasks.django.querysets.loading.load_results`)."""
        return self._querysets().load(self, job_id, rows, **options)

    def _querysets(self) -> Querysets:
        if self.querysets is None:
            raise InvalidRequest("querysets need a project of Django: import scoreline.django first")
        return self.querysets

    def submit_spec(
        self,
        spec: JobSpec,
        *,
        webhook: str | None = None,
        schedule: str | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> Status:
        """Submit a job with a complete spec (see `submit`). A job of a schedule also names its schedule."""
        check_text(spec.checks)
        return self.submission.submit(spec, webhook=webhook, schedule=schedule, labels=labels)

    @property
    def submitter(self) -> str | None:
        """The name of the person or program for whom this client acts; None to let the environment say it."""
        return self.submission.submitter

    @submitter.setter
    def submitter(self, name: str | None) -> None:
        self.submission.submitter = name

    @staticmethod
    def new_job_id() -> str:
        """Make a job id from the current time. An application can store the id before it submits the job."""
        return Submission.new_job_id()

    def default_output(self, model: str) -> str:
        """Return the default output of jobs that score with a model (see `Submission.default_output`)."""
        return self.submission.default_output(model)

    def status(self, job_id: str) -> Status:
        """Return the status of a job; raises `JobNotFound`."""
        return self._statuses.status(job_id)

    def answer(self, status: Status) -> dict[str, Any]:
        """Return the status of a job as a dict that may be sent over the broker (see `StatusReader.answer`)."""
        return self._statuses.answer(status)

    def watch(self, job_id: str, timeout_s: float | None = None) -> Iterator[Status]:
        """Yield the status until the job has ended. Raise `TimeoutError` if the job takes longer than `timeout_s`."""
        return self._statuses.watch(job_id, timeout_s, self.queue.pause)

    def jobs(
        self,
        limit: int | None = None,
        *,
        state: State | Sequence[State] = (),
        model: str = "",
        group: str = "",
        labels: Mapping[str, str] | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
    ) -> Iterator[Status]:
        """Yield the status of jobs.

        Without arguments, the documents of every job are read, and jobs are ordered by job id. Otherwise, jobs are
        found by the index and are ordered by the time of submission, the newest first. The index is a cache:
        ``scoreline reconcile --index`` builds it again. If a document that is read is corrupt, its job is
        reported as failed, and the other jobs are still listed.

        Parameters
        ----------
        limit : int, optional
            Maximum number of jobs. A page costs about one request to the bucket for each job, however many jobs there
            are.
        state : str or sequence of str
            Only jobs in this state, or in one of these states.
        model : str
            Only jobs that score with this model, ``name`` or ``name@version``.
        group : str
            Only jobs of this group.
        labels : mapping of str to str, optional
            Only jobs that have all of these labels.
        since, until : datetime, optional
            Only jobs that were submitted in this period. The times need a time zone.
        """
        chosen = JobFilter(
            states=(state,) if isinstance(state, str) else tuple(state),
            model=model,
            group=group,
            labels=labels or {},
            since=since,
            until=until,
        ).check()
        if limit is None and chosen == JobFilter():
            return self._statuses.jobs()
        return self.listing.jobs(chosen, limit)

    def backlog(self) -> Backlog:
        """Return the work that is left in all jobs under way, by job and by group.

        The number of requests does not depend on the number of jobs that are planned (see
        `scoreline.tasks.backlog.reader`).
        """
        return self._backlog.read()

    def cancel(self, job_id: str) -> Status:
        """End a job now and keep the results written so far. Running parts stop before their next batch of rows.

        A job that has already ended keeps its outcome.

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
            with self._acting():
                audit.record(self.buckets.main, action="job.cancel", target=job_id, details={"run": run.number})
            end_job(self._dispatcher, job_id, outcome)
        return self.status(job_id)

    def resume(self, job_id: str, *, max_rejected: str | int | None = None, deadline: str | None = None) -> Status:
        """Complete a job that failed or was cancelled, with the same model version and inputs.

        If the job has its results, and they could not be loaded into a table, load what is missing.

        Parameters
        ----------
        job_id : str
            The job to resume. Existing results are kept, and only the missing parts are scored.
        max_rejected : str or int, optional
            A new reject budget, in case the job failed because it rejected too many rows.
        deadline : str, optional
            A new deadline: a duration from now, or a time in ISO 8601. By default, a job that is resumed has no
            deadline.

        Raises
        ------
        NothingToResume
            The job is under way, or its results are complete, or a later job of a schedule with `only_new` has scored
            some of its objects.
        JobNotFound, InvalidRequest
            Nothing was changed.
        PlanPending
            Transient: another job of the same schedule is being planned, and may score the same objects.
        """
        self.queue.ping()
        self.ledger.ping()
        with self._acting():
            if self._has_unloaded(job_id) and load_again(self._dispatcher, job_id):
                return self.status(job_id)
        allowed = None if max_rejected is None else str(max_rejected)
        with self._acting():
            begin_run(self._dispatcher, job_id, allowed, deadline, check=self._check_still_new)
        return self.status(job_id)

    def _has_unloaded(self, job_id: str) -> bool:
        """Return whether a job has all its results, and a load of them has ended before all were loaded."""
        return any(load.ended and load.state != "loaded" for load in self.status(job_id).loads)

    def load(
        self,
        job_or_output: str,
        *,
        into: str,
        key: Sequence[str] | None = None,
        columns: Sequence[str] | None = None,
        mode: str | None = None,
        create: bool | None = None,
        database: str | None = None,
        again: bool = False,
        older: bool = False,
    ) -> Status:
        """Ask the workers to load accepted results into a table of a database. Return the status of the job.

        The same call again loads only what is missing. The status has the progress (`Status.loads`).

        Parameters
        ----------
        job_or_output : str
            The id of a job, or the URI of an output, whose latest run is then loaded.
        into : str
            The table, ``schema.table`` or a table in the schema ``public``.
        key : sequence of str, optional
            The columns that identify a row. Only the mode ``append`` needs none.
        columns : sequence of str, optional
            The columns of the results to load, as ``name`` or ``column of the table=name``; by default, all.
        mode : str, optional
            ``upsert`` (the default), ``append`` or ``replace``.
        create : bool, optional
            Whether the table is created if it does not exist.
        database : str, optional
            Name of a database that the workers know; by default, their database of results.
        again : bool
            Load parts again that were loaded before, for example because rows were deleted from the table.
        older : bool
            Replace the values of newer jobs.

        Raises
        ------
        InvalidRequest
            An option is malformed, or the results are not accepted. Whether the table is allowed and fits, only the
            workers find out; the status says so.
        """
        self.queue.ping()
        self.ledger.ping()
        job_id = job_or_output
        if "://" in job_or_output:
            output = with_slash(job_or_output)
            found, _ = Pointer.of(self.buckets, output).read()
            if found is None or found.job_id is None:
                raise InvalidRequest(f"no run of {output} is accepted: `scoreline results {output}` lists its runs")
            job_id = found.job_id
        with self._acting():
            request_load(
                self._dispatcher,
                job_id,
                into=into,
                key=key,
                columns=columns,
                mode=mode,
                create=create,
                database=database,
                again=again,
                older=older,
            )
        return self.status(job_id)

    def _check_still_new(self, job: Job) -> None:
        if (schedule := job.spec.only_new) is not None:
            check_still_new(self.buckets.main, schedule, job.spec.job_id)

    def accept(self, job_id: str, reason: str) -> Decided:
        """Give the results of a job to readers, although its checks or a person block them.

        The job gets its ``_SUCCESS``, and becomes the latest run of its output unless a newer run is the latest. The
        same call again does no harm, and finishes a call that was interrupted.

        Parameters
        ----------
        reason : str
            Why; it is shown with the run, and recorded in the audit.

        Raises
        ------
        JobNotFound
            No job has that id, or its results were removed.
        InvalidRequest
            The job has not ended, its results are not complete, or there is no reason.
        StoreUnavailable
            Transient: try again.
        """
        with self._acting():
            expect_loads(self._dispatcher, job_id)
            decided = decide(self.buckets, job_id, "accepted", reason)
            begin_loads(self._dispatcher, job_id)
            return decided

    def reject(self, job_id: str, reason: str) -> Decided:
        """Withdraw the results of a job from readers.

        If the job is the latest run of its output, the newest accepted run before it becomes the latest. The job stays
        withdrawn until it is accepted. The parameters and errors are those of `accept`.
        """
        with self._acting():
            return decide(self.buckets, job_id, "withdrawn", reason)

    def roll_back(self, output: str, job_id: str | None = None, *, reason: str) -> Latest:
        """Let readers of an output take an earlier run again, until a newer run than the present one is accepted.

        Parameters
        ----------
        output : str
            URI of the output.
        job_id : str, optional
            The run; by default, the newest accepted run before the latest.
        reason : str
            Why; it is recorded in ``latest.json`` and in the audit.

        Raises
        ------
        InvalidRequest
            There is no such run, or it is not accepted, or its results no longer exist.
        """
        with self._acting():
            return roll_back(self.buckets, with_slash(output), job_id, reason)

    def runs(self, output: str) -> list[ListedRun]:
        """Return the runs of an output that were accepted or withdrawn, or are blocked; the newest first."""
        output = with_slash(output)
        document, _ = Pointer.of(self.buckets, output).read()
        blocked = self.listing.jobs(JobFilter(states=("blocked",)))
        return list_runs(self.buckets.main, output, document, blocked)

    def results(self, job_or_output: str) -> Results:
        """Return the rows of an accepted run, to be read batch by batch in order of the input.

        Iterate over the result to get record batches of Arrow. Each file is compared with the digest that the run
        recorded. Memory use does not grow with the number of rows. This method needs pyarrow, which is in
        ml-requirements.txt.

        Parameters
        ----------
        job_or_output : str
            The id of a job, or the URI of an output, whose latest run is then read.

        Raises
        ------
        InvalidRequest
            There is no such job, or it is not accepted, or no run of the output is.
        PackageMissing
            pyarrow is not installed.
        """
        with require_extra("reading results"):
            from scoreline.tasks.quality.results.reading import open_results
        return open_results(self.buckets, job_or_output)

    def add_outcomes(
        self,
        output: str,
        file: str | os.PathLike[str],
        *,
        key: str | Sequence[str],
        target: str,
        time: str | None = None,
        read: ReadOptions | None = None,
    ) -> AddedOutcomes:
        """Add labels that arrived later to an output, and compare its accepted runs with them.

        The same labels may be added again, which changes nothing. Each accepted run that has the key of a label is
        compared with it. The files of all these runs are read. Memory does not grow with their rows. It takes at
        most 200 MiB, and 34 bytes for each label. This method needs the packages of ml-requirements.txt.

        Parameters
        ----------
        output : str
            URI of the output.
        file : str or path
            The labels: a local file, or the URI of an object, a prefix or a glob.
        key : str or sequence of str
            The columns that identify a row, in the file and in the results.
        target : str
            The column with the labels. A row whose label is null is left out.
        time : str, optional
            The column with the time of each label. Of two labels of a key, the one with the later time counts; without
            times, the one that was added last.
        read : ReadOptions, optional
            How to read the file.

        Raises
        ------
        InvalidRequest
            The file, its columns or its values cannot be used, or no accepted run has its keys. Nothing was added.
        PackageMissing
            A package is not installed.
        StoreUnavailable
            Transient: try again.
        """
        with require_extra("adding outcomes"):
            from scoreline.tasks.quality.outcomes.late_labels import add_outcomes
        return add_outcomes(
            self.buckets,
            self.registry,
            with_slash(output),
            os.fspath(file),
            key=[key] if isinstance(key, str) else key,
            target=target,
            time_column=time,
            options=read,
        )

    def outcomes(self, output: str) -> Outcomes | None:
        """Return what labels that arrived later say about the runs of an output; None if no labels were added."""
        pointer = Pointer.of(self.buckets, with_slash(output))
        return read_outcomes(pointer.store, pointer.prefix)

    def trace(self, file: str, row: int, *, show: bool = False) -> Trace:
        """Say where a row of a result file comes from: its input row, its job, its model version, and who accepted it.

        The signature of the model version is checked if this process has MODEL_VERIFY_KEYS. This method needs pyarrow,
        which is in ml-requirements.txt.

        Parameters
        ----------
        file : str
            A file with results or with rejected rows: a URI, or the path of a copy on this computer.
        row : int
            Number of the row in the file, from 0.
        show : bool
            Whether to read the input row, too.

        Raises
        ------
        InvalidRequest
            There is no such file or row, or Scoreline did not write the file.
        ResultsDamaged
            The file contradicts the documents of its job.
        PackageMissing
            pyarrow is not installed.
        """
        return self._tracer().row(file, row, show=show)

    def trace_key(self, target: str, key: Mapping[str, str], *, show: bool = False) -> list[Trace]:
        """Say where the rows with a key come from. At most 20 rows are traced.

        Parameters
        ----------
        target : str
            A result file, the URI of an output or of its ``latest.json``, or the id of a job. An output stands for the
            run that readers take. The rejected rows of a job are searched, too.
        key : mapping of str to str
            Values by column, as text.
        show : bool
            As for `trace`, as are the errors.
        """
        return list(self._tracer().find(target, key, show=show))

    def _tracer(self) -> Tracer:
        with require_extra("tracing a row"):
            from scoreline.storage.tables.formats import Tables
            from scoreline.tasks.quality.trace.tracer import Tracer
            from scoreline.tasks.records.format import RecordsFormat
        registry = ModelRegistry(self.buckets.main, verify_keys=self.verify_keys)
        return Tracer(buckets=self.buckets, registry=registry, tables=Tables(RecordsFormat()))

    def rejected(self, job_id: str, *, examples: int = 3) -> RejectedRows:
        """Report why rows of a job were rejected. While the job is under way, only the completed parts are counted.

        Memory use does not grow with the number of rejected rows. This method needs pyarrow, which is in
        ml-requirements.txt.

        Parameters
        ----------
        job_id : str
            The job that rejected the rows.
        examples : int
            Number of example rows to return for each reason.

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
            plan = PlanFile(self.buckets.main, job_id)
        except ObjectNotFound:  # the job is not planned yet, or planning failed
            return Tally((), 0).report(job_id, state)
        tally = Tally(plan.columns.names, examples)
        count_rejects(ResultsLayout.of(self.buckets, job), plan.sha256, tally)
        return tally.report(job_id, state)

    def report(self, job_id: str, against: str | None = None) -> Report:
        """Return what is known about a job that has ended, as the page of ``scoreline report`` shows it.

        ``to_dict()`` of the result is what ``scoreline report --json`` prints.

        Parameters
        ----------
        against : str, optional
            Id of a job to compare with, or ``baseline``. By default, the job is compared with what its checks compare
            it with.

        Raises
        ------
        JobNotFound
            No job has that id, or its results were removed.
        InvalidRequest
            The job has not ended, or there is nothing as `against` says.
        """
        from scoreline.storage.models.settings import ModelSettings
        from scoreline.tasks.quality.report.collect import report_of

        keys = ModelSettings.from_env(os.environ).verify_keys
        return report_of(self.buckets, job_id, against, verify_keys=keys)

    def resume_rejected(
        self, job_id: str, *, model: str | None = None, max_rejected: str | int | None = None
    ) -> Status:
        """Score only the rejected rows of a job, in a new job that reads the same objects.

        Parameters
        ----------
        job_id : str
            A job that has ended. The results of this job do not change; the new job writes its results beside them.
        model : str, optional
            The model for the new job; by default, the model of the old job. If the old job named an alias, the alias is
            resolved again.
        max_rejected : str or int, optional
            The reject budget of the new job; by default, all rows may be rejected again.

        Returns
        -------
        Status
            The status of the new job, whose id is ``<job_id>-rejected-<n>``. A `job_id` that is too long for this form
            is shortened, and a digest is added. A repeated request returns the same job.

        Raises
        ------
        NothingToResume
            The job is under way, it rejected no rows, or another job is scoring these rows with another model.
        JobNotFound, InvalidRequest
            Nothing was submitted.
        """
        allowed = "100%" if max_rejected is None else str(max_rejected)
        old = read_job(self.buckets.main, job_id)
        model = model or old.spec.model
        pinned = self.registry.resolve(model)
        spec = rejected_again(self._dispatcher, job_id, pinned, model, allowed)
        with self._acting():
            details = {"job": spec.job_id, "model": pinned.ref}
            audit.record(self.buckets.main, action="job.resume-rejected", target=job_id, details=details)
            return self.submit_spec(spec, labels=old.labels)

    def reconcile(self) -> dict[str, str]:
        """Take the next step of every job under way: rebuild a lost ledger, dispatch lost parts again, or finalize.

        Returns
        -------
        dict of str to str
            What was done for each job, by job id.
        """
        self.queue.ping()
        return reconcile(self._dispatcher)

    def rebuild_index(self) -> Rebuilt:
        """Build the index of jobs again from their documents, for `jobs`. Jobs may run meanwhile."""
        return rebuild(self.buckets.main)

    def delete_model(self, pinned: PinnedModel) -> None:
        """Delete a model version permanently; raises `ModelInUse` if an alias or a job under way needs it."""
        with self._acting():
            self.submission.delete_model(pinned)


_stand_ins: list[Client] = []


@contextlib.contextmanager
def stand_in(client: Client) -> Iterator[None]:
    """Replace the client of this process by `client` while the block runs, for example in tests.

    In the block, `client` is the client of all threads. `Client.from_env` without an environment and
    `scoreline.tasks.django.client` return `client`, and the functions of this module use `client`. Blocks may be
    nested; the innermost block applies.
    """
    _stand_ins.append(client)
    try:
        yield
    finally:
        _stand_ins.remove(client)


def stand_in_client() -> Client | None:
    """Return the client of the innermost `stand_in` block; None outside of such blocks."""
    return _stand_ins[-1] if _stand_ins else None


def submit(model: str, input: str | Sequence[str] = (), **options: Unpack[SubmitOptions]) -> Status:
    """Submit a job with the settings of this process (see `Client.submit`)."""
    return Client.from_env().submit(model, input, **options)


def submit_records(model: str, records: Any, **options: Unpack[RecordsOptions]) -> RecordsJob:
    """Score rows from memory with the settings of this process (see `Client.submit_records`)."""
    return Client.from_env().submit_records(model, records, **options)


def status(job_id: str) -> Status:
    """Return the status of a job (see `Client.status`)."""
    return Client.from_env().status(job_id)


def watch(job_id: str, timeout_s: float | None = None) -> Iterator[Status]:
    """Yield the status until the job has ended (see `Client.watch`)."""
    return Client.from_env().watch(job_id, timeout_s)


def cancel(job_id: str) -> Status:
    """End a job now (see `Client.cancel`)."""
    return Client.from_env().cancel(job_id)


def resume_rejected(job_id: str, *, model: str | None = None, max_rejected: str | int | None = None) -> Status:
    """Score the rejected rows of a job in a new job (see `Client.resume_rejected`)."""
    return Client.from_env().resume_rejected(job_id, model=model, max_rejected=max_rejected)


def resume(job_id: str, *, max_rejected: str | int | None = None, deadline: str | None = None) -> Status:
    """Complete a job that failed or was cancelled (see `Client.resume`)."""
    return Client.from_env().resume(job_id, max_rejected=max_rejected, deadline=deadline)
