"""``scoreline submit | status | watch | jobs | cancel | resume | reconcile``."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from storage.models.manifest import METHODS
from tasks.client import Client
from tasks.spec import Status

EXIT_CODES = {"succeeded": 0, "failed": 1, "partial": 3, "cancelled": 4}


@click.command()
@click.argument("model")
@click.argument("input")
@click.option("--output", metavar="URI", help="Prefix of the results, s3://bucket/prefix/. [results/<model>/]")
@click.option("--method", type=click.Choice(METHODS), help="Only this method. [what is usual for the estimator]")
@click.option("--keep", default="all", show_default=True, metavar="all|none|A,B", help="Input columns to carry over.")
@click.option("--features", metavar="A,B", help="Columns to score, for a model fitted without column names.")
@click.option("--job-id", metavar="ID", help="The same id twice is one job. [made from the time]")
@click.option("--max-rejected", default="1%", show_default=True, metavar="N|P%", help="Rows that may be rejected.")
@click.option("--part-rows", type=click.IntRange(1), metavar="N",
              help="Rows that a part aims at; at least a row group. [131072]")  # fmt: skip
@click.option("--max-attempts", type=click.IntRange(1), default=3, show_default=True, metavar="N",
              help="Times a part is begun before it fails, where its process dies each time.")  # fmt: skip
@click.option("--webhook", metavar="URL", help="Tell this address how the job ended. [WEBHOOK_URL]")
@click.option("--watch", "follow", is_flag=True, help="Show progress until the job has ended.")
def submit(
    model: str, input: str, output: str | None, method: str | None, keep: str, features: str | None,
    job_id: str | None, max_rejected: str, part_rows: int | None, max_attempts: int, webhook: str | None,
    follow: bool,
) -> None:  # fmt: skip
    """Score INPUT with MODEL.

    MODEL is name, name@alias or name@version. INPUT is s3://bucket/key, s3://bucket/prefix/ or a quoted glob.
    """
    client = Client.from_env()
    job = client.submit(
        model, input, output=output, method=method, keep=keep, job_id=job_id, max_rejected=max_rejected,
        part_rows=part_rows, max_attempts=max_attempts, webhook=webhook,
        features=[name.strip() for name in features.split(",")] if features else None,
    )  # fmt: skip
    click.echo(job.job_id)
    if follow:
        sys.exit(follow_job(client, job.job_id))


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
@click.option("--max-rejected", metavar="N|P%", help="Rows that may be rejected from now on. [as before]")
@click.option("--watch", "follow", is_flag=True, help="Show progress until the job has ended.")
def resume(job: str, max_rejected: str | None, follow: bool) -> None:
    """Run what is missing of JOB, which failed or was cancelled.

    What is written stays, and is not scored again. A job keeps the model version and the input objects of its plan: an
    object that was replaced since needs a new job, one that was away may come back.
    """
    client = Client.from_env()
    before = client.status(job)
    now = client.resume(job, max_rejected=max_rejected)
    click.echo(f"{job}: resumed, {before.parts_done} of {before.parts} parts are done", err=True)
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


def follow_job(client: Client, job_id: str) -> int:
    """Draw progress to the end; returns the exit code."""
    try:
        last = _draw(client.watch(job_id))
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


def _draw(updates: Iterator[Status]) -> Status:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:,.0f}/{task.total:,.0f} rows"),
        _Rate(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        bar = progress.add_task("submitted", total=0)
        for now in updates:
            progress.update(bar, description=now.state, total=now.total_rows, completed=now.rows + now.rejected)
    return now


def _show(job: Status) -> None:
    click.echo(f"{job.job_id}: {job.state} after {job.seconds:.1f} s")
    click.echo(f"  model    {job.model}")
    click.echo(f"  parts    {job.parts_done} of {job.parts}")
    click.echo(f"  rows     {job.rows:,} scored, {job.rejected:,} rejected, of {job.total_rows:,}")
    click.echo(f"  results  {job.output}")
    if job.error:
        click.echo(f"  error    {job.error}")
