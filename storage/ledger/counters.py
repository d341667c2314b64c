"""What happened so far, added up in Redis for whoever measures a deployment.

No record: an emptied Redis begins again at zero, and what Redis cannot take is not counted. Scoring goes on either way.
"""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from scoreline.storage.errors import LedgerUnavailable, describe

log = logging.getLogger(__name__)

PART_BUCKETS_S = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
"""Upper bounds of the histogram of part durations; 600 s is the time limit of a task."""
MAX_MODELS = 100
"""Models told apart; loads of any further ones are added up as `OTHER_MODELS`."""
OTHER_MODELS = "_other"
MAX_PACES = 1_000
"""Versions of models, each with a method, whose pace is remembered; when there are more, all are learned anew."""
ENDS = ("succeeded", "partial", "failed", "cancelled")

_SLOTS = (
    "rows",
    "rejected",
    "scored",
    "failed",
    "part_us",
    *(f"job_{state}" for state in ENDS),
    *(f"le_{bound}" for bound in PART_BUCKETS_S),
    "le_inf",
)
"""64-bit numbers, by their position in one string. Append only: processes of two releases may share it."""


@dataclass(frozen=True, kw_only=True)
class Loads:
    """How often a model was loaded into a process, and how long that took."""

    count: int
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Totals:
    """What was counted since Redis was emptied last."""

    rows: int
    """Scored."""
    rejected: int
    parts_scored: int
    parts_failed: int
    part_seconds: float
    """Of the parts in `part_buckets`."""
    part_buckets: tuple[tuple[float, int], ...]
    """Parts by duration: upper bound in seconds, ending with infinity, and how many took that long or less."""
    jobs: Mapping[str, int]
    """Jobs that ended, by state."""
    loads: Mapping[str, Loads]
    """By name of the model."""


class Counters:
    """Counters of one deployment. Each method but `read` is a best effort, and never raises for Redis.

    Parameters
    ----------
    client : redis.Redis
        Of the ledger.
    key : str
        Of the numbers; the models' are below ``<key>:models``.
    translated : callable
        Gives a context that turns the client's errors into ours.
    """

    def __init__(self, client: Any, key: str, translated: Callable[[], AbstractContextManager[None]]) -> None:
        self._client = client
        self._key = key
        self._models_key = f"{key}:models"
        self._paces_key = f"{key}:paces"
        self._translated = translated

    def count_part(self, *, rows: int, rejected: int, failed: bool, seconds: float | None) -> None:
        """Count a part that the ledger has just counted.

        Parameters
        ----------
        seconds : float, optional
            Duration; None where it failed, or was found written by somebody who did not count it.
        """
        changes = {"rows": rows, "rejected": rejected, "failed" if failed else "scored": 1}
        if seconds is not None:
            bound = next((bound for bound in PART_BUCKETS_S if seconds <= bound), "inf")
            changes |= {"part_us": round(1e6 * seconds), f"le_{bound}": 1}
        self._add(changes)

    def count_job(self, state: str) -> None:
        """Count a job whose outcome the caller has just written."""
        self._add({f"job_{state}": 1})

    def count_load(self, model: str, seconds: float) -> None:
        """Count a model that was loaded into a process."""
        with self._tried():
            known = self._client.hexists(self._models_key, f"{model} count")
            if not known and self._client.hlen(self._models_key) >= 2 * MAX_MODELS:
                model = OTHER_MODELS
            with self._client.pipeline(transaction=False) as pipe:
                pipe.hincrby(self._models_key, f"{model} count", 1)
                pipe.hincrby(self._models_key, f"{model} us", round(1e6 * seconds))
                pipe.execute()

    def note_pace(self, what: str, rows_per_s: float) -> None:
        """Remember how many rows a second one process scores in jobs of `what`."""
        with self._tried():
            if self._client.hlen(self._paces_key) >= MAX_PACES and not self._client.hexists(self._paces_key, what):
                self._client.delete(self._paces_key)
            self._client.hset(self._paces_key, what, f"{rows_per_s:.6g}")

    def pace(self, what: str) -> float | None:
        """Rows a second of `what`, as noted last; None where it is not known."""
        with self._tried(), contextlib.suppress(ValueError, TypeError):
            pace = float(self._client.hget(self._paces_key, what))
            return pace if math.isfinite(pace) and pace > 0 else None
        return None

    def read(self) -> Totals:
        """Return what was counted; raises `LedgerUnavailable`."""
        with self._translated():
            values = self._bitfield([word for name in _SLOTS for word in ("GET", "i64", _place(name))])
            models = self._client.hgetall(self._models_key)
        at = dict(zip(_SLOTS, values, strict=True))
        buckets, parts = [], 0
        for bound in (*PART_BUCKETS_S, float("inf")):
            parts += at[f"le_{bound}"]
            buckets.append((bound, parts))
        names = sorted({field.partition(" ")[0] for field in models})
        return Totals(
            rows=at["rows"],
            rejected=at["rejected"],
            parts_scored=at["scored"],
            parts_failed=at["failed"],
            part_seconds=at["part_us"] / 1e6,
            part_buckets=tuple(buckets),
            jobs={state: at[f"job_{state}"] for state in ENDS},
            loads={
                name: Loads(count=int(models.get(f"{name} count", 0)), seconds=int(models.get(f"{name} us", 0)) / 1e6)
                for name in names
            },
        )

    def _add(self, changes: Mapping[str, int]) -> None:
        """Add to several numbers by one command, which takes all of them or none."""
        with self._tried():
            self._bitfield([word for name, by in changes.items() if by for word in ("INCRBY", "i64", _place(name), by)])

    def _bitfield(self, words: list[Any]) -> list[int]:
        return list(self._client.execute_command("BITFIELD", self._key, *words))

    @contextlib.contextmanager
    def _tried(self) -> Iterator[None]:
        try:
            with self._translated():
                yield
        except LedgerUnavailable as error:
            log.warning("counters.lost", extra={"error": describe(error)})


def _place(name: str) -> str:
    return f"#{_SLOTS.index(name)}"
