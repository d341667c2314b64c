"""Reads ``schedules.toml``, which has one table for each schedule, and reports every fault with its line."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, cast, get_args, get_type_hints
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError

from scoreline.storage.errors import DocumentCorrupt, InvalidRequest, one_line
from scoreline.storage.keys import check_name
from scoreline.tasks.job.results_keep import ResultsKeep
from scoreline.tasks.job.spec import JobSpec, check_apart
from scoreline.tasks.job.submit_options import SubmitOptions, spec_from
from scoreline.tasks.quality.checks.checks_of import check_text
from scoreline.tasks.schedules.schedule import CATCH_UP, OVERLAP, Schedule, clock_time
from scoreline.tasks.webhooks.settings import WebhookSettings

_TEXT = ("a string", lambda value: isinstance(value, str))
_FLAG = ("true or false", lambda value: isinstance(value, bool))
_TEXTS = ("a list of strings", lambda value: isinstance(value, list) and all(isinstance(item, str) for item in value))
_NUMBER = ("a whole number", lambda value: type(value) is int)
_TYPES = ("a table of strings", lambda value: isinstance(value, dict) and _TEXTS[1](list(value.values())))
_FORMS: Mapping[Any, tuple[str, Callable[[Any], bool]]] = {
    str: _TEXT,
    bool: _FLAG,
    int: _NUMBER,
    Sequence[str]: _TEXTS,
    Mapping[str, str]: _TYPES,
}
"""A description of the values of a type in TOML, and a check for them."""
_HINTS = {name: hint for name, hint in get_type_hints(SubmitOptions).items() if name != "job_id"}
"""The type hint of each option. A schedule cannot set `job_id`, because each slot has its own job id."""


def _kind(hint: Any) -> tuple[str, Callable[[Any], bool]]:
    """Return a description of the types in a type hint, and a function that checks a value against them."""
    forms = [_FORMS[kind] for kind in get_args(hint) or (hint,) if kind is not type(None)]
    return " or ".join(what for what, _ in forms), lambda value: any(suits(value) for _, suits in forms)


def _parses(value: Any) -> bool:
    """Return whether a value says how long results are kept."""
    try:
        ResultsKeep.parse(value)
    except InvalidRequest:
        return False
    return True


_KINDS: Mapping[str, tuple[str, Callable[[Any], bool]]] = {
    "cron": _TEXT,
    "zone": _TEXT,
    "model": _TEXT,
    "input": ("a string or a list of strings", lambda value: _TEXT[1](value) or (_TEXTS[1](value) and bool(value))),
    "catch_up": _TEXT,
    "overlap": _TEXT,
    "enabled": _FLAG,
    "only_new": _FLAG,
    "check_in": _TEXT,
    "results_keep": (
        'a number of runs such as 30, or of days such as "90d"',
        lambda value: type(value) in (str, int) and _parses(value),
    ),
} | {name: _kind(hint) for name, hint in _HINTS.items()}
"""For each key, a description of its valid values, and a check for them."""
_REQUIRED = ("cron", "model")
_SOURCES = ("input", "query", "table")
_FIELD = re.compile(r"\{(?P<name>slot|previous)(?::(?P<form>[^{}]*))?\}")
_MAX_NAME = 80
"""Maximum number of characters in the name of a schedule. A job id contains the name and a slot."""


@dataclass(frozen=True, kw_only=True)
class Fault:
    """A fault in ``schedules.toml``."""

    line: int = 0
    """The line of the fault in the text; 0 if the text cannot be read."""
    message: str
    schedule: str = ""

    def __str__(self) -> str:
        where = f" [{self.schedule}]" if self.schedule else ""
        return f"line {self.line}:{where} {self.message}" if self.line else self.message


@dataclass(frozen=True, kw_only=True)
class Parsed:
    """The result of `parse`: the valid schedules, and the faults of the other schedules."""

    schedules: tuple[Schedule, ...] = ()
    faults: tuple[Fault, ...] = ()
    tables: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """The tables of the valid schedules, by name."""
    names: tuple[str, ...] | None = None
    """The names of all schedules, in the order of the text, including schedules with faults. None if the text cannot be
    read."""


def decode(data: bytes, where: str) -> str:
    """Return the text of the schedules; raises `DocumentCorrupt` if it is not UTF-8."""
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise DocumentCorrupt(f"{where} is not UTF-8: {error}") from error


def parse(text: str, webhooks: WebhookSettings | None = None) -> Parsed:
    """Parse the text of ``schedules.toml``. A fault in one schedule does not affect the others.

    Parameters
    ----------
    webhooks : WebhookSettings, optional
        The settings that say which addresses a schedule may notify. By default, addresses are not checked.
    """
    text = text.removeprefix("\ufeff")  # some editors write a byte order mark, which TOML does not allow
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        found = re.search(r"line (\d+)", str(error))
        line = int(found[1]) if found else max(len(text.splitlines()), 1)
        return Parsed(faults=(Fault(line=line, message=f"is not TOML: {error}"),))
    return parse_tables(tables, text, webhooks)


def parse_tables(tables: Mapping[str, Any], text: str = "", webhooks: WebhookSettings | None = None) -> Parsed:
    """Check the parsed tables of a TOML text (see `parse`). `text` is only used to find the lines of faults."""
    schedules, faults = [], []
    for name, table in tables.items():
        if not isinstance(table, dict):
            faults.append(
                Fault(
                    line=line_of(text, "", name),
                    message=f"{name!r} is outside of a [schedule]: put it below the header of a schedule",
                )
            )
            continue
        wrong = [
            Fault(line=line_of(text, name, key), message=message, schedule=name)
            for key, message in _check(name, table, webhooks)
        ]
        faults += wrong
        if not wrong:
            schedules.append(_schedule(name, table))
    return Parsed(
        schedules=tuple(schedules),
        faults=tuple(faults),
        tables={item.name: tables[item.name] for item in schedules},
        names=tuple(tables),
    )


def render(schedule: Schedule, template: str, slot: datetime) -> str:
    """Replace the placeholders in a template by the times of the slot, in the schedule's zone.

    >>> nightly = Schedule(name="n", cron="0 2 * * *", zone="Europe/Berlin", model="m", input="s3://b/in/")
    >>> render(nightly, "s3://b/{previous:%d}-{slot}/", datetime(2026, 11, 25, 1, tzinfo=UTC))
    's3://b/24-2026-11-25/'
    """

    def fill(match: re.Match[str]) -> str:
        moment = slot.astimezone(ZoneInfo(schedule.zone)) if match["name"] == "slot" else schedule.preceding(slot)
        return moment.strftime(match["form"] or "%Y-%m-%d")

    return _FIELD.sub(fill, template)


def slots_as_globs(template: str) -> str:
    """Return a template with every placeholder replaced by ``*``.

    >>> slots_as_globs("s3://b/in/{slot:%Y/%m}/{previous}.csv")
    's3://b/in/*/*.csv'
    """
    return _FIELD.sub("*", template)


def spec_of(schedule: Schedule, slot: datetime, output: str, number: int = 1) -> JobSpec:
    """Return the spec of a slot's job (see `Schedule.job_id`). `output` is the default output."""
    options: dict[str, Any] = {name: value for name, value in schedule.options.items() if name != "webhook"}
    if clock_time(options.get("deadline") or ""):  # people are told that the slot is late; its job goes on
        del options["deadline"]
    if params := options.get("params"):
        options["params"] = {name: render(schedule, value, slot) for name, value in params.items()}
    return spec_from(
        render(schedule, schedule.model, slot),
        [render(schedule, uri, slot) for uri in schedule.inputs],
        options | {"output": render(schedule, schedule.options.get("output") or output, slot)},
        job_id=schedule.job_id(slot, number),
        output=output,
        only_new=schedule.name if schedule.only_new else None,
    )


def _schedule(name: str, table: Mapping[str, Any]) -> Schedule:
    """Make a schedule from a valid table."""
    options = {key: value for key, value in table.items() if key in _HINTS}
    own = {key: value for key, value in table.items() if key not in _HINTS}
    return Schedule(name=name, options=cast(SubmitOptions, options), **own)


def _check(name: str, table: Mapping[str, Any], webhooks: WebhookSettings | None) -> list[tuple[str, str]]:
    """Return the key and the message of every fault in one table."""
    faults: list[tuple[str, str]] = []
    known = _KINDS.keys()
    if len(name) > _MAX_NAME:
        faults.append(("", f"its name is longer than {_MAX_NAME} characters"))
    try:
        check_name("schedule", name)
    except InvalidRequest as error:
        faults.append(("", str(error)))
    faults += [(key, f"unknown key {key!r}; known are {', '.join(sorted(known))}") for key in table if key not in known]
    faults += [("", f"{key!r} is missing") for key in _REQUIRED if key not in table]
    if not table.keys() & set(_SOURCES):
        faults.append(("", f"{'input'!r} is missing: name objects, a query or a table"))
    sound = {}
    for key in known & table.keys():
        found = _fault(key, table[key])
        if found:
            faults.append((key, f"{key} = {table[key]!r}{'' if found.startswith(':') else ' '}{found}"))
        else:
            sound[key] = table[key]
    faults += _check_together(sound)
    try:
        check_text(sound.get("checks") or None)
    except InvalidRequest as error:
        faults.append(("checks", one_line(error)))
    for key in ("webhook", "check_in"):
        if webhooks is not None and key in sound:
            try:
                webhooks.check(sound[key])
            except InvalidRequest as error:
                faults.append((key, str(error)))
    return sorted(faults, key=lambda fault: list(table).index(fault[0]) if fault[0] in table else -1)


def _fault(key: str, value: Any) -> str:
    """Return what is wrong with a single value; empty if it is valid."""
    what, suits = _KINDS[key]
    if not suits(value):
        advice = (
            f": results_keep = {value} keeps the results of {value} runs" if key == "keep" and _parses(value) else ""
        )
        return f"is not {what}{advice}"
    options: tuple[str, ...] | None = {"catch_up": CATCH_UP, "overlap": OVERLAP}.get(key)
    if options and value not in options:
        return f"is not one of {', '.join(options)}"
    if key == "zone":
        try:
            ZoneInfo(value)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            return "is not an IANA time zone such as Europe/Berlin"
    if key == "cron":
        try:
            next(CronSim(value, datetime.now(UTC)))
        except (CronSimError, StopIteration) as error:
            return f": {error or 'is never due'}"
    if key in ("model", "input", "output", "params"):
        texts = [value] if isinstance(value, str) else value.values() if isinstance(value, dict) else value
        return next(filter(None, map(_template_fault, texts)), "")
    return ""


def _template_fault(text: str) -> str:
    """Return what is wrong with the placeholders in a template; empty if they are valid."""
    if "{" in (rest := _FIELD.sub("", text)) or "}" in rest:
        return ": only {slot:FORMAT} and {previous:FORMAT} are filled in"
    for found in _FIELD.finditer(text):
        form = (found["form"] or "").replace("%%", "")
        if "%" in datetime.now(UTC).strftime(form):  # strftime returns unknown directives unchanged
            return f": {found[0]} is not a format of strftime, such as {{{found['name']}:%Y-%m-%d}}"
    return ""


def _check_together(sound: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Check the options of a job together, then each option alone, and then the output against the inputs."""
    times: dict[str, Any] = {"cron": "0 0 * * *", "model": "m"}
    sources = sound.keys() & {"query", "table"} or {"input"}
    times |= {key: sound.get(key, "s3://bucket/in/") for key in sources}
    times |= {key: sound[key] for key in ("cron", "zone") if key in sound}
    slot = _schedule("n", times).following(datetime.now(UTC))

    def fault(*names: str) -> str:
        try:
            spec_of(_schedule("n", times | {key: sound[key] for key in names}), slot, "s3://bucket/out/").check()
        except InvalidRequest as error:
            return str(error)
        return ""

    of_jobs = sorted(sound.keys() & {"model", "input", "only_new", *_HINTS} - {"webhook"})
    if whole := fault(*of_jobs):
        faults = [(key, f"{key}: {found}") for key in of_jobs if (found := fault(key))]
        return faults or [(next((key for key in of_jobs if whole.startswith(key)), ""), whole)]
    if sound.get("output") and "input" in sound:
        try:
            check_apart(spec_of(_schedule("n", times | {key: sound[key] for key in ("input", "output")}), slot, ""))
        except InvalidRequest as error:
            return [("output", f"output: {error}")]
    return []


def line_of(text: str, table: str, key: str) -> int:
    """Return the line of a key in a table, or of the table's header if the key is missing."""
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
