"""``scoreline status | watch | jobs | cancel | resume | reconcile``: follows, cancels and resumes jobs."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from typing import get_args

import click

from scoreline.storage.errors import JobNotFound, JobRemoved, LedgerError, ScorelineError
from scoreline.storage.objects.requests import Requests
from scoreline.storage.wording import plural
from scoreline.tasks.alerts.settings import AlertSettings
from scoreline.tasks.backlog.prices import Prices
from scoreline.tasks.backlog.settings import CostSettings
from scoreline.tasks.client import Client
from scoreline.tasks.job.documents import State, Status, read_tombstone
from scoreline.worker.cli.help import Command
from scoreline.worker.cli.job_options import label_option
from scoreline.worker.cli.moments import Moment
from scoreline.worker.cli.output import echo, echo_field, echo_json, print_table
from scoreline.worker.cli.progress import EXIT_CODES, fail_unknown, follow_job, show_status
from scoreline.worker.cli.retention import show_tombstone


@click.command(
    cls=Command,
    epilog="""\
scoreline status nightly-20261125T020000Z
scoreline status nightly-20261125T020000Z --json
""",
)
@click.argument("job")
@click.option("--json", "as_json", is_flag=True, help="Print the status as JSON.")
def status(job: str, as_json: bool) -> None:
    """Show the status of a job.

    Prints how many parts and rows of JOB are done, how much time is left by the pace of earlier jobs, the location of
    its results, and what to do if it failed. Once JOB has its results, also prints how much work and how many requests
    it took, and their costs if PRICES_FILE is set. If the results of JOB were removed (see `scoreline gc`), prints when
    and why. JOB is the job id that `scoreline submit` has printed.

    \b
    Exit codes:
      0  succeeded, or still under way
      1  failed
      3  partial: some rows were rejected
      4  cancelled
      5  blocked: its results are not accepted
      6  not known, because Redis or the bucket does not answer
    """
    prices = CostSettings.from_env(os.environ).prices
    try:
        client = Client.from_env()
        now = client.status(job)
    except JobRemoved:
        sys.exit(_show_removed(client, job, as_json=as_json))
    except ScorelineError as error:
        sys.exit(fail_unknown(job, error))
    costs = {} if prices is None or not now.class_a else _costs(client, now, prices)
    if as_json:
        money = {"costs": costs, "currency": prices.currency} if prices is not None and costs else {}
        click.echo(json.dumps(now.to_dict() | money, indent=1))
    else:
        show_status(now)
        if prices is not None and costs:
            echo_field("costs", prices.in_words(costs))
    sys.exit(EXIT_CODES.get(now.state, 0))


def _show_removed(client: Client, job_id: str, *, as_json: bool) -> int:
    """Show a removed job, and return the exit code for the state in which it had ended."""
    found = read_tombstone(client.buckets.main, job_id)
    if found is None:
        raise JobNotFound(f"no job {job_id!r} in bucket {client.buckets.main.bucket!r}")
    if as_json:
        echo_json({"removed": asdict(found)})
    else:
        show_tombstone(found)
    return EXIT_CODES.get(found.state, 0)


def _costs(client: Client, job: Status, prices: Prices) -> Mapping[str, float]:
    """Return what a job has cost, by kind."""
    size = 1
    with contextlib.suppress(LedgerError):
        size = client.ledger.worker_size() or 1
    return prices.of(job.work_s, Requests(class_a=job.class_a, class_b=job.class_b), job.result_bytes, size)


@click.command(cls=Command, epilog="scoreline watch nightly-20261125T020000Z\n")
@click.argument("job")
def watch(job: str) -> None:
    """Show the progress of a job and its loads until they end.

    Ctrl-C ends this command, but not JOB. If Redis or the bucket does not answer, this command retries for two minutes.

    \b
    Exit codes:
      0    succeeded
      1    failed, or its results could not be loaded
      3    partial: some rows were rejected, or refused by the table
      4    cancelled
      5    blocked: its results are not accepted
      6    not known, because Redis or the bucket does not answer
      130  interrupted with Ctrl-C
    """
    sys.exit(follow_job(Client.from_env(), job))


@click.command(cls=Command, epilog="scoreline cancel nightly-20261125T020000Z\n")
@click.argument("job")
def cancel(job: str) -> None:
    """Cancel a job.

    Running parts stop before their next batch of rows. Existing results are kept, and `scoreline resume JOB` scores the
    rest. If JOB has already ended, nothing changes.
    """
    client = Client.from_env()
    client.submission.dispatcher.alerts = AlertSettings.events_from(os.environ)
    before = client.status(job)
    if before.ended:
        echo(f"{job} has already ended, so there is nothing to cancel", err=True)
    show_status(client.cancel(job))


@click.command(
    cls=Command,
    epilog="""\
scoreline resume nightly-20261125T020000Z --watch
scoreline resume nightly-20261125T020000Z --max-rejected 5%
scoreline resume nightly-20261125T020000Z --rejected --model churn@champion
""",
)
@click.argument("job")
@click.option(
    "--max-rejected",
    metavar="N|P%",
    help="Fail if more rows than this are rejected: a count, or a percentage of all rows.  [default: as before; with "
    "--rejected, 100%]",
)
@click.option(
    "--rejected", is_flag=True, help="Score only the rows that JOB rejected, as a new job named JOB-rejected-1."
)
@click.option(
    "--model",
    metavar="MODEL",
    help="With --rejected, score with this model: NAME, NAME@ALIAS or NAME@VERSION.  [default: the model that JOB was "
    "submitted with]",
)
@click.option(
    "--deadline",
    metavar="DURATION|TIME",
    help="End the job as failed if it takes until this time: a duration from now, or a time in ISO 8601 with its zone."
    "  [default: none, even if JOB had a deadline]",
)
@click.option("--watch", "follow", is_flag=True, help="Show the progress until the job ends, as `scoreline watch`.")
def resume(
    job: str, max_rejected: str | None, rejected: bool, model: str | None, deadline: str | None, follow: bool
) -> None:
    """Run the missing parts of a job that failed or was cancelled.

    Existing results are kept, and only the missing parts are scored. JOB keeps its model version and its input objects.
    If an input object was replaced, submit a new job and do not resume JOB.

    With --rejected, score only the rejected rows in a new job, for example after correcting the model. The rows are
    read from the same objects, so malformed rows are rejected again. For malformed rows, correct the file and submit a
    new job. The results of the new job are stored beside the results of JOB. The alias of the model is resolved again.

    With --watch, the exit codes are those of `scoreline watch`.
    """
    client = Client.from_env()
    if model is not None and not rejected:
        raise click.UsageError("--model requires --rejected, because a job that is resumed keeps its model")
    if deadline is not None and rejected:
        raise click.UsageError(
            "--deadline and --rejected cannot be combined, because a new job scores the rejected rows"
        )
    if rejected:
        again = client.resume_rejected(job, model=model, max_rejected=max_rejected or "100%")
        click.echo(again.job_id)
        if again.ended:
            left = f": `scoreline resume {again.job_id} --rejected` scores what it rejected" if again.rejected else ""
            echo(f"{again.job_id} has scored these rows with this model already{left}", err=True)
        if follow:
            sys.exit(follow_job(client, again.job_id))
        return
    before = client.status(job)
    now = client.resume(job, max_rejected=max_rejected, deadline=deadline)
    done = (
        f"with {before.parts_done} of {plural(before.parts, 'part')} done" if before.parts else "which had no plan yet"
    )
    echo(f"resumed {job}, {done}", err=True)
    if follow:
        sys.exit(follow_job(client, job))
    show_status(now)


@click.command(
    cls=Command,
    epilog="""\
scoreline reconcile
scoreline reconcile --index
""",
)
@click.option("--index", is_flag=True, help="Also build the index of jobs again, which `scoreline jobs` reads.")
def reconcile(index: bool) -> None:
    """Repair jobs that lost a message, a worker or their ledger.

    Checks each job under way. Rebuilds a lost ledger from the bucket, dispatches lost parts again, and finalizes jobs
    whose parts are all done. Beat requests such a repair every minute. This command can be run safely at any time.

    With --index, also compares the index with the documents of every job, and writes what is missing or out of date.

    The exit code is 1 if a job could not be reconciled.
    """
    client = Client.from_env()
    report = client.reconcile()
    for job_id, done in report.items():
        echo(f"{job_id}: {done}", indent=2)
    click.echo(f"jobs under way: {len(report)}", err=True)
    if index:
        built = client.rebuild_index()
        echo(f"jobs in the index: {built.jobs:,}, {built.written:,} of them written anew", err=True)
    sys.exit(any(done.startswith("failed") for done in report.values()))


@click.command(
    cls=Command,
    epilog="""\
scoreline jobs
scoreline jobs --state failed --since 7d
scoreline jobs --model churn --label team=risk --limit 500 --json
""",
)
@click.option(
    "--state",
    "states",
    multiple=True,
    type=click.Choice(get_args(State)),
    help="Show jobs in this state. May be repeated.",
)
@click.option("--model", default="", metavar="MODEL", help="Show jobs that score with NAME or NAME@VERSION.")
@click.option("--group", default="", metavar="NAME", help="Show jobs of this group.")
@label_option("--label", "labels", "Show jobs with this label. May be repeated.")
@click.option("--since", type=Moment(), metavar="TIME", help="Show jobs that were submitted from this time on.")
@click.option("--until", type=Moment(end=True), metavar="TIME", help="Show jobs that were submitted up to this time.")
@click.option(
    "--limit", default=50, show_default=True, type=click.IntRange(min=1), metavar="N", help="Show at most N jobs."
)
@click.option("--json", "as_json", is_flag=True, help="Print the jobs as JSON.")
def jobs(
    states: tuple[State, ...],
    model: str,
    group: str,
    labels: dict[str, str] | None,
    since: datetime | None,
    until: datetime | None,
    limit: int,
    as_json: bool,
) -> None:
    """List the latest jobs, newest first.

    The age is the time since a job was submitted, in seconds, minutes, hours or days. For a running job, the table also
    shows how much time is left if all processes work on this job, according to the pace of earlier jobs with the same
    model version. A listing takes about one request to the bucket for each job that it shows, however many jobs there
    are.

    TIME is in ISO 8601, in UTC unless it has an offset; a date, such as 2026-11-25, includes the whole day. Or TIME is
    a duration before now: 30m, 12h, 7d.
    """
    client = Client.from_env()
    listed = list(
        client.jobs(limit + 1, state=states, model=model, group=group, labels=labels, since=since, until=until)
    )
    found = sorted(listed[:limit], key=lambda job: job.submitted, reverse=True)
    if len(listed) > limit:
        echo(f"older jobs than the latest {limit:,} are left out: see --limit", err=True)
    if client.listing.without_index:
        echo(
            "jobs were found without the index, because it lacks some of them: see `scoreline reconcile --index`",
            err=True,
        )
    if as_json:
        click.echo(json.dumps([job.to_dict() for job in found], indent=1))
        return
    now = datetime.now(UTC)
    headings = ["job", "state", "rows", "rejected", "age", "left", "model"]
    rows = [
        [job.job_id, job.state, f"{job.rows:,}", f"{job.rejected:,}", age(job, now), left(job), job.model]
        for job in found
    ]
    if not any(map(left, found)):
        place = headings.index("left")
        headings, *rows = [[*row[:place], *row[place + 1 :]] for row in (headings, *rows)]
    print_table(headings, rows, cut=["model", "job"])
    unreadable = [job for job in found if not job.model]
    for job in unreadable:
        echo(f"{job.job_id}: {job.error}", indent=2, err=True)
    if unreadable:
        echo(f"{plural(len(unreadable), 'job')} cannot be read", err=True)


def age(job: Status, now: datetime) -> str:
    """Return the time since a job was submitted, in the largest suitable unit. Return an empty text if unknown."""
    if not job.submitted:
        return ""
    return _short(max(0.0, (now - datetime.fromisoformat(job.submitted)).total_seconds()))


def left(job: Status) -> str:
    """Return how long the rest of a running job takes. Return an empty text if that is unknown."""
    return "" if job.left_s is None else _short(job.left_s)


def _short(seconds: float) -> str:
    for unit, length in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if seconds >= length:
            return f"{seconds // length:.0f}{unit}"
    return f"{seconds:.0f}s"
