"""Counters in Redis, which every process of a deployment adds to."""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any

from scoreline.storage.errors import LedgerUnavailable, describe
from scoreline.storage.ledger.counters import (
    ENDS,
    MAX_MODELS,
    MAX_PACES,
    OTHER_MODELS,
    PART_BUCKETS_S,
    Loads,
    Totals,
    bucket_of,
    cumulated,
)

log = logging.getLogger(__name__)

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


class RedisCounters:
    """Counters of one deployment (see `Counters`).

    Parameters
    ----------
    client : redis.Redis
        Client of the ledger.
    key : str
        Key of the numbers; those of models are below ``<key>:models`` and ``<key>:paces``.
    translated : callable
        Returns a context that turns the client's errors into those of `scoreline.storage.errors`.
    """

    def __init__(self, client: Any, key: str, translated: Callable[[], AbstractContextManager[None]]) -> None:
        self._client = client
        self._key = key
        self._models_key = f"{key}:models"
        self._paces_key = f"{key}:paces"
        self._translated = translated

    def count_part(self, *, rows: int, rejected: int, failed: bool, seconds: float | None) -> None:
        """Count a part by one command (see `Counters.count_part`)."""
        changes = {"rows": rows, "rejected": rejected, "failed" if failed else "scored": 1}
        if seconds is not None:
            changes |= {"part_us": round(1e6 * seconds), f"le_{bucket_of(seconds)}": 1}
        self._add(changes)

    def count_job(self, state: str) -> None:
        """Count a job that ended (see `Counters.count_job`)."""
        self._add({f"job_{state}": 1})

    def count_load(self, model: str, seconds: float) -> None:
        """Count a model that was loaded (see `Counters.count_load`)."""
        with self._tried():
            known = self._client.hexists(self._models_key, f"{model} count")
            if not known and self._client.hlen(self._models_key) >= 2 * MAX_MODELS:
                model = OTHER_MODELS
            with self._client.pipeline(transaction=False) as pipe:
                pipe.hincrby(self._models_key, f"{model} count", 1)
                pipe.hincrby(self._models_key, f"{model} us", round(1e6 * seconds))
                pipe.execute()

    def note_pace(self, what: str, rows_per_s: float) -> None:
        """Remember a pace (see `Counters.note_pace`)."""
        with self._tried():
            if self._client.hlen(self._paces_key) >= MAX_PACES and not self._client.hexists(self._paces_key, what):
                self._client.delete(self._paces_key)
            self._client.hset(self._paces_key, what, f"{rows_per_s:.6g}")

    def pace(self, what: str) -> float | None:
        """Return the pace noted last (see `Counters.pace`)."""
        with self._tried(), contextlib.suppress(ValueError, TypeError):
            pace = float(self._client.hget(self._paces_key, what))
            return pace if math.isfinite(pace) and pace > 0 else None
        return None

    def read(self) -> Totals:
        """Return what was counted (see `Counters.read`)."""
        with self._translated():
            values = self._bitfield([word for name in _SLOTS for word in ("GET", "i64", _place(name))])
            models = self._client.hgetall(self._models_key)
        at = dict(zip(_SLOTS, values, strict=True))
        names = sorted({field.partition(" ")[0] for field in models})
        return Totals(
            rows=at["rows"],
            rejected=at["rejected"],
            parts_scored=at["scored"],
            parts_failed=at["failed"],
            part_seconds=at["part_us"] / 1e6,
            part_buckets=cumulated({bound: at[f"le_{bound}"] for bound in (*PART_BUCKETS_S, float("inf"))}),
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
