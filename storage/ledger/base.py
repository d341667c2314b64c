"""What a ledger answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

ToDo = Literal["run", "done", "busy", "stopped", "unknown"]
Stopped = Literal["", "budget", "failures", "closed"]
"""Why no more parts are given out: too many rows rejected, too many parts failed, or the outcome is written."""


@dataclass(frozen=True, kw_only=True)
class Started:
    """Answer to the start of a part."""

    to_do: ToDo
    """``run``: score it. ``done``: it was finished before. ``busy``: another holds its lease, which the reconciler
    watches. ``stopped``: the job gives out no more parts. ``unknown``: its turn has not come, it will be sent again."""
    attempt: int
    """Counts from 1."""
    all_done: bool
    result_may_exist: bool
    """Whether somebody may have written the part without counting it."""
    budget: int
    """Rows of the job that may be rejected."""


@dataclass(frozen=True, kw_only=True)
class Completed:
    """Answer to the end of a part."""

    next_part: int | None
    """To be dispatched by whoever got this answer; nobody else is given it."""
    all_done: bool
    stopped: Stopped
    counted: bool
    """Whether it was this call that counted the part."""


@dataclass(frozen=True, kw_only=True)
class Due:
    """What has to be done for a job now."""

    parts: tuple[int, ...]
    """To be dispatched by whoever got this answer."""
    all_done: bool
    stopped: Stopped


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a job is."""

    parts: int
    parts_done: int
    """Failed ones included."""
    rows: int
    """Rows scored so far."""
    rejected: int
    failures: Mapping[int, str]
    """Reasons by part."""
    in_flight: int
    """Parts in the queue or being scored."""
    stopped: Stopped

    @property
    def over(self) -> bool:
        """Whether the job is at its end, and the outcome is not written."""
        return self.stopped in ("budget", "failures") or (self.all_done and self.stopped != "closed")

    @property
    def all_done(self) -> bool:
        """Whether no part is left."""
        return self.parts_done == self.parts


@dataclass(frozen=True, kw_only=True)
class Recovered:
    """What the results in the bucket say of a job whose ledger is gone."""

    done: frozenset[int]
    rows: int
    rejected: int
