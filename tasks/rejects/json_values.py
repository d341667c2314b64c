"""Converts values of a table to JSON."""

from __future__ import annotations

import math
from typing import Any


def to_json_value(value: Any) -> Any:
    """Return the value in a form that every JSON reader accepts. A value that JSON cannot represent becomes text.

    >>> from datetime import date
    >>> to_json_value({"x": float("inf"), "on": [date(2026, 11, 25), None]})
    {'x': 'inf', 'on': ['2026-11-25', None]}
    """
    match value:
        case dict():
            return {str(key): to_json_value(item) for key, item in value.items()}
        case list() | tuple():
            return [to_json_value(item) for item in value]
        case float() if not math.isfinite(value):
            return str(value)
        case None | bool() | int() | float() | str():
            return value
    return str(value)
