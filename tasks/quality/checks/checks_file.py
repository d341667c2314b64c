"""Reads ``checks.toml``, and reports every fault with its line. Works with `requirements.txt` alone.

``docs/reference/checks.md`` describes the format.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from scoreline.storage.errors import InvalidRequest
from scoreline.storage.tables.row_rules import RULES, RowRule, encode
from scoreline.storage.wording import plural
from scoreline.tasks.job.spec import MAX_CHECKS_BYTES
from scoreline.tasks.quality.checks.check_types import LEVELS, Check, CheckLevel, Checks
from scoreline.tasks.quality.checks.check_values import (
    CHECKS,
    OF_COLUMNS,
    CheckName,
    default_limits,
    did_you_mean,
    read_limit,
)
from scoreline.tasks.quality.checks.promote_table import PromoteReader
from scoreline.tasks.quality.checks.toml_lines import TomlLines

MAX_BYTES = MAX_CHECKS_BYTES
FILE = "checks.toml"
NONE = "none"
"""The text that switches all checks off."""


@dataclass(frozen=True, kw_only=True)
class Fault:
    """A fault in a text of checks."""

    line: int
    message: str

    def __str__(self) -> str:
        return f"line {self.line}: {self.message}"


@dataclass(frozen=True, kw_only=True)
class Parsed:
    """The result of `parse`."""

    checks: Checks = field(default_factory=Checks)
    """What the text says, without its faults."""
    faults: tuple[Fault, ...] = ()


def read_checks(
    text: str,
    where: str = FILE,
    *,
    features: Sequence[str] | None = None,
    outputs: Sequence[str] | None = None,
) -> Checks:
    """Return the checks of a text; raises `InvalidRequest` with all faults and their lines.

    Parameters
    ----------
    where : str
        The file, for the message.
    features, outputs : sequence of str, optional
        The features and the output columns of the model. If both are known, a column that is neither must be marked
        as kept, so that a misspelt column is found.
    """
    if text.strip() == NONE:
        return Checks.off()
    parsed = parse(text, features=features, outputs=outputs)
    if parsed.faults:
        lines = "".join(f"\n  {fault}" for fault in parsed.faults)
        raise InvalidRequest(f"{where} has {plural(len(parsed.faults), 'fault')}:{lines}")
    return parsed.checks


def decode(data: bytes, where: str = FILE) -> str:
    """Return the text of a file of checks; raises `InvalidRequest` if it is too large or not UTF-8."""
    if len(data) > MAX_BYTES:
        raise InvalidRequest(f"{where} has {len(data):,} bytes, but checks may have at most {MAX_BYTES:,}")
    try:
        return data.decode().removeprefix("\ufeff")  # TOML does not allow the byte order mark of some editors
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"{where} is not UTF-8: {error}") from error


def parse(text: str, *, features: Sequence[str] | None = None, outputs: Sequence[str] | None = None) -> Parsed:
    """Read a text of checks. The parameters are those of `read_checks`; this function raises no exception."""
    text = text.removeprefix("\ufeff")
    if len(text.encode("utf-8", "surrogatepass")) > MAX_BYTES:
        return Parsed(faults=(Fault(line=1, message=f"the text has more than {MAX_BYTES:,} bytes"),))
    try:
        tables = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        found = re.search(r"line (\d+)", str(error))
        line = int(found[1]) if found else max(len(text.splitlines()), 1)
        return Parsed(faults=(Fault(line=line, message=f"this is not TOML: {error}"),))
    reader = _Reader(TomlLines(text))
    checks = reader.read(tables)
    if features is not None and outputs is not None:
        reader.check_columns(checks, tables.get("columns", {}), features, outputs)
    return Parsed(checks=checks, faults=tuple(sorted(reader.faults, key=lambda fault: fault.line)))


class _Reader:
    """Reads parsed tables, and collects faults."""

    def __init__(self, lines: TomlLines) -> None:
        self._lines = lines
        self.faults: list[Fault] = []

    def read(self, tables: Mapping[str, Any]) -> Checks:
        level = self._level(tables.get("level", "warn"), ("level",), "warn")
        known = ("level", *CHECKS, "columns", "promote")
        for name in tables:
            if name not in known:
                self._fault((name,), f"unknown table or key {name!r}{did_you_mean(name, known)}")
        table: dict[CheckName, Check] = {}
        for name in CHECKS:
            base = Check(level=level, limits=default_limits(name))
            table[name] = self._check(name, tables[name], (name,), base) if name in tables else base
        rules = PromoteReader(tables.get("promote", {}), self._fault)
        checks = Checks(
            table=table, promote=rules.metrics(), promotion=rules.promotion(), has_promote="promote" in tables
        )
        columns = tables.get("columns", {})
        if not isinstance(columns, dict):
            self._fault(("columns",), "columns is not a table: write [columns.NAME] for each column")
            return checks
        for name, column in columns.items():
            checks = self._column(checks, name, column)
        return checks

    def check_columns(self, checks: Checks, columns: Any, features: Sequence[str], outputs: Sequence[str]) -> None:
        """Report columns that the model does not have, and row rules for its outputs."""
        for name in columns if isinstance(columns, dict) else ():
            if name in outputs and name not in features:
                for rule in checks.rules:
                    if rule.column == name:
                        self._fault(
                            ("columns", name, rule.rule),
                            f"{name!r} is an output, and row rules ({rule.rule}) are for features and kept columns: "
                            "rows are checked before they are scored",
                        )
            elif name not in features and name not in checks.kept:
                advice = did_you_mean(name, (*features, *outputs))
                self._fault(
                    ("columns", name),
                    f"unknown column {name!r}{advice}{' ' if advice.endswith('?') else '. '}If it is a column of the "
                    "input that the results keep, write kept = true",
                )

    def _column(self, checks: Checks, name: str, column: Any) -> Checks:
        path = ("columns", name)
        if not isinstance(column, dict):
            self._fault(path, f"columns.{name} is not a table, such as {name} = {{min = 0}}")
            return checks
        known = ("kept", "level", *RULES, *OF_COLUMNS)
        for key in column:
            if key not in known:
                advice = did_you_mean(key, known)
                why = (
                    " is a check of the whole job, not of a column" if key in CHECKS else f"unknown key {key!r}{advice}"
                )
                self._fault((*path, key), f"{key!r}{why}" if key in CHECKS else why)
        level = self._level(column["level"], (*path, "level"), "warn") if "level" in column else None
        own: dict[CheckName, Check] = {}
        for check in OF_COLUMNS:
            base = checks.table[check]
            if level is not None:
                base = replace(base, level=level)
            if check in column:
                own[check] = self._check(check, column[check], (*path, check), base)
            elif level is not None:
                own[check] = base
        kept = column.get("kept", False)
        if type(kept) is not bool:
            self._fault((*path, "kept"), f"kept = {kept!r} is neither true nor false")
        return replace(
            checks,
            columns={**checks.columns, name: own} if own else checks.columns,
            rules=(*checks.rules, *self._rules(name, column, path)),
            kept=(*checks.kept, name) if kept is True else checks.kept,
        )

    def _rules(self, name: str, column: Mapping[str, Any], path: tuple[str, ...]) -> list[RowRule]:
        rules = []
        for key in RULES:
            if key not in column:
                continue
            value = column[key]
            if key == "not_null":
                if type(value) is not bool:
                    self._fault((*path, key), f"not_null = {value!r} is neither true nor false")
                elif value:
                    rules.append(RowRule(column=name, rule=key))
                continue
            try:
                rules.append(RowRule(column=name, rule=key, value=encode(value)))
            except (ValueError, TypeError, AttributeError):
                self._fault((*path, key), f"{key} = {value!r} is not {_RULE_VALUES[key]}")
        by_key = {rule.rule: rule.limit for rule in rules}
        if "pattern" in by_key:
            try:
                re.compile(by_key["pattern"])
            except re.error as error:
                self._fault((*path, "pattern"), f"pattern is not a regular expression: {error}")
        if "min" in by_key and "max" in by_key:
            try:
                crossed = by_key["min"] > by_key["max"]
            except TypeError:
                self._fault((*path, "max"), "min and max are of different types")
            else:
                if crossed:
                    self._fault((*path, "max"), f"max = {by_key['max']} is below min = {by_key['min']}")
        return rules

    def _check(self, name: CheckName, given: Any, path: tuple[str, ...], base: Check) -> Check:
        """Read a check, whose missing keys are those of `base`. A text is short for its level."""
        if isinstance(given, str):
            return replace(base, level=self._level(given, path, base.level))
        if not isinstance(given, dict):
            self._fault(path, f"{'.'.join(path)} = {given!r} is neither a table nor one of {', '.join(LEVELS)}")
            return base
        known = CHECKS[name]
        level, limits = base.level, dict(base.limits)
        for key, value in given.items():
            if key == "level":
                level = self._level(value, (*path, key), level)
            elif key not in known:
                self._fault((*path, key), f"unknown key {key!r} of {name}{did_you_mean(key, ('level', *known))}")
            elif value is False:
                limits.pop(key, None)
            else:
                found = read_limit(known[key], value)
                if isinstance(found, str):
                    self._fault((*path, key), f"{key} = {value!r} is not {found}")
                else:
                    limits[key] = found
        if limits.get("min", 0) > limits.get("max", float("inf")):
            self._fault((*path, "max"), f"max of {name} is below its min")
        return Check(level=level, limits=limits)

    def _level(self, given: Any, path: tuple[str, ...], default: CheckLevel) -> CheckLevel:
        for level in LEVELS:
            if given == level:
                return level
        advice = did_you_mean(given, LEVELS) if isinstance(given, str) else f"; choose one of {', '.join(LEVELS)}"
        self._fault(path, f"unknown level {given!r}{advice}")
        return default

    def _fault(self, path: tuple[str, ...], message: str) -> None:
        self.faults.append(Fault(line=self._lines.of(*path), message=message))


_RULE_VALUES: Mapping[str, str] = {
    "min": "a number, a date or a time",
    "max": "a number, a date or a time",
    "in": "a list of texts, numbers, dates or booleans",
    "pattern": "a text with a regular expression",
}
