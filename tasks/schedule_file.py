"""``schedules.toml``: one table a schedule, every fault named with its line."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError

from storage.errors import InvalidRequest
from storage.keys import check_name
from tasks.schedule import CATCH_UP, OVERLAP, Schedule
from tasks.spec import JobSpec

_TYPES: dict[str, type] = {"enabled": bool, "only_new": bool}
_REQUIRED = ("cron", "model", "input")
_FIELD = re.compile(r"\{(?P<name>slot|previous)(?::(?P<form>[^{}]*))?\}")
_SOUND = JobSpec(job_id="check", model="m", inputs=("s3://bucket/",), output="s3://bucket/")
_MAX_NAME = 80
"""With its slot, a name has to fit into a job id."""


@dataclass(frozen=True, kw_only=True)
class Fault:
    """What is wrong with the file, and where."""

    line: int
    message: str
    schedule: str = ""

    def __str__(self) -> str:
        where = f" [{self.schedule}]" if self.schedule else ""
        return f"line {self.line}:{where} {self.message}"


@dataclass(frozen=True, kw_only=True)
class Parsed:
    """Schedules that can be used, and what is wrong with the others."""

    schedules: tuple[Schedule, ...]
    faults: tuple[Fault, ...]


def parse(text: str) -> Parsed:
    """Read ``schedules.toml``; a fault in one schedule leaves the others usable."""
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        found = re.search(r"line (\d+)", str(error))
        line = int(found[1]) if found else len(text.splitlines())
        return Parsed(schedules=(), faults=(Fault(line=line, message=f"is not TOML: {error}"),))
    schedules, faults = [], []
    for name, table in tables.items():
        if not isinstance(table, dict):
            faults.append(Fault(line=_line(text, "", name), message=f"{name!r} is outside of a [schedule]"))
            continue
        wrong = [
            Fault(line=_line(text, name, key), message=message, schedule=name) for key, message in _check(name, table)
        ]
        faults += wrong
        if not wrong:
            schedules.append(Schedule(name=name, **table))
    return Parsed(schedules=tuple(schedules), faults=tuple(faults))


def render(schedule: Schedule, template: str, slot: datetime) -> str:
    """Fill a template with a slot, in the schedule's zone.

    >>> nightly = Schedule(name="n", cron="0 2 * * *", zone="Europe/Berlin", model="m", input="s3://b/in/")
    >>> render(nightly, "s3://b/{previous:%d}-{slot}/", datetime(2026, 11, 25, 1, tzinfo=UTC))
    's3://b/24-2026-11-25/'
    """

    def fill(match: re.Match[str]) -> str:
        moment = slot.astimezone(ZoneInfo(schedule.zone)) if match["name"] == "slot" else schedule.preceding(slot)
        return moment.strftime(match["form"] or "%Y-%m-%d")

    return _FIELD.sub(fill, template)


def spec_of(schedule: Schedule, slot: datetime, output: str) -> JobSpec:
    """Return the job of a slot; `output` is where results go if the schedule does not say."""
    return JobSpec(
        job_id=schedule.job_id(slot),
        model=render(schedule, schedule.model, slot),
        inputs=(render(schedule, schedule.input, slot),),
        output=render(schedule, schedule.output or output, slot),
        method=schedule.method,
        keep=schedule.keep,
        max_rejected=schedule.max_rejected,
        only_new=schedule.name if schedule.only_new else None,
    )


def _check(name: str, table: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return key and message of every fault of one table."""
    faults: list[tuple[str, str]] = []
    known = {item.name for item in fields(Schedule)} - {"name"}
    if len(name) > _MAX_NAME:
        faults.append(("", f"its name is longer than {_MAX_NAME} characters"))
    try:
        check_name("schedule", name)
    except InvalidRequest as error:
        faults.append(("", str(error)))
    faults += [(key, f"unknown key {key!r}; known are {', '.join(sorted(known))}") for key in table if key not in known]
    faults += [("", f"{key!r} is missing") for key in _REQUIRED if key not in table]
    for key, value in table.items():
        kind = _TYPES.get(key, str)
        if key in known and type(value) is not kind:
            faults.append((key, f"{key} = {value!r} is not {'true or false' if kind is bool else 'a string'}"))
    for key, options in (("catch_up", CATCH_UP), ("overlap", OVERLAP)):
        if isinstance(table.get(key), str) and table[key] not in options:
            faults.append((key, f"{key} = {table[key]!r} is not one of {', '.join(options)}"))
    for key in ("model", "input", "output"):
        rest = _FIELD.sub("", table[key]) if isinstance(table.get(key), str) else ""
        if "{" in rest or "}" in rest:
            faults.append((key, f"{key} = {table[key]!r}: only {{slot:FORMAT}} and {{previous:FORMAT}} are filled in"))
    return faults or _check_values(name, table)


def _check_values(name: str, table: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Check what can only be checked where every type is right."""
    schedule = Schedule(name=name, **table)
    now = datetime.now(UTC)
    try:
        ZoneInfo(schedule.zone)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return [("zone", f"zone = {schedule.zone!r} is no IANA time zone, as Europe/Berlin is")]
    try:
        slot = next(CronSim(schedule.cron, now))
    except (CronSimError, StopIteration) as error:
        return [("cron", f"cron = {schedule.cron!r}: {error or 'is never due'}")]
    faults = []
    for key in ("model", "input", "output", "method", "max_rejected"):
        value = table.get(key)
        if value is None:
            continue
        try:
            filled = render(schedule, value, slot)
            changed: dict[str, Any] = {"inputs": (filled,)} if key == "input" else {key: filled}
            replace(_SOUND, **changed).check()
        except InvalidRequest as error:
            faults.append((key, f"{key}: {error}"))
    return faults


def _line(text: str, table: str, key: str) -> int:
    """Line of a key in a table; of the table's header where the key is not there."""
    header = 0
    inside = table == ""
    for number, line in enumerate(text.splitlines(), 1):
        found = re.match(r"\s*\[\s*[\"']?([^\"'\]]+?)[\"']?\s*\]", line)
        if found:
            inside = found[1] == table
            header = number if inside else header
        elif inside and key and re.match(rf"\s*[\"']?{re.escape(key)}[\"']?\s*=", line):
            return number
    return max(header, 1)
