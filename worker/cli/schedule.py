"""``scoreline schedule list | check | tick | run | backfill``."""

from __future__ import annotations

import json
import os
import sys
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import click

from scoreline.storage.errors import InvalidRequest, InvalidSettings, ScorelineError, describe
from scoreline.storage.wording import plural
from scoreline.tasks.alerts.sending import send_waiting
from scoreline.tasks.alerts.settings import AlertSettings
from scoreline.tasks.client import Client
from scoreline.tasks.schedules.checks import deployment_faults
from scoreline.tasks.schedules.file import Fault, Parsed, decode, parse
from scoreline.tasks.schedules.in_force import Reading
from scoreline.tasks.schedules.schedule import Schedule
from scoreline.tasks.schedules.scheduler import UNREADABLE, Row, Scheduler
from scoreline.tasks.schedules.settings import ScheduleSettings
from scoreline.tasks.webhooks.settings import WebhookSettings
from scoreline.worker.cli.help import Group
from scoreline.worker.cli.output import echo, print_table


@click.group(
    cls=Group,
    epilog="""\
scoreline schedule check
scoreline schedule list
scoreline schedule backfill nightly --from 2026-11-01 --to 2026-11-07
""",
)
def schedule() -> None:
    """Check, list and run jobs on a schedule.

    Schedules are tables in the file schedules.toml of the working directory, or in the file that SCHEDULES_FILE names.
    If there is no file, the object schedules.toml in the bucket is read. Schedules run while a worker and beat are
    running. If you change a schedule and the change has a fault, the schedule runs as before the change. A table may
    have these keys; cron, model and input (or query, or table) are required:

    \b
    [nightly]
    # Minute, hour, day, month, weekday, in the time zone [default: UTC].
    cron = "30 2 * * *"
    zone = "Europe/Berlin"
    model = "churn@champion"
    # An object, prefix or glob, or a list of them. {slot:...} is the time of
    # the run, and {previous:...} is the time of the run before it.
    input = "s3://data/{slot:%Y-%m-%d}/*.parquet"
    output = "s3://data/scores/"
    # Which missed runs to make up for: none, latest or all [default: latest].
    catch_up = "latest"
    # What to do if the run before is still under way: skip, queue or
    # cancel_running [default: skip].
    overlap = "skip"
    # Score only objects that no earlier run has scored [default: false].
    only_new = false
    # How long to keep results: days, or a number of runs [default: the
    # setting RESULTS_KEEP]. See `scoreline gc`.
    results_keep = "90d"
    # An outside monitor, which is called when a run has ended.
    check_in = "https://hc.example.org/ping/nightly"
    enabled = true

    \b
    # Options of the job, as `scoreline submit --help` explains them:
    method = "predict"
    keep = "id,name"
    features = ["a", "b"]
    max_rejected = "1%"
    part_rows = 100000
    max_attempts = 3
    group = "reports"
    priority = "low"
    max_processes = 2
    # "6h" ends the job after six hours. A time of day, such as "06:00" in
    # the time zone of the schedule, only sends an alert if a run is late.
    deadline = "6h"
    checks = "none"
    partition_by = "region"
    gather = false
    profile = "on"
    segment = "region"
    challenger = "churn@challenger"
    only_changed = true
    into = "public.scores"
    key = ["id"]
    into_columns = ["prediction", "risk=proba_yes"]
    mode = "upsert"
    create = true
    database = "warehouse"
    webhook = "https://example.org/hooks/x"
    labels = {team = "risk"}
    format = "csv"
    delimiter = ";"
    quote = "'"
    escape = '\\'
    decimal = ","
    thousands = "."
    columns = ["id", "x"]
    encoding = "latin-1"
    null_values = ["-"]
    types = {id = "string"}

    \b
    # In place of an input, the rows of a query in queries.toml, or of a table:
    [query]
    cron = "30 2 * * *"
    model = "churn@champion"
    query = "customers"
    params = {since = "{previous:%Y-%m-%d}"}

    \b
    [table]
    cron = "30 2 * * *"
    model = "churn@champion"
    table = "public.customers"
    where_recent = ["updated_at", "1d"]
    """


@schedule.command(
    "list",
    epilog="""\
scoreline schedule list
scoreline schedule list --json
""",
)
@click.option("--json", "as_json", is_flag=True, help="Print the schedules as JSON.")
def list_(as_json: bool) -> None:
    """List all schedules.

    Prints the next and the last slot of each schedule, and the outcome of the last slot. A slot is a time at which a
    schedule is due. Faults in the text of the schedules are printed below. A schedule with a fault is listed in its
    last valid form, because this form is still in force.

    The exit code is 1 if there is a fault, or if the state of a schedule cannot be read.
    """
    scheduler = _scheduler()
    reading = scheduler.reading()
    rows = scheduler.rows()
    if as_json:
        click.echo(json.dumps([_row_to_json(row, reading) for row in rows], indent=1))
    else:
        print_table(("schedule", "cron", "next", "last", "outcome"), map(_cells, rows), wrapped=["schedule"])
        for row in rows:
            _echo_notes(row)
    for fault in reading.faults:
        echo(f"{reading.source}: {fault}", indent=2, err=True)
    if reading.kept:
        verb = "runs as it was" if len(reading.kept) == 1 else "run as they were"
        echo(f"until this is corrected, {', '.join(sorted(reading.kept))} {verb}", indent=2, err=True)
    sys.exit(bool(reading.faults) or any(row.outcome == UNREADABLE for row in rows))


@schedule.command(
    epilog="""\
scoreline schedule check
scoreline schedule check schedules.toml
""",
)
@click.argument("file", type=click.File("rb"), required=False)
def check(file: Any) -> None:
    """Check the schedules for faults.

    Reads FILE, or the schedules that are in use. Prints every fault with its line, and the next slot of every valid
    schedule. If a bucket is set, checks that the models, aliases and buckets of enabled schedules exist. Webhooks are
    compared with ALLOWED_WEBHOOKS, so set this variable to the same value as for the workers.

    The exit code is 1 if there is a fault.
    """
    where, text = (file.name, decode(file.read(), file.name)) if file else _scheduler().source()
    parsed = parse(text, WebhookSettings.from_env(os.environ))
    faults = sorted((*parsed.faults, *_faults_now(parsed, text)), key=lambda fault: fault.line)
    for fault in faults:
        echo(f"{where}: {fault}", indent=2, err=True)
    now = datetime.now(UTC)
    for item in parsed.schedules:
        note = "" if item.enabled else ", not enabled"
        echo(f"{item.name}: next {item.following(now):%Y-%m-%d %H:%M %Z}{note}")
    if not text:
        echo(f"{where}: there are no schedules", err=True)
    sys.exit(bool(faults))


def _faults_now(parsed: Parsed, text: str) -> list[Fault]:
    """Return the faults of enabled schedules that name missing models, aliases or buckets."""
    try:
        return deployment_faults(parsed, text, Client.from_env())
    except InvalidSettings as error:
        echo(f"models and buckets were not checked: {describe(error)}", indent=2, err=True)
        return []
    except ScorelineError as error:
        return [Fault(message=f"models and buckets could not be checked: {describe(error)}")]


@schedule.command(epilog="scoreline schedule tick\n")
def tick() -> None:
    """Run the schedules that are due, and send alerts.

    Beat requests such a run every 30 seconds. Use this command if another clock, such as Heroku Scheduler, replaces
    beat. A slot runs once, even if this command is called several times.

    The exit code is 1 if a job could not be submitted, or if the text of the schedules has a fault.
    """
    client = Client.from_env()
    client.submission.dispatcher.alerts = AlertSettings.events_from(os.environ)
    scheduler = Scheduler.from_settings(client, ScheduleSettings.from_env(os.environ))
    report = scheduler.tick()
    for name, done in report.items():
        echo(f"{name}: {'; '.join(done) or 'nothing is due'}", indent=2)
    send_waiting(client.buckets.main, client.ledger, AlertSettings.from_env(os.environ))
    wrong = any(line.startswith(("failed", "refused")) for done in report.values() for line in done)
    sys.exit(wrong or bool(scheduler.reading().faults))


@schedule.command(
    epilog="""\
scoreline schedule run nightly --at 2026-11-25T02:30
scoreline schedule run nightly --at 2026-11-25T02:30+01:00
scoreline schedule run nightly --at 2026-11-25T02:30 --again
"""
)
@click.argument("name")
@click.option(
    "--at",
    required=True,
    metavar="TIME",
    help="Run the slot of this time, in ISO 8601; in the time zone of the schedule unless TIME has an offset.",
)
@click.option(
    "--again",
    is_flag=True,
    help="If the slot has a job already, run it anew, with the model that the schedule names now.",
)
def run(name: str, at: str, again: bool) -> None:
    """Run a schedule for one past slot.

    Submits the job of schedule NAME for the slot. If the slot already has a job, no job is submitted. With --again, the
    slot gets another job, whose id ends with -2, then -3 and so on. The results of the earlier job are kept, and the
    new results are written beside them.

    The exit code is 1 if the job was refused.
    """
    scheduler = _scheduler()
    item = scheduler.get(name)
    slot = _time(item, at)
    if not item.between(slot, slot):
        near = " and ".join(f"{moment:%Y-%m-%dT%H:%M}" for moment in (item.preceding(slot), item.following(slot)))
        raise InvalidRequest(
            f"--at {at} is not a slot of {name!r} (cron {item.cron!r}, {item.zone}); the nearest slots are {near}"
        )
    before = scheduler.latest(item, slot)
    done = scheduler.ask(item, [slot], again=again)
    local, state = _local(item, slot), before.outcome.state if before.outcome else "under way"
    if again and before.number:
        new = item.job_id(slot, before.free)
        echo(f"slot {local} is run again as job {new}; the results of {before.job_id} ({state}) stay", indent=2)
    else:
        echo(f"slot {local} is job {before.job_id or item.job_id(slot, before.free)}", indent=2)
        if before.outcome:
            why = f"{state}: {before.outcome.error}" if before.outcome.error else state
            echo(f"{before.job_id} {why}; use --again to run the slot anew", indent=2)
    _report(done)


@schedule.command(
    epilog="""\
scoreline schedule backfill nightly --from 2026-11-01 --to 2026-11-07
scoreline schedule backfill nightly --from 2026-11-01 --to 2026-11-07 \\
    --dry-run
scoreline schedule backfill nightly --from 2026-11-01 --to 2026-11-07 --again
"""
)
@click.argument("name")
@click.option("--from", "start", required=True, metavar="TIME", help="Start with the first slot from this time on.")
@click.option(
    "--to",
    "stop",
    required=True,
    metavar="TIME",
    help="End with the last slot up to this time; a date includes the whole day.",
)
@click.option("--again", is_flag=True, help="Run only slots whose job failed or was cancelled, anew as `run` does.")
@click.option("--dry-run", is_flag=True, help="Only print the slots and their job ids.")
def backfill(name: str, start: str, stop: str, again: bool, dry_run: bool) -> None:
    """Run a schedule for all slots in a period.

    The jobs of schedule NAME run one after another, the earliest first. Slots that already have a job are left out.
    Times are in ISO 8601. A time without an offset is in the time zone of the schedule.

    The exit code is 1 if a job was refused.
    """
    scheduler = _scheduler()
    item = scheduler.get(name)
    first, last = _time(item, start), _time(item, stop)
    if len(stop) == len("2026-11-25"):
        last += timedelta(days=1, microseconds=-1)
    if first > last:
        raise InvalidRequest(f"--from {start} is after --to {stop}: exchange them")
    slots = item.between(first, last)
    found = {slot: scheduler.latest(item, slot) for slot in slots} if again or dry_run else {}
    if again:
        slots = [slot for slot in slots if found[slot].incomplete]
    if dry_run:
        for slot in slots:
            job_id = item.job_id(slot, found[slot].free) if again else found[slot].job_id
            local = slot.astimezone(ZoneInfo(item.zone)).isoformat()
            click.echo(f"{local}  {job_id or item.job_id(slot, found[slot].free)}")
        return
    _report(scheduler.ask(item, slots, again=again, action="schedule.backfill"))


@schedule.command(epilog='scoreline schedule pause nightly --reason "the input is late"\n')
@click.argument("name")
@click.option("--reason", required=True, metavar="TEXT", help="Say why; it is shown and recorded in the audit.")
def pause(name: str, reason: str) -> None:
    """Let a schedule submit no jobs until it is resumed.

    Slots of schedule NAME that are due meanwhile are left out. A job under way continues.
    """
    scheduler = _scheduler()
    was_running = scheduler.pause(scheduler.get(name), reason)
    echo(
        f"{name} is paused; `scoreline schedule resume {name}` lets it run again"
        if was_running
        else f"{name} was paused before"
    )


@schedule.command(epilog="scoreline schedule resume nightly\n")
@click.argument("name")
def resume(name: str) -> None:
    """Let a paused schedule run again.

    Schedule NAME continues with its next slot. Slots that were left out can be run with `scoreline schedule backfill`.
    """
    scheduler = _scheduler()
    item = scheduler.get(name)
    was_paused = scheduler.resume(item)
    echo(
        f"{name} runs again, next at {item.following(datetime.now(UTC)):%Y-%m-%d %H:%M %Z}"
        if was_paused
        else f"{name} was not paused"
    )


def _scheduler() -> Scheduler:
    return Scheduler.from_settings(Client.from_env(), ScheduleSettings.from_env(os.environ))


def _local(item: Schedule, slot: datetime) -> str:
    return f"{slot.astimezone(ZoneInfo(item.zone)):%Y-%m-%d %H:%M %Z}"


def _time(item: Schedule, text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise InvalidRequest(f"{text!r} is not a time in ISO 8601, such as 2026-11-25T02:30") from None
    return moment if moment.tzinfo else moment.replace(tzinfo=ZoneInfo(item.zone))


def _report(done: list[str]) -> None:
    for line in done:
        echo(line, indent=2)
    sys.exit(any(line.startswith("refused") for line in done))


def _cells(row: Row) -> tuple[str, ...]:
    following = f"{row.next:%Y-%m-%d %H:%M %Z}" if row.next else "paused" if row.paused else "not enabled"
    last = ""
    if row.last:
        slot = datetime.fromisoformat(row.last).astimezone(ZoneInfo(row.schedule.zone))
        last = f"{slot:%Y-%m-%d %H:%M}"
    return row.schedule.name, row.schedule.cron, following, last, row.outcome


def _echo_notes(row: Row) -> None:
    """Print notes below the line of a schedule: how many slots wait for their job, and why the last job failed."""
    name = row.schedule.name
    if row.pending:
        verb = "waits" if row.pending == 1 else "wait"
        click.echo(f"{name}: {plural(row.pending, 'slot')} {verb}")
    if row.paused:
        echo(f"{name}: {row.paused}", indent=2)
    if row.error:
        echo(f"{name}: {row.outcome}: {row.error}", indent=2)
    if row.outcome == "failed":
        slot = datetime.fromisoformat(row.last).astimezone(ZoneInfo(row.schedule.zone))
        click.echo(f"{name}: once that is mended, run the slot again:")
        click.echo(f"  scoreline schedule run {name} --at {slot:%Y-%m-%dT%H:%M} --again")


def _row_to_json(row: Row, reading: Reading) -> dict[str, Any]:
    faults = [str(fault) for fault in reading.faults if fault.schedule in ("", row.schedule.name)]
    return {
        "name": row.schedule.name,
        "cron": row.schedule.cron,
        "zone": row.schedule.zone,
        "enabled": row.schedule.enabled,
        "next": row.next and row.next.isoformat(),
        "last": row.last or None,
        "outcome": row.outcome or None,
        "error": row.error or None,
        "job": row.job_id or None,
        "pending": row.pending,
        **({"paused": row.paused} if row.paused else {}),
        "faults": faults,
    }
