"""Reads durations as users type them. All options, settings and schedules read them here."""

from __future__ import annotations

import re
from datetime import timedelta

from scoreline.storage.errors import InvalidRequest

EXAMPLES = "90s, 30m, 2h or 1d12h"
"""Examples for messages."""
LONGEST = timedelta(days=3650)
_UNITS = ("days", "hours", "minutes", "seconds")
_DURATION = re.compile(r"(?:(\d{1,6})d)?(?:(\d{1,6})h)?(?:(\d{1,6})m)?(?:(\d{1,6})s)?", re.ASCII)


def find_duration(text: str) -> timedelta | None:
    """Return the duration that a text is, which may be 0; None if it is not a duration.

    >>> find_duration("1d12h") == find_duration("36h"), find_duration("2026-11-25"), find_duration("30m1h")
    (True, None, None)
    """
    found = _DURATION.fullmatch(text)
    if found is None or not any(found.groups()):
        return None
    return timedelta(**{unit: int(number or 0) for unit, number in zip(_UNITS, found.groups(), strict=True)})


def parse_duration(text: str) -> timedelta:
    """Return a duration between a second and ten years; raises `InvalidRequest`."""
    found = find_duration(text)
    if found is None:
        raise InvalidRequest(f"{text!r} is not a duration such as {EXAMPLES}")
    if not timedelta(0) < found <= LONGEST:
        raise InvalidRequest(f"{text!r} is not a duration between 1 second and 10 years")
    return found
