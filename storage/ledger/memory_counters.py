"""Counters in the memory of one process."""

from __future__ import annotations

import math
import threading
from collections import Counter
from collections.abc import Collection

from scoreline.storage.ledger.counters import (
    ENDS,
    MAX_MODELS,
    MAX_PACES,
    OTHER_MODELS,
    Loads,
    Totals,
    bucket_of,
    cumulate,
)


class MemoryCounters:
    """Counters of one process (see `Counters`)."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._part_us = 0
        self._parts_by_bound: Counter[float] = Counter()
        self._loads: dict[str, Loads] = {}
        self._paces: dict[str, float] = {}

    def count_part(self, *, rows: int, rejected: int, failed: bool, seconds: float | None) -> None:
        """Count a part (see `Counters.count_part`)."""
        with self._lock:
            self._counts.update({"rows": rows, "rejected": rejected, "failed parts" if failed else "scored parts": 1})
            if seconds is not None:
                self._part_us += round(1e6 * seconds)
                self._parts_by_bound[bucket_of(seconds)] += 1

    def count_job(self, state: str) -> None:
        """Count a job that ended (see `Counters.count_job`)."""
        with self._lock:
            self._counts[f"job {state}"] += 1

    def count_load(self, model: str, seconds: float) -> None:
        """Count a model that was loaded (see `Counters.count_load`)."""
        with self._lock:
            if model not in self._loads and len(self._loads) >= MAX_MODELS:
                model = OTHER_MODELS
            known = self._loads.get(model, Loads(count=0, seconds=0.0))
            self._loads[model] = Loads(count=known.count + 1, seconds=known.seconds + seconds)

    def note_pace(self, what: str, rows_per_s: float) -> None:
        """Remember a pace (see `Counters.note_pace`)."""
        with self._lock:
            if what not in self._paces and len(self._paces) >= MAX_PACES:
                self._paces.clear()
            self._paces[what] = rows_per_s

    def pace(self, what: str) -> float | None:
        """Return the pace that was last noted (see `Counters.pace`)."""
        with self._lock:
            pace = self._paces.get(what, 0.0)
        return pace if math.isfinite(pace) and pace > 0 else None

    def paces(self, whats: Collection[str]) -> dict[str, float]:
        """Return several paces (see `Counters.paces`)."""
        return {what: pace for what in whats if (pace := self.pace(what)) is not None}

    def read(self) -> Totals:
        """Return all counters (see `Counters.read`)."""
        with self._lock:
            return Totals(
                rows=self._counts["rows"],
                rejected=self._counts["rejected"],
                parts_scored=self._counts["scored parts"],
                parts_failed=self._counts["failed parts"],
                part_seconds=self._part_us / 1e6,
                part_buckets=cumulate(self._parts_by_bound),
                jobs={state: self._counts[f"job {state}"] for state in ENDS},
                loads=dict(self._loads),
            )
