"""Reads ``alerts.toml``, which has one table for each recipient, and reports every fault with its line.

The addresses of recipients are secrets, so the file only has the names of the environment variables that contain them.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from scoreline.tasks.job.alert import EVENTS, Alert, Event
from scoreline.tasks.quality.checks.toml_lines import TomlLines

FAILURES: tuple[Event, ...] = (
    "failed",
    "partial",
    "blocked",
    "unloaded",
    "late",
    "missed",
    "refused",
    "schedules",
)
"""The events of which recipients hear by default."""
_KEYS = ("urls", "on", "schedules", "groups")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True, kw_only=True)
class Recipient:
    """People who receive the alerts of some events."""

    name: str
    urls: tuple[str, ...] = field(repr=False)
    """Addresses in the form of Apprise, such as ``mailtos://...``. They may contain passwords."""
    on: tuple[Event, ...] = FAILURES
    schedules: tuple[str, ...] = ()
    """Patterns of names of schedules, such as ``nightly*``."""
    groups: tuple[str, ...] = ()
    """Patterns of names of groups. Without patterns of schedules and groups, the recipient hears of everything."""

    def wants(self, alert: Alert) -> bool:
        """Return whether the recipient wants to hear of an alert.

        A fault in the file with the schedules may concern every schedule, so everyone who wants to hear of such
        faults hears of it.
        """
        if alert.event not in self.on:
            return False
        if alert.event == "schedules" or not (self.schedules or self.groups):
            return True
        return _fits(alert.schedule, self.schedules) or _fits(alert.group, self.groups)


def parse_recipients(text: str, environ: Mapping[str, str]) -> tuple[tuple[Recipient, ...], tuple[str, ...]]:
    r"""Parse the text of ``alerts.toml``. Return the recipients and the faults; each fault names its line.

    Parameters
    ----------
    environ : mapping
        The environment, whose variables contain the addresses.

    >>> found, faults = parse_recipients('[ops]\nurls = ["OPS"]\ngroups = ["churn*"]', {"OPS": "mailto://x"})
    >>> found[0].name, found[0].groups, faults
    ('ops', ('churn*',), ())
    >>> parse_recipients('[ops]\nurls = ["OPS"]', {})[1]
    ("line 2: [ops] urls: the variable 'OPS' is not set",)
    """
    try:
        tables = tomllib.loads(text.removeprefix("\ufeff"))
    except tomllib.TOMLDecodeError as error:
        found = re.search(r"line (\d+)", str(error))
        return (), (f"line {found[1] if found else max(len(text.splitlines()), 1)}: is not TOML: {error}",)
    lines, recipients, faults = TomlLines(text), [], []
    for name, table in tables.items():
        if not isinstance(table, dict):
            message = f"{name!r} is outside of a [recipient]: put it below the header of a recipient"
            faults.append((lines.of(name), message))
            continue
        wrong = [(lines.of(name, key), f"[{name}] {message}") for key, message in _faults(table, environ)]
        faults += wrong
        if not wrong:
            urls = tuple(environ[variable].strip() for variable in table["urls"])
            rest = {key: tuple(value) for key, value in table.items() if key != "urls"}
            recipients.append(Recipient(name=name, urls=urls, **rest))
    return tuple(recipients), tuple(f"line {line}: {message}" for line, message in sorted(faults))


def _faults(table: Mapping[str, Any], environ: Mapping[str, str]) -> list[tuple[str, str]]:
    """Return the key and the message of every fault of a table."""
    faults = [(key, f"unknown key {key!r}; known are {', '.join(sorted(_KEYS))}") for key in table if key not in _KEYS]
    if "urls" not in table:
        faults.append(("", "'urls' is missing: name the variables that contain the addresses"))
    for key in (key for key in _KEYS if key in table):
        value = table[key]
        if not isinstance(value, list) or not value or not all(isinstance(item, str) for item in value):
            faults.append((key, f"{key} is not a list of strings with at least one string"))
        elif key == "on":
            faults += [(key, f"on: {item!r} is not one of {', '.join(EVENTS)}") for item in value if item not in EVENTS]
        elif key == "urls":
            faults += [(key, f"urls: {fault}") for item in value if (fault := _variable_fault(item, environ))]
    return faults


def _variable_fault(name: str, environ: Mapping[str, str]) -> str:
    """Return why an address cannot be read from a variable; empty if it can. An address may have been put there."""
    if not _VARIABLE.fullmatch(name):
        return "has to name variables, because addresses contain passwords: put the address into a variable"
    return "" if environ.get(name, "").strip() else f"the variable {name!r} is not set"


def _fits(name: str, patterns: tuple[str, ...]) -> bool:
    return bool(name) and any(fnmatchcase(name, pattern) for pattern in patterns)
