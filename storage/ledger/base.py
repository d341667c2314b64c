"""What a ledger answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Started:
    """Answer to the start of a part."""

    done: bool
    """The part was finished before: do not score it again."""
    attempt: int
    """Counts from 1."""
    all_done: bool


@dataclass(frozen=True, kw_only=True)
class Completed:
    """Answer to the end of a part."""

    next_part: int | None
    """To be dispatched by whoever got this answer; nobody else is given it."""
    all_done: bool


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a job is."""

    parts: int
    parts_done: int
    parts_failed: int
    rows: int
    """Rows scored so far."""
    rejected: int
    failures: Mapping[int, str]
    """Reasons by part."""
    closed: bool
    """The outcome is written."""
