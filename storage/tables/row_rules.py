"""Rules that each row of a table must meet, as data. `scoreline.tasks.scoring.contract` evaluates these rules."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any, Literal

RuleName = Literal["not_null", "min", "max", "in", "pattern"]
RULES: tuple[RuleName, ...] = ("not_null", "min", "max", "in", "pattern")
"""The rules, in the order in which they are evaluated."""
Value = bool | int | float | str | date | datetime
"""A value that a rule compares with."""


@dataclass(frozen=True, kw_only=True)
class RowRule:
    """A rule that each value of a column must meet. A missing value breaks only the rule ``not_null``.

    Raises
    ------
    ValueError, TypeError
        The value does not fit the rule.
    """

    column: str
    rule: RuleName
    value: Any = None
    """What the rule compares with, as JSON has it (see `encode`). ``not_null`` has no value, and ``in`` has a list."""

    def __post_init__(self) -> None:
        limit = self.limit
        if self.rule == "not_null":
            fits = limit is None
        elif self.rule == "pattern":
            fits = isinstance(limit, str)
        elif self.rule == "in":
            fits = isinstance(limit, tuple) and bool(limit) and all(map(_is_value, limit))
        else:
            fits = _is_value(limit) and not isinstance(limit, bool | str)
        if not fits:
            raise ValueError(f"the value of a rule {self.rule} does not fit the rule")

    @property
    def limit(self) -> Any:
        """The value as Python has it: a value, a tuple of values for ``in``, or None for ``not_null``."""
        return tuple(map(_decode, self.value)) if isinstance(self.value, list | tuple) else _decode(self.value)

    def __str__(self) -> str:
        """Return the rule as ``checks.toml`` has it, shortened.

        >>> str(RowRule(column="age", rule="max", value=120)), str(RowRule(column="id", rule="not_null"))
        ('max = 120', 'not_null')
        """
        if self.rule == "not_null":
            return self.rule
        limit = self.limit
        if not isinstance(limit, tuple):
            return f"{self.rule} = {show(limit)}"
        more = ", …" if len(limit) > _SHOWN else ""
        return f"{self.rule} = [{', '.join(map(show, limit[:_SHOWN]))}{more}]"


_SHOWN = 5
_MAX_SHOWN_CHARS = 60


def encode(value: Any) -> Any:
    """Return a value of TOML as JSON has it.

    >>> encode(date(2026, 11, 29)), encode([1, 2])
    ({'date': '2026-11-29'}, [1, 2])
    """
    if isinstance(value, list | tuple):
        return [encode(item) for item in value]
    if isinstance(value, datetime):
        return {"time": value.isoformat()}
    if isinstance(value, date):
        return {"date": value.isoformat()}
    return value


def show(value: Any) -> str:
    """Return a value as a message shows it.

    >>> show("DE"), show(True), show(1.5), show(date(2026, 11, 29))
    ("'DE'", 'true', '1.5', '2026-11-29')
    """
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, date | datetime):
        return value.isoformat()
    if isinstance(value, str):
        return repr(value if len(value) <= _MAX_SHOWN_CHARS else f"{value[: _MAX_SHOWN_CHARS - 1]}…")
    return str(value)


def _decode(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    ((kind, text),) = value.items()
    return {"date": date.fromisoformat, "time": datetime.fromisoformat}[kind](text)


def _is_value(value: Any) -> bool:
    return isinstance(value, bool | int | str | date) or (isinstance(value, float) and math.isfinite(value))
