"""``scoreline schedule list | check | tick | run | backfill``."""

from __future__ import annotations

import json
import os
import sys
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import click
from rich.table import Table

from scoreline.storage.errors import InvalidRequest
from scoreline.tasks.client import Client
from scoreline.tasks.schedules.file import parse
from scoreline.tasks.schedules.schedule import Schedule
from scoreline.tasks.schedules.scheduler import Scheduler
from scoreline.tasks.schedules.settings import ScheduleSettings
from scoreline.tasks.webhooks.settings import WebhookSettings
from scoreline.worker.cli.jobs import console


@click.group()
def schedule() -> None:
    """Jobs that run by the clock.

    Schedules are in schedules.toml of the working directory, else in the object schedules.toml of the bucket:

    \b
    [nightly]
    cron = "30 2 * * *"                # minute hour day month weekday
    zone = "Europe/Berlin"             # [UTC]
    model = "churn@champion"
    input = "s3://data/{slot:%Y-%m-%d}/*.parquet"   # {previous:...} is the slot before; or a list of several
    output = "s3://data/scores/"       # [results/<model>/ of the bucket]
    catch_up = "latest"                # of slots that were missed: none | latest | all
    overlap = "skip"                   # the run before is under way: skip | queue | cancel_running
    only_new = false                   # only objects that no earlier run has scored
    method = "predict"                 # [what is usual for the estimator]
    keep = "all"                       # input columns to carry over: all but features, none, or "id,name"
    features = ["a", "b"]              # [as the model names them]
    partition_by = "region"            # a folder of results for each value of a kept column
    gather = false                     # fewer, larger files of results
    max_rejected = "1%"                # rows that may be rejected: a count, or a percentage
    part_rows = 100000                 # rows that a part aims at
    max_attempts = 3                   # times a part is begun if its process dies each time
    webhook = "https://example.org/hooks/x"   # who is told how each run ended. [WEBHOOK_URL]
    enabled = true

    \b
    # How the input is read, where its names do not say it, as for scoreline submit:
    format = "csv"
    delimiter = ";"
    quote = "'"
    columns = ["id", "x"]
    encoding = "latin-1"
    null_values = ["-"]
    types = {id = "string"}
    """


@schedule.command("list")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def list_(as_json: bool) -> None:
    """Show every schedule: its next slot, its last one, and how that ended."""
    rows = _scheduler().rows()
    if as_json:
        click.echo(json.dumps([_row_to_json(row) for row in rows], indent=1))
        return
    table = Table(box=None)
    for name in ("schedule", "cron", "next", "last", "outcome"):
        table.add_column(name, no_wrap=name != "schedule", overflow="fold")
    for row in rows:
        following = f"{row.next:%Y-%m-%d %H:%M %Z}" if row.next else "not enabled"
        last = ""
        if row.last:
            slot = datetime.fromisoformat(row.last).astimezone(ZoneInfo(row.schedule.zone))
            last = f"{slot:%Y-%m-%d %H:%M}"
        table.add_row(row.schedule.name, row.schedule.cron, following, last, row.outcome)
    console().print(table)
    for row in rows:
        if row.pending:
            click.echo(f"{row.schedule.name}: {row.pending} {'slot waits' if row.pending == 1 else 'slots wait'}")
        if row.error:
            click.echo(f"{row.schedule.name}: {row.outcome}: {row.error}")


@schedule.command()
@click.argument("file", type=click.File(), required=False)
def check(file: Any) -> None:
    """Read schedules.toml (or FILE) and name every fault with its line.

    A webhook is held against ALLOWED_WEBHOOKS of this environment, which should be the workers'.
    """
    where, text = (file.name, file.read()) if file else _scheduler().source()
    parsed = parse(text, WebhookSettings.from_env(os.environ))
    for fault in parsed.faults:
        click.echo(f"{where}: {fault}", err=True)
    now = datetime.now(UTC)
    for item in parsed.schedules:
        note = "" if item.enabled else ", not enabled"
        click.echo(f"{item.name}: next {item.following(now):%Y-%m-%d %H:%M %Z}{note}")
    if not text:
        click.echo(f"{where}: there are no schedules", err=True)
    sys.exit(bool(parsed.faults))


@schedule.command()
def tick() -> None:
    """Do what is due now, as the clock does every 30 seconds; for a clock of your own, as Heroku Scheduler."""
    report = _scheduler().tick()
    for name, done in report.items():
        click.echo(f"{name}: {'; '.join(done) or 'nothing is due'}")
    sys.exit(any(line.startswith("failed") for done in report.values() for line in done))


@schedule.command()
@click.argument("name")
@click.option("--at", required=True, metavar="TIME", help="ISO 8601; in the schedule's zone unless it says.")
def run(name: str, at: str) -> None:
    """Run schedule NAME for one slot, whether it is due or not; a slot that has a job has it already."""
    scheduler = _scheduler()
    item = scheduler.get(name)
    slot = _time(item, at)
    if not item.between(slot, slot):
        near = " and ".join(f"{moment:%Y-%m-%dT%H:%M}" for moment in (item.preceding(slot), item.following(slot)))
        raise InvalidRequest(f"{at} is no slot of {name!r} (cron {item.cron!r}, {item.zone}): around it are {near}")
    _report(scheduler.ask(item, [slot]))


@schedule.command()
@click.argument("name")
@click.option("--from", "start", required=True, metavar="TIME", help="First slot.")
@click.option("--to", "stop", required=True, metavar="TIME", help="Last slot, included; a day is all of it.")
@click.option("--dry-run", is_flag=True, help="Only show the slots.")
def backfill(name: str, start: str, stop: str, dry_run: bool) -> None:
    """Run schedule NAME for every slot of a time, one after another; those that have a job are left out."""
    scheduler = _scheduler()
    item = scheduler.get(name)
    first, last = _time(item, start), _time(item, stop)
    if len(stop) == len("2026-11-25"):
        last += timedelta(days=1, microseconds=-1)
    if first > last:
        raise InvalidRequest(f"--from {start} is after --to {stop}")
    slots = item.between(first, last)
    if dry_run:
        for slot in slots:
            click.echo(f"{slot.astimezone(ZoneInfo(item.zone)).isoformat()}  {item.job_id(slot)}")
        return
    _report(scheduler.ask(item, slots))


def _scheduler() -> Scheduler:
    return Scheduler(Client.from_env(), ScheduleSettings.from_env(os.environ).file)


def _time(item: Schedule, text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise InvalidRequest(f"{text!r} is not a time of ISO 8601, as 2026-11-25T02:30") from None
    return moment if moment.tzinfo else moment.replace(tzinfo=ZoneInfo(item.zone))


def _report(done: list[str]) -> None:
    for line in done:
        click.echo(line)
    sys.exit(any(line.startswith("refused") for line in done))


def _row_to_json(row: Any) -> dict[str, Any]:
    return {
        "name": row.schedule.name,
        "cron": row.schedule.cron,
        "zone": row.schedule.zone,
        "enabled": row.schedule.enabled,
        "next": row.next and row.next.isoformat(),
        "last": row.last or None,
        "outcome": row.outcome or None,
        "error": row.error or None,
        "pending": row.pending,
    }
