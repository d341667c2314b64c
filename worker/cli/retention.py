"""``scoreline gc``: removes results that are no longer kept."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable

import click

from scoreline.storage.wording import plural
from scoreline.tasks.dispatch.connections import Connections
from scoreline.tasks.job.tombstone import Tombstone
from scoreline.tasks.retention import rounds
from scoreline.tasks.retention.policies import Policies, read_policies
from scoreline.tasks.retention.removal import Kept
from scoreline.tasks.retention.rounds import Report
from scoreline.tasks.retention.settings import RetentionSettings
from scoreline.worker.cli.help import Command
from scoreline.worker.cli.output import echo, echo_field, print_table

_SHOWN = 20
"""Maximum number of jobs that are listed one by one."""


@click.command(
    cls=Command,
    epilog="""\
scoreline gc --dry-run
RESULTS_KEEP=90d scoreline gc --dry-run
""",
)
@click.option("--dry-run", is_flag=True, help="Show what would be removed and what stays, and remove nothing.")
def gc(dry_run: bool) -> None:
    """Remove results that are no longer kept.

    How long results are kept is set by `results_keep` of a schedule (see `scoreline schedule`), and by RESULTS_KEEP for
    all other jobs: a number of days such as 90d, or a number of runs such as 30. Without either, results are kept
    forever.

    Never removed are jobs under way, failed jobs that can still be resumed, and jobs that latest.json of their output
    names. A removed job leaves a tombstone, which `scoreline status JOB` shows, and its id stays taken.

    If beat runs, a worker does the same once a day. This command may be interrupted, and run again, at any time. The
    exit code is 1 if a job could not be removed because of an error.
    """
    buckets = Connections(os.environ).buckets
    policies = read_policies(buckets.main, RetentionSettings.from_env(os.environ).results_keep)
    _echo_policies(policies)
    report = rounds.preview(buckets, policies) if dry_run else rounds.collect(buckets, policies)
    _echo_report(report, "would be removed" if dry_run else "removed")
    sys.exit(bool(report.failed))


def show_tombstone(found: Tombstone) -> None:
    """Print what is known about a removed job."""
    echo(f"{found.job_id}: removed on {found.at[:16].replace('T', ' ')} UTC")
    echo_field("why", found.why)
    echo_field("before", f"{found.state}, {plural(found.rows, 'row')} scored, {found.rejected:,} rejected")
    echo_field("model", found.model)
    echo_field("results", f"were in {found.output}job_id={found.job_id}/")
    echo_field("removed", f"{plural(found.objects, 'object')}, {found.size:,} bytes")
    if found.manifest_sha256:
        echo_field("manifest", found.manifest_sha256)
    echo_field("hint", "the id stays taken: submit the job under another id to have its results again")


def _echo_policies(policies: Policies) -> None:
    for name, keep in policies.schedules.items():
        if keep is not None:
            echo(f"schedule {name} keeps its results for {keep}", err=True)
    others = f"for {policies.default}" if policies.default is not None else "forever"
    echo(f"all other results are kept {others} (RESULTS_KEEP)", err=True)
    if not policies.complete:
        echo(
            "not all schedules are known, because no tick has read them or they have a fault: the jobs of other "
            "schedules are kept",
            err=True,
        )


def _echo_report(report: Report, verb: str) -> None:
    removed = sorted((item.tombstone for item in report.removed), key=lambda item: (item.submitted, item.job_id))
    if removed:
        rows = [(item.job_id, item.state, f"{item.objects:,}", f"{item.size:,}", item.why) for item in removed[:_SHOWN]]
        print_table(("job", "state", "objects", "bytes", "why"), rows, cut=["job"], wrapped=["why"])
        if len(removed) > _SHOWN:
            echo(f"and {plural(len(removed) - _SHOWN, 'other job')}")
    objects, size = rounds.total(report.removed)
    echo(f"{verb}: {plural(len(removed), 'job')}, {plural(objects, 'object')}, {size:,} bytes")
    _echo_jobs("kept although due", report.kept)
    for reason, count in report.young.most_common():
        echo(f"kept: {plural(count, 'job')} ({reason})", indent=6)
    _echo_jobs("not removed because of an error", report.failed)


def _echo_jobs(what: str, jobs: Iterable[Kept]) -> None:
    found = sorted(jobs, key=lambda item: item.job_id)
    if found:
        echo(f"{what}: {plural(len(found), 'job')}")
    for item in found[:_SHOWN]:
        echo(f"  {item.job_id}: {item.why}", indent=4)
    if len(found) > _SHOWN:
        echo(f"  and {len(found) - _SHOWN:,} others")
