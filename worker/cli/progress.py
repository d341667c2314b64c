"""Shows the status of a job, and its progress until it ends."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from itertools import chain

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from scoreline.storage.errors import InvalidRequest, InvalidSettings, ScorelineError
from scoreline.storage.wording import cut, plural, printable
from scoreline.tasks.backlog.time_left import duration
from scoreline.tasks.client import Client
from scoreline.tasks.job.documents import COMPLETE, Status
from scoreline.tasks.job.loads import LoadStatus
from scoreline.worker.cli.explain import explain
from scoreline.worker.cli.idle_hint import IDLE_S, IdleHint
from scoreline.worker.cli.output import echo, echo_field

EXIT_CODES = {"succeeded": 0, "failed": 1, "partial": 3, "cancelled": 4, "blocked": 5}
UNKNOWN = 6
"""Exit code if the outcome of the job is unknown. Exit code 1 would mean that the job failed."""
OUTAGE_S = 120.0
"""Seconds to wait during an outage of Redis or of the bucket. A failover takes about a minute."""
_BAR_COLUMNS = 20
_TABLE_COLUMNS = 36
_FINDINGS_SHOWN = 10
_RETRY_S = 1.0
_LONGEST_POLL_S = 2.0


def follow_job(client: Client, job_id: str, idle_s: float = IDLE_S, outage_s: float = OUTAGE_S) -> int:
    """Show the progress of a job until it and the loads of its results end, and return the exit code.

    If a service cannot be reached, this function waits for the service. The job itself continues.

    Parameters
    ----------
    client : Client
        The client, which reads the status of the job.
    job_id : str
        The job to follow.
    idle_s : float
        Seconds without progress after which workers are queried. If no worker answers, a hint is printed.
    outage_s : float
        Seconds without an answer after which the outcome counts as unknown.

    Raises
    ------
    InvalidRequest, InvalidSettings
        The job id is invalid or unknown, or the settings are invalid.
    """
    idle_hint = IdleHint(lambda timeout_s: client.queue.workers(timeout_s=timeout_s), idle_s)
    try:
        last = _draw(_reconnecting(lambda: client.watch(job_id), job_id, outage_s), idle_hint)
        if _loads_left(last):
            last = _draw_loads(_reconnecting(lambda: watch_loads(client, job_id), job_id, outage_s), idle_hint)
    except KeyboardInterrupt:
        echo(f"{job_id} goes on: use `scoreline watch {job_id}` or `scoreline cancel {job_id}`", err=True)
        return 130
    except ScorelineError as error:
        return fail_unknown(job_id, error)
    show_status(last)
    return _exit_code(last)


def _exit_code(job: Status) -> int:
    """Return the exit code of a job that has ended: rows that a table refuses count as rejected."""
    loads = job.loads if job.state in COMPLETE else ()
    if any(load.state != "loaded" for load in loads):
        return EXIT_CODES["failed"]
    return EXIT_CODES["partial" if any(load.set_aside for load in loads) else job.state]


def watch_loads(client: Client, job_id: str, load_id: str = "") -> Iterator[Status]:
    """Yield the status of a job until its loads, or only one of them, have ended, or a person withdraws its results."""
    pause_s = 0.05
    while True:
        yield (now := client.status(job_id))
        if not _loads_left(now, load_id):
            return
        time.sleep(pause_s)
        pause_s = min(_LONGEST_POLL_S, 1.2 * pause_s)


def _loads_left(job: Status, load_id: str = "") -> bool:
    return job.state in COMPLETE and not all(load.ended for load in job.loads if load_id in ("", load.load_id))


def fail_unknown(job_id: str, error: ScorelineError) -> int:
    """Print why the state of a job is unknown, and return the exit code. Raise errors that the user caused."""
    if isinstance(error, InvalidRequest | InvalidSettings):
        raise error
    echo(f"error: {explain(error)}", err=True)
    echo(f"the state of {job_id} is not known: ask again with `scoreline watch {job_id}`", err=True)
    return UNKNOWN


def _reconnecting(watch: Callable[[], Iterator[Status]], job_id: str, outage_s: float) -> Iterator[Status]:
    """Yield what `watch` yields. If a service does not answer, retry for up to `outage_s` seconds."""
    since: float | None = None
    while True:
        try:
            for now in watch():
                since = None
                yield now
            return
        except ScorelineError as error:
            if not error.transient:
                raise
            if since is None:
                since = time.monotonic()
                echo(f"{explain(error).rstrip('.')}; asking again for {outage_s:.0f} s, and {job_id} goes on", err=True)
            if time.monotonic() - since >= outage_s:
                raise
            time.sleep(_RETRY_S)


class _RowsPerSecond(ProgressColumn):
    """The column of the progress bar that shows rows per second."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:,.0f} rows/s")


def _draw(updates: Iterator[Status], idle_hint: IdleHint) -> Status:
    first = next(updates)  # read before the bar is drawn: the job may not exist
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(_BAR_COLUMNS),
        TextColumn("{task.completed:,.0f}/{task.total:,.0f} rows"),
        _RowsPerSecond(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        bar = progress.add_task("submitted", total=0)
        for now in chain([first], updates):
            _show_hint(progress.console, idle_hint.update(now))
            progress.update(bar, description=now.state, total=now.total_rows, completed=now.rows + now.rejected)
    return now


def _draw_loads(updates: Iterator[Status], idle_hint: IdleHint) -> Status:
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(_BAR_COLUMNS),
        TextColumn("{task.completed:,.0f}/{task.total:,.0f} rows"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        bars: dict[str, TaskID] = {}
        for now in updates:
            for load in now.loads:
                if load.load_id not in bars:
                    bars[load.load_id] = progress.add_task("waiting", total=now.rows)
                words = cut(f"{load.state} into {printable(load.table)}", _TABLE_COLUMNS)
                progress.update(bars[load.load_id], description=words, completed=load.rows + load.set_aside)
                if not load.ended:
                    _show_hint(progress.console, idle_hint.update(load))
    return now


def _show_hint(console: Console, hint: str | None) -> None:
    if hint:
        console.print(printable(hint), soft_wrap=not console.is_terminal, markup=False, highlight=False)


def show_status(job: Status) -> None:
    """Print the status of a job, and hints if it failed or rejected rows."""
    echo(f"{job.job_id}: {job.state} after {job.seconds:,.1f} s")
    echo_field("model", job.model)
    if job.challenger:
        echo_field("compared", f"with {job.challenger}, the challenger, on the same rows")
    if job.state == "submitted":
        echo_field("parts", "not known until a worker has planned the job")
    else:
        echo_field("parts", f"{job.parts_done} of {job.parts}")
        echo_field("rows", f"{job.rows:,} scored, {job.rejected:,} rejected, of {job.total_rows:,}")
    if job.carried is not None:
        echo_field("carried", f"{plural(job.carried, 'row')} with the scores of the accepted run")
    if job.not_carried:
        echo_field("scored", f"more rows than have changed: {job.not_carried}")
    if job.state == "running":
        echo_field("left", _left(job))
    if job.class_a:
        requests = f"{plural(job.class_a, 'request')} that wrote or listed, {job.class_b:,} that read"
        echo_field("work", f"{duration(job.work_s)} of one process; {requests}")
    echo_field("results", job.output)
    if job.labels:
        echo_field("labels", ", ".join(f"{name}={value}" for name, value in job.labels.items()))
    if job.submitter is not None:
        at = job.submitted[:19].replace("T", " ")
        echo_field("by", f"{job.submitter.who} ({job.submitter.where}), submitted {at} UTC")
    if job.error:
        echo_field("error", job.error)
    _show_checks(job)
    _show_loads(job)
    for hint in _hints(job):
        echo_field("hint", hint)


def _show_checks(job: Status) -> None:
    """Print what the checks found, and what a person decided."""
    if job.checks is None:
        return
    for finding in job.checks.findings[:_FINDINGS_SHOWN]:
        echo_field("blocks" if finding.level == "block" else "warning", f"{finding.check}: {finding.message}")
    if (left := len(job.checks.findings) - _FINDINGS_SHOWN) > 0:
        echo_field("", f"… and {plural(left, 'more finding')}; use --json to see all")
    if (review := job.checks.review) is not None:
        at = review.at[:16].replace("T", " ")
        echo_field("decision", f"{review.decision} by {review.who} on {at} UTC: {review.reason}")


def _show_loads(job: Status) -> None:
    """Print how far the results are loaded into tables of databases."""
    for load in job.loads:
        echo_field("load", load_in_words(load))
        if load.error:
            echo_field("", load.error)


def load_in_words(load: LoadStatus) -> str:
    """Return how far a load is, in one line."""
    parts = f"{load.parts_done:,} of {plural(load.parts, 'part')}, " if load.parts else ""
    aside = f", {load.set_aside:,} set aside" if load.set_aside else ""
    return f"{load.state}: {parts}{plural(load.rows, 'row')}{aside}, into {load.table} ({load.mode})"


def _left(job: Status) -> str:
    """Return how long the rest of a running job takes, according to the pace of earlier jobs."""
    if job.work_left_s is None:
        return "not known, because no job has recorded the pace of this model yet"
    work = f"{duration(job.work_left_s)} of work"
    if job.left_s is None:
        return f"{work} for one process; no worker has reported its processes"
    return f"{work}: {duration(job.left_s)} with {plural(job.processes, 'process')}, unless other jobs run"


def _hints(job: Status) -> Iterator[str]:
    """Yield hints on what to do about rejected rows or a failed job."""
    if job.state == "blocked":
        if job.checks is None or job.checks.review is None:
            yield f"scoreline accept {job.job_id} --reason TEXT gives the results to readers all the same"
            yield f"scoreline reject {job.job_id} --reason TEXT records that readers do not get the results"
        else:
            yield f"scoreline accept {job.job_id} --reason TEXT gives the results back to readers"
        return
    if any(load.state == "failed" for load in job.loads):
        yield f"scoreline resume {job.job_id} loads what is missing, once the cause is fixed"
    if job.state not in ("failed", "partial"):
        return
    if job.rejected:
        yield f"scoreline rejected {job.job_id} says why rows were rejected; _rejected/ of the results contains them"
    if job.reason == "rejected":
        yield f"scoreline resume {job.job_id} --max-rejected N|P% goes on and allows more rejected rows"
    elif job.reason == "request":
        yield "submit a new job with corrected options or a corrected input: this one has no results to complete"
    elif job.state == "failed":
        yield f"scoreline resume {job.job_id} scores what is missing, once the cause is fixed"
    else:
        yield f"scoreline resume {job.job_id} --rejected scores them again with a corrected model"
