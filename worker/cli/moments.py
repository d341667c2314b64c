"""Times as a user types them: in ISO 8601, or as a duration before now."""

from __future__ import annotations

import contextlib
import re
from datetime import UTC, datetime, timedelta
from typing import Any

import click

_DURATION = re.compile(r"(\d{1,6})([mhd])", re.ASCII)
_UNITS = {"m": "minutes", "h": "hours", "d": "days"}


class Moment(click.ParamType[Any]):
    """A time with a zone.

    Parameters
    ----------
    end : bool
        Whether a date stands for its last moment; by default, it stands for its first.

    >>> Moment().convert("2026-11-25", None, None).isoformat()
    '2026-11-25T00:00:00+00:00'
    >>> Moment(end=True).convert("2026-11-25", None, None).isoformat()
    '2026-11-25T23:59:59.999999+00:00'
    """

    name = "time"

    def __init__(self, *, end: bool = False) -> None:
        self._end = end

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        """Parse a time or a duration."""
        if isinstance(value, datetime):
            return value
        text = str(value).strip()
        if found := _DURATION.fullmatch(text):
            with contextlib.suppress(OverflowError):
                return datetime.now(UTC) - timedelta(**{_UNITS[found[2]]: int(found[1])})
        try:
            moment = datetime.fromisoformat(text)
        except ValueError:
            self.fail(f"{text!r} is neither a time such as 2026-11-25T02:30 nor a duration such as 7d", param, ctx)
        if self._end and len(text) == len("2026-11-25"):
            moment += timedelta(days=1, microseconds=-1)
        return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
