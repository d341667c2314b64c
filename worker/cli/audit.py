"""``scoreline audit``: shows who has changed what."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import click

from scoreline.tasks.audit.reading import AuditFilter, read_audit
from scoreline.tasks.client import Client
from scoreline.worker.cli.help import Command
from scoreline.worker.cli.moments import Moment
from scoreline.worker.cli.output import echo, echo_json


@click.command(
    cls=Command,
    epilog="""\
scoreline audit
scoreline audit --target churn@champion --since 7d
scoreline audit --action job --who alice --json
""",
)
@click.option("--since", type=Moment(), metavar="TIME", help="Show lines from this time on.")
@click.option("--until", type=Moment(end=True), metavar="TIME", help="Show lines up to this time.")
@click.option("--action", default="", metavar="ACTION", help="Show only this action, or all of a kind, such as job.")
@click.option("--target", default="", metavar="NAME", help="Show changes of this job, alias, version or schedule.")
@click.option("--who", default="", metavar="NAME", help="Show changes that this person made.")
@click.option(
    "--limit", default=20, show_default=True, type=click.IntRange(min=1), metavar="N", help="Show at most N lines."
)
@click.option("--json", "as_json", is_flag=True, help="Print the lines as JSON.")
def audit(
    since: datetime | None, until: datetime | None, action: str, target: str, who: str, limit: int, as_json: bool
) -> None:
    """Show who has changed what, the newest changes first.

    The audit has a line for each change that a person has made to a job, a model, an alias or a schedule. A line is
    written before the change, so it says what was about to be done. Submitted jobs are in `scoreline jobs`.

    TIME is in ISO 8601, in UTC unless it has an offset; a date, such as 2026-11-25, includes the whole day. Or TIME is
    a duration before now: 30m, 12h, 7d.

    \b
    Actions:
      job.cancel  job.resume  job.resume-rejected  job.remove
      alias.set  alias.rollback
      model.publish  model.sign  model.delete  model.remove
      schedule.run  schedule.backfill
      schedule.add  schedule.change  schedule.remove
    """
    chosen = AuditFilter(since=since, until=until, action=action, target=target, who=who)
    lines = list(read_audit(Client.from_env().buckets.main, chosen, limit + 1))
    if len(lines) > limit:
        echo(f"older lines than the latest {limit:,} are left out: see --limit", err=True)
    if as_json:
        echo_json([asdict(line) for line in lines[:limit]])
        return
    for line in lines[:limit]:
        at = datetime.fromisoformat(line.at).astimezone(UTC)
        echo(f"{at:%Y-%m-%d %H:%M:%S}  {line.action}  {line.target}", indent=4)
        known = f"; {described}" if (described := _described(line.details)) else ""
        echo(f"    {line.who} ({line.where}){known}", indent=4)


def _described(details: Mapping[str, Any]) -> str:
    """Return the details of a line in words; values that say nothing are left out."""
    shown = ((name, value) for name, value in details.items() if value not in (None, "", False, [], ()))
    return ", ".join(f"{name} {_text(value)}" for name, value in shown)


def _text(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
