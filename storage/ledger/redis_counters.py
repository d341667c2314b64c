"""Counters in Redis that all processes of a deployment share."""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any, cast

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
    cumulate,
)

log = logging.getLogger(__name__)

_SLOTS = (
    "rows",
    "rejected",
    "scored",
    "failed",
    "part_us",
    *(f"job_{state}" for state in ENDS if state != "blocked"),
    *(f"le_{bound}" for bound in PART_BUCKETS_S),
    "le_inf",
    "job_blocked",
)
"""Names of the 64-bit numbers in a Redis string, in the order in which the string stores them. New names must be
appended at the end, because two releases may use the string at the same time."""


class RedisCounters:
    """Counters of one deployment (see `Counters`).

    Parameters
    ----------
    client : redis.Redis
        Client that the ledger uses.
    key : str
        Key of the string. Counters for single models are stored under ``<key>:models`` and ``<key>:paces``.
    translate_errors : callable
        Returns a context manager that turns errors of the client into errors of `scoreline.storage.errors`.
    """

    def __init__(self, client: Any, key: str, translate_errors: Callable[[], AbstractContextManager[None]]) -> None:
        self._client = client
        self.key = key
        self._models_key = f"{key}:models"
        self._paces_key = f"{key}:paces"
        self._translate_errors = translate_errors

    def count_part(self, *, rows: int, rejected: int, failed: bool, seconds: float | None) -> None:
        """Count a part with a single command (see `Counters.count_part`)."""
        self._add(words_of_part(rows=rows, rejected=rejected, failed=failed, seconds=seconds))

    def count_job(self, state: str) -> None:
        """Count a job that ended (see `Counters.count_job`)."""
        self._add(_words({f"job_{state}": 1}))

    def count_load(self, model: str, seconds: float) -> None:
        """Count a model that was loaded (see `Counters.count_load`)."""
        with self._best_effort():
            known = self._client.hexists(self._models_key, f"{model} count")
            if not known and self._client.hlen(self._models_key) >= 2 * MAX_MODELS:
                model = OTHER_MODELS
            with self._client.pipeline(transaction=False) as pipe:
                pipe.hincrby(self._models_key, f"{model} count", 1)
                pipe.hincrby(self._models_key, f"{model} us", round(1e6 * seconds))
                pipe.execute()

    def note_pace(self, what: str, rows_per_s: float) -> None:
        """Remember a pace (see `Counters.note_pace`)."""
        with self._best_effort():
            if self._client.hlen(self._paces_key) >= MAX_PACES and not self._client.hexists(self._paces_key, what):
                self._client.delete(self._paces_key)
            self._client.hset(self._paces_key, what, f"{rows_per_s:.6g}")

    def pace(self, what: str) -> float | None:
        """Return the pace that was last noted (see `Counters.pace`)."""
        return self.paces([what]).get(what)

    def paces(self, whats: Collection[str]) -> dict[str, float]:
        """Return several paces with a single command (see `Counters.paces`)."""
        texts: list[str | None] = []
        with self._best_effort():
            texts = self._client.hmget(self._paces_key, list(whats)) if whats else []
        paces = {}
        for what, text in zip(whats, texts, strict=False):
            with contextlib.suppress(ValueError, TypeError):
                pace = float(cast(str, text))
                if math.isfinite(pace) and pace > 0:
                    paces[what] = pace
        return paces

    def read(self) -> Totals:
        """Return all counters (see `Counters.read`)."""
        with self._translate_errors():
            values = self._bitfield([word for name in _SLOTS for word in ("GET", "i64", _offset(name))])
            models = self._client.hgetall(self._models_key)
        totals = dict(zip(_SLOTS, values, strict=True))
        names = sorted({field.partition(" ")[0] for field in models})
        return Totals(
            rows=totals["rows"],
            rejected=totals["rejected"],
            parts_scored=totals["scored"],
            parts_failed=totals["failed"],
            part_seconds=totals["part_us"] / 1e6,
            part_buckets=cumulate({bound: totals[f"le_{bound}"] for bound in (*PART_BUCKETS_S, float("inf"))}),
            jobs={state: totals[f"job_{state}"] for state in ENDS},
            loads={
                name: Loads(
                    count=to_count(models.get(f"{name} count")), seconds=to_count(models.get(f"{name} us")) / 1e6
                )
                for name in names
            },
        )

    def note_lost(self, error: str) -> None:
        """Log that something could not be counted."""
        log.warning("counters.lost", extra={"error": error})

    def _add(self, words: list[Any]) -> None:
        """Add to several numbers with a single command, so that either all of them change or none."""
        with self._best_effort():
            self._bitfield(words)

    def _bitfield(self, words: list[Any]) -> list[int]:
        return list(self._client.execute_command("BITFIELD", self.key, *words))

    @contextlib.contextmanager
    def _best_effort(self) -> Iterator[None]:
        try:
            with self._translate_errors():
                yield
        except LedgerUnavailable as error:
            self.note_lost(describe(error))


def words_of_part(*, rows: int, rejected: int, failed: bool, seconds: float | None) -> list[Any]:
    """Return the arguments of BITFIELD that count a part (see `Counters.count_part`)."""
    changes = {"rows": rows, "rejected": rejected, "failed" if failed else "scored": 1}
    if seconds is not None:
        changes |= {"part_us": round(1e6 * seconds), f"le_{bucket_of(seconds)}": 1}
    return _words(changes)


def _words(changes: Mapping[str, int]) -> list[Any]:
    """Return the arguments of BITFIELD that add to numbers."""
    return [word for name, by in changes.items() if by for word in ("INCRBY", "i64", _offset(name), by)]


def _offset(name: str) -> str:
    return f"#{_SLOTS.index(name)}"


def to_count(text: str | None) -> int:
    """Return the value of a counter; 0 if it is missing or not a number."""
    try:
        return int(text or 0)
    except ValueError:
        return 0
