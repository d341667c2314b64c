"""Finds out what is wrong with a message before Celery reads it. Anyone with access to the broker can send messages."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any


def fault_of(headers: Any, properties: Any) -> str:
    """Return what is wrong with the headers of a message; empty if a worker can handle them.

    Time limits and the number of retries are checked here, because Celery uses them long after it has accepted the
    message.

    >>> fault_of({"task": "scoreline.plan", "id": "1", "timelimit": ["x", None]}, {})
    'timelimit is not two numbers'
    >>> fault_of({"task": "scoreline.plan", "id": "1", "retries": 2, "timelimit": [None, 60]}, {})
    ''
    """
    if not isinstance(headers, Mapping) or not isinstance(properties, Mapping):
        return "the headers are not an object"
    for name in ("task", "id", "root_id", "parent_id", "shadow", "group", "eta", "expires", "argsrepr", "kwargsrepr"):
        if not isinstance(headers.get(name), str | None):
            return f"{name} is not a text"
    if headers.get("task") is not None and headers.get("id") is None:
        return "id is missing"
    if not _is_number(headers.get("retries") or 0):
        return "retries is not a number"
    limits = headers.get("timelimit") or (None, None)
    if not isinstance(limits, list | tuple) or len(limits) != 2 or not all(_is_number(limit or 0) for limit in limits):
        return "timelimit is not two numbers"
    return ""


def fault_of_body(message: Any) -> str:
    """Return what is wrong with the arguments of a message; empty if they are valid or if Celery checks them."""
    if "task" not in message.headers:  # Celery checks messages of the older protocol itself
        return ""
    match message.payload:
        case [list(), dict(), dict() | None]:
            return ""
    return "the body is not [arguments, named arguments, options]"


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value) and value >= 0
