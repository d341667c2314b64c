"""``scoreline status | watch | jobs | cancel | resume | reconcile``."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from itertools import chain

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from scoreline.tasks.client import Client
from scoreline.tasks.job.documents import Status
from scoreline.worker.cli.idle_hint import SILENT_S, Silence

EXIT_CODES = {"succeeded": 0, "failed": 1, "partial": 3, "cancelled": 4}


@click.command()
@click.argument("job")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def status(job: str, as_json: bool) -> None:
    """Show how far JOB is; the exit code is its outcome, and 0 while it is under way."""
    now = Client.from_env().status(job)
    if as_json:
        click.echo(json.dumps(now.to_dict(), indent=1))
    else:
        _show(now)
    sys.exit(EXIT_CODES.get(now.state, 0))


@click.command()
@click.argument("job")
def watch(job: str) -> None:
    """Show progress of JOB until it has ended; the exit code is its outcome."""
    sys.exit(follow_job(Client.from_env(), job))


@click.command()
@click.argument("job")
def cancel(job: str) -> None:
    """End JOB now. What is written stays; `scoreline resume` goes on from there."""
    client = Client.from_env()
    before = client.status(job)
    if before.ended:
        click.echo(f"{job} has ended before: there is nothing to cancel", err=True)
    _show(client.cancel(job))


@click.command()
@click.argument("job")
@click.option(
    "--max-rejected", metavar="N|P%", help="Rows that may be rejected from now on. [as before; with --rejected all]"
)
@click.option("--rejected", is_flag=True, help="Score the rows that JOB rejected, as a job of its own.")
@click.option("--model", metavar="MODEL", help="With --rejected: what to score with. [what JOB was submitted with]")
@click.option("--watch", "follow", is_flag=True, help="Show progress until the job has ended.")
def resume(job: str, max_rejected: str | None, rejected: bool, model: str | None, follow: bool) -> None:
    """Run what is missing of JOB, which failed or was cancelled.

    What is written stays, and is not scored again. A job keeps the model version and the input objects of its plan: an
    object that was replaced since needs a new job, one that was away may come back.

    With --rejected, score the rows that could not be scored, and these alone, out of the same objects: once the model
    was mended, say. That is a new job, JOB-rejected-1, with results of its own beside those of JOB; its model is looked
    up again.
    """
    client = Client.from_env()
    if model is not None and not rejected:
        raise click.UsageError("--model goes with --rejected: a job that goes on keeps its model")
    if rejected:
        again = client.resume_rejected(job, model=model, max_rejected=max_rejected or "100%")
        click.echo(again.job_id)
        if follow:
            sys.exit(follow_job(client, again.job_id))
        return
    before = client.status(job)
    now = client.resume(job, max_rejected=max_rejected)
    had = f"{before.parts_done} of {before.parts} parts were done" if before.parts else "it had no plan yet"
    click.echo(f"{job}: resumed, {had}; a worker looks at the plan again", err=True)
    if follow:
        sys.exit(follow_job(client, job))
    _show(now)


@click.command()
def reconcile() -> None:
    """Look after all jobs under way, as the clock does every minute.

    Rebuilds the ledger of a job from the bucket where Redis lost it, dispatches parts whose message or worker got lost,
    and finalizes what is complete. Harmless at any moment.
    """
    report = Client.from_env().reconcile()
    for job_id, done in report.items():
        click.echo(f"{job_id}: {done}")
    click.echo(f"jobs under way: {len(report)}", err=True)
    sys.exit(any(done.startswith("failed") for done in report.values()))


@click.command()
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def jobs(as_json: bool) -> None:
    """List all jobs, oldest first."""
    found = sorted(Client.from_env().jobs(), key=lambda job: job.submitted)
    if as_json:
        click.echo(json.dumps([job.to_dict() for job in found], indent=1))
        return
    table = Table(box=None)
    for name in ("job", "submitted", "state", "rows", "rejected", "model"):
        table.add_column(name, no_wrap=name != "model", overflow="fold")
    for job in found:
        rows = (f"{job.rows:,}", f"{job.rejected:,}")
        table.add_row(job.job_id, job.submitted[:16].replace("T", " "), job.state, *rows, job.model)
    console().print(table)


def follow_job(client: Client, job_id: str, silent_s: float = SILENT_S) -> int:
    """Draw progress to the end; returns the exit code.

    Where there is none for `silent_s` seconds, and no worker answers, that is said.
    """
    silence = Silence(lambda timeout_s: client.queue.workers(timeout_s=timeout_s), silent_s)
    try:
        last = _draw(client.watch(job_id), silence)
    except KeyboardInterrupt:
        click.echo(f"{job_id} goes on: scoreline watch {job_id}, or scoreline cancel {job_id}", err=True)
        return 130
    _show(last)
    return EXIT_CODES[last.state]


def console() -> Console:
    """Return a console as wide as the terminal; output that goes elsewhere is not folded."""
    return Console() if sys.stdout.isatty() else Console(width=240)


class _Rate(ProgressColumn):
    """Rows a second."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:,.0f} rows/s")


def _draw(updates: Iterator[Status], silence: Silence) -> Status:
    first = next(updates)  # before there is a bar: the job may not exist
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:,.0f}/{task.total:,.0f} rows"),
        _Rate(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        bar = progress.add_task("submitted", total=0)
        for now in chain([first], updates):
            if hint := silence.hint(now):
                progress.console.print(hint, soft_wrap=True, markup=False, highlight=False)
            progress.update(bar, description=now.state, total=now.total_rows, completed=now.rows + now.rejected)
    return now


def _show(job: Status) -> None:
    click.echo(f"{job.job_id}: {job.state} after {job.seconds:.1f} s")
    click.echo(f"  model    {job.model}")
    if job.state == "submitted":
        click.echo("  parts    not known until a worker has looked at the plan")
    else:
        click.echo(f"  parts    {job.parts_done} of {job.parts}")
        click.echo(f"  rows     {job.rows:,} scored, {job.rejected:,} rejected, of {job.total_rows:,}")
    click.echo(f"  results  {job.output}")
    if job.error:
        click.echo(f"  error    {job.error}")
    for hint in _hints(job):
        click.echo(f"  hint     {hint}")


def _hints(job: Status) -> Iterator[str]:
    """Say what can be done about rows that were rejected, or a job that failed."""
    if job.state not in ("failed", "partial"):
        return
    if job.rejected:
        yield f"scoreline rejected {job.job_id} says why rows were rejected; they are in {job.output}_rejected/"
    if job.reason == "rejected":
        yield f"scoreline resume {job.job_id} --max-rejected N|P% goes on and allows more"
    elif job.state == "failed":
        yield f"scoreline resume {job.job_id} scores what is missing, once the cause is mended"
    else:
        yield f"scoreline resume {job.job_id} --rejected scores them again, once the cause is mended"
