"""``scoreline accept | reject | results``: decides which run readers take, lists runs, and writes results to a file."""

from __future__ import annotations

import json
import sys
from datetime import datetime
from pathlib import Path

import click

from scoreline.storage.errors import require_extra
from scoreline.storage.wording import plural
from scoreline.tasks.client import Client
from scoreline.tasks.job.uris import with_slash
from scoreline.tasks.quality.gate.decisions import Decided
from scoreline.tasks.quality.gate.pointer import Pointer
from scoreline.tasks.quality.gate.runs import ListedRun
from scoreline.worker.cli.help import Command
from scoreline.worker.cli.output import echo, print_table

_NEWEST = ""
"""Value of --rollback without a job."""


@click.command(cls=Command, epilog='scoreline accept nightly-20261125T020000Z --reason "fewer rows: a holiday"\n')
@click.argument("job")
@click.option("--reason", required=True, metavar="TEXT", help="Why; it is shown with the run and in the audit.")
def accept(job: str, reason: str) -> None:
    """Give readers the results of a job that its checks block.

    JOB gets its _SUCCESS, and becomes the latest run of its output unless a newer run is the latest. JOB may also be a
    job that was withdrawn, or that ran before there was a latest.json. The command may be repeated: it does what is
    missing.
    """
    decided = Client.from_env().accept(job, reason)
    echo(f"accepted {job}")
    _show_latest(decided, job)


@click.command(cls=Command, epilog='scoreline reject nightly-20261125T020000Z --reason "ages were too high"\n')
@click.argument("job")
@click.option("--reason", required=True, metavar="TEXT", help="Why; it is shown with the run and in the audit.")
def reject(job: str, reason: str) -> None:
    """Withdraw the results of a job from readers.

    If JOB is the latest run of its output, readers take the newest accepted run before it. JOB loses its _SUCCESS, but
    its results stay, and `scoreline accept JOB` gives them back to readers. The command may be repeated: it does what
    is missing.
    """
    decided = Client.from_env().reject(job, reason)
    echo(f"withdrew {job}")
    _show_latest(decided, job)


def _show_latest(decided: Decided, job_id: str) -> None:
    if not decided.publishes:
        echo("it is no run of an output that has a latest.json, so no other run takes its place", err=True)
    elif decided.latest is None:
        echo("no run of its output is accepted now: readers of latest.json find no files", err=True)
    elif decided.latest == job_id:
        echo(f"{job_id} is now the latest run of its output", err=True)
    else:
        echo(f"the latest run of its output is job {decided.latest}", err=True)


@click.command(
    cls=Command,
    epilog="""\
scoreline results s3://bucket/results/churn/
scoreline results s3://bucket/results/churn/ --to scores.csv
scoreline results s3://bucket/churn/ --rollback --reason "wrong prices"
""",
)
@click.argument("target", metavar="OUTPUT|JOB")
@click.option(
    "--to",
    "path",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write the accepted rows to FILE, in order of the input: .csv, .jsonl, .parquet or .xlsx.",
)
@click.option(
    "--rollback",
    is_flag=False,
    flag_value=_NEWEST,
    default=None,
    metavar="[JOB]",
    help="Let readers take JOB again; without JOB, the newest accepted run before the latest.",
)
@click.option("--reason", metavar="TEXT", help="Why readers take an earlier run. Required with --rollback.")
@click.option(
    "--limit", default=20, show_default=True, type=click.IntRange(min=1), metavar="N", help="Show at most N runs."
)
@click.option("--json", "as_json", is_flag=True, help="Print the runs as JSON.")
def results(
    target: str, path: Path | None, rollback: str | None, reason: str | None, limit: int, as_json: bool
) -> None:
    """List or export the accepted runs of an output.

    OUTPUT is the folder that jobs write to, such as s3://bucket/results/churn/. Its latest.json names the run that
    readers take: the newest run that its checks or a person accepted. The list says who accepted, withdrew or blocked
    each run, and why.

    With --rollback, readers take an earlier run again, until a run is accepted that is newer than all runs so far.

    With --to, the rows of the latest run, or of JOB, are written. Each file of the results is compared with its digest
    first. FILE appears when it is complete. In .csv and .xlsx, texts that begin like a formula (with = + - @, a tab or
    a line break) are made harmless: .csv has an apostrophe in front of them. A worksheet holds 1,048,575 rows. This
    needs the packages of ml-requirements.txt.
    """
    client = Client.from_env()
    if path is not None and rollback is not None:
        raise click.UsageError("--to and --rollback cannot be combined: go back first")
    if rollback is not None and not reason:
        raise click.UsageError("--rollback requires --reason, for those who read the audit later")
    if path is not None:
        _export(client, target, path)
        return
    if "://" not in target:
        what = "is no URI" if "/" in target else "is a job"
        raise click.UsageError(f"{target!r} {what}: name an output, such as s3://bucket/results/churn/, or use --to")
    if rollback is not None:
        _roll_back(client, target, rollback or None, reason or "")
        return
    runs = client.runs(target)
    if as_json:
        click.echo(json.dumps([run.to_dict() for run in runs[:limit]], indent=1))
        return
    _show(client, with_slash(target), runs, limit)


def _export(client: Client, target: str, path: Path) -> None:
    with require_extra("writing results to a file"):
        from scoreline.tasks.quality.results.exports import export
    found = client.results(target)
    rows = export(found, path)
    echo(f"{plural(rows, 'row')} of job {found.job_id} written to {path}", err=True)


def _roll_back(client: Client, output: str, job_id: str | None, reason: str) -> None:
    after = client.roll_back(output, job_id, reason=reason)
    if after.job_id is None:
        echo("no run is accepted: another process has withdrawn it meanwhile", err=True)
        sys.exit(1)
    echo(f"the latest run is now job {after.job_id}")


def _show(client: Client, output: str, runs: list[ListedRun], limit: int) -> None:
    if not runs:
        echo(f"no run of {output} is accepted, withdrawn or blocked{_where(output)}")
        return
    rows = [
        [run.job_id, run.state, f"{run.rows:,}", f"{run.rejected:,}", _day(run.at), run.who] for run in runs[:limit]
    ]
    print_table(["job", "state", "rows", "rejected", "time", "by"], rows, cut=["by", "job"])
    for run in runs[:limit]:
        if run.state != "latest" and run.state != "accepted":
            echo(f"{run.job_id}: {run.state}: {run.reason}", indent=2)
    document, _ = Pointer.of(client.buckets, output).read()
    if document is not None and document.history and document.history[0].action == "rollback":
        last = document.history[0]
        moved = f"from job {last.before} to job {last.after}"
        echo(f"{last.who} went back {moved} on {_day(last.at)} UTC: {last.reason}", indent=2)
    if len(runs) > limit:
        echo(f"older runs than the newest {limit:,} are left out: see --limit", err=True)
    if document is not None and document.older_runs:
        echo(f"{plural(document.older_runs, 'older run')} can be found with `scoreline jobs` and `audit`", err=True)


def _where(output: str) -> str:
    """Return advice for an address that has no runs."""
    folder = output.removesuffix("/").rpartition("/")
    if folder[2].startswith("job_id="):
        return f": this is the folder of one job, so name the output, {folder[0]}/"
    return ": `scoreline jobs` lists jobs, and `scoreline status JOB` shows in which output its results are"


def _day(moment: str) -> str:
    return f"{datetime.fromisoformat(moment):%Y-%m-%d %H:%M}"
