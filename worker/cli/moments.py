"""Times and durations as a user types them. A time is in ISO 8601, or a duration before now."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime, timedelta
from typing import Any

import click

from scoreline.storage.errors import InvalidRequest
from scoreline.tasks.job.durations import EXAMPLES, find_duration, parse_duration


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
        if (ago := find_duration(text)) is not None:
            with contextlib.suppress(OverflowError):
                return datetime.now(UTC) - ago
        try:
            moment = datetime.fromisoformat(text)
        except ValueError:
            self.fail(
                f"{text!r} is neither a time such as 2026-11-25T02:30 nor a duration such as {EXAMPLES}", param, ctx
            )
        if self._end and len(text) == len("2026-11-25"):
            moment += timedelta(days=1, microseconds=-1)
        return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


class Duration(click.ParamType[Any]):
    """A duration such as ``90s``, ``10m`` or ``1d12h``, in seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the seconds, or fail."""
        if isinstance(value, int | float):
            return float(value)
        try:
            return parse_duration(str(value)).total_seconds()
        except InvalidRequest as error:
            self.fail(str(error), param, ctx)
