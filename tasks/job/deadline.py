"""The deadline of a job: parses what a user gives, and decides when it has passed."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from scoreline.storage.errors import InvalidRequest
from scoreline.storage.typed_json import moment

_UNITS = ("days", "hours", "minutes", "seconds")
_DURATION = re.compile(r"(?:(\d{1,6})d)?(?:(\d{1,6})h)?(?:(\d{1,6})m)?(?:(\d{1,6})s)?")


def resolve_deadline(deadline: str, start: str) -> str:
    """Return a deadline as a time in ISO 8601, in UTC. A duration counts from `start`, a time in ISO 8601.

    Parameters
    ----------
    deadline : str
        A duration such as ``90s``, ``30m``, ``2h`` or ``1d12h``, or a time in ISO 8601 with its zone.

    Raises
    ------
    InvalidRequest
        The deadline is neither a duration nor a time with a zone.

    >>> resolve_deadline("1h30m", "2026-11-25T02:00:00+00:00")
    '2026-11-25T03:30:00+00:00'
    >>> resolve_deadline("2026-11-25T06:00:00+02:00", "2026-11-25T02:00:00+00:00")
    '2026-11-25T04:00:00+00:00'
    """
    found = _DURATION.fullmatch(deadline)
    if found is not None and any(found.groups()):
        span = timedelta(**{unit: int(number or 0) for unit, number in zip(_UNITS, found.groups(), strict=True)})
        if not timedelta(0) < span <= timedelta(days=3650):
            raise InvalidRequest(f"deadline {deadline!r} is not a duration between 1 second and 10 years")
        return (datetime.fromisoformat(start) + span).astimezone(UTC).isoformat()
    try:
        return moment(deadline, "deadline").astimezone(UTC).isoformat()
    except (TypeError, ValueError):
        raise InvalidRequest(
            f"deadline {deadline!r} is neither a duration such as 90s, 30m, 2h or 1d12h nor a time in ISO 8601 with "
            "its zone, such as 2026-11-25T06:00:00Z"
        ) from None


def has_passed(deadline: str | None) -> bool:
    """Return whether a deadline in ISO 8601 has passed. A deadline of None never passes."""
    return deadline is not None and datetime.fromisoformat(deadline) <= datetime.now(UTC)
