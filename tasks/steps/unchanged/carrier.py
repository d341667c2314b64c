"""Finds the scores of a part's rows among those of the accepted run.

Which parts of the accepted run have the rows of a batch is known from sketches in its manifest: the smallest hashes of
each part. At most `MAX_LOADS` of its parts are read for a part, and `KEPT_BYTES` of them kept in memory, however large
the run is. Rows that are in none of them are scored, so that the results never depend on what is found.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from scoreline.storage.errors import ObjectNotFound
from scoreline.storage.models.bundle import Bundle
from scoreline.storage.objects.buckets import Buckets
from scoreline.tasks.job.plan import Columns
from scoreline.tasks.steps.unchanged.accepted_run import (
    AcceptedPart,
    AcceptedRuns,
    environment_of,
    outputs_of,
    scores_of,
)
from scoreline.tasks.steps.unchanged.carried_batch import Found, Split
from scoreline.tasks.steps.unchanged.row_hashes import RowHasher
from scoreline.tasks.steps.unchanged.stored_scores import ScoresBuffer, StoredBytes, StoredScores, Unusable, sketched

log = logging.getLogger(__name__)

MAX_LOADS = 16
"""Maximum number of parts of the accepted run that are read for one part. In the same order, two are enough; in any
order, 16 parts have 4 million rows."""
KEPT_BYTES = 64 << 20
"""Maximum memory of parts of the accepted run, unless one alone is larger."""
_MANY = 4
"""If more than ``1 / _MANY`` of the rows of a batch are found nowhere, the part after the last one is tried, too."""


@dataclass(kw_only=True)
class _Sketches:
    """The sketches of all parts of a run."""

    hashes: Any
    parts: Any

    @classmethod
    def of(cls, parts: tuple[AcceptedPart | None, ...]) -> _Sketches:
        found = [np.empty(0, np.uint64) if part is None else sketched(part.sketch) for part in parts]
        hashes = np.concatenate([np.empty(0, np.uint64), *found])
        numbers = np.repeat(np.arange(len(parts)), [len(one) for one in found])
        order = np.argsort(hashes, kind="stable")
        return cls(hashes=hashes[order], parts=numbers[order])

    def parts_of(self, hi: Any) -> list[int]:
        """Return the parts that share hashes with a batch, those that share most first."""
        if not len(self.hashes):
            return []
        wanted = np.sort(hi[hi <= self.hashes[-1]])
        if not len(wanted):
            return []
        places = np.searchsorted(wanted, self.hashes)
        places[places == len(wanted)] = 0
        numbers, counts = np.unique(self.parts[wanted[places] == self.hashes], return_counts=True)
        return [int(number) for number in numbers[np.argsort(-counts, kind="stable")]]


class Carrier:
    """Carries scores over for the rows of one part, and collects the scores of all its rows for the next job.

    Parameters
    ----------
    columns : Columns
        The columns of the plan.
    place : float
        Where the part is among the parts of its job, from 0 to 1.
    """

    def __init__(self, buckets: Buckets, runs: AcceptedRuns, columns: Columns, place: float) -> None:
        assert columns.carry is not None
        self._buckets, self._runs, self._carry, self._place = buckets, runs, columns.carry, place
        self._keep, self._outputs = columns.keep, outputs_of(columns)
        self._hasher = RowHasher(self._carry.hashed, self._carry.fingerprint)
        self._buffer = ScoresBuffer()
        self._parts: tuple[AcceptedPart | None, ...] = ()
        self._sketches: _Sketches | None = None
        self._loaded: OrderedDict[int, StoredScores] = OrderedDict()
        self._lost: set[int] = set()
        self._loads, self._last = 0, -1
        self.carried = 0
        """Number of rows whose scores are carried over."""
        self.fault = ""
        """Why the scores of some rows were not found, for people to read; empty if nothing was missing."""

    def begin(self, bundle: Bundle) -> bool:
        """Prepare to carry scores. Return False if this process would score with other libraries than those planned."""
        if environment_of(bundle) != self._carry.environment:
            self.fault = "a worker has other versions of the libraries than the one that planned the job"
            return False
        if self._carry.job_id:
            parts = self._runs.parts(self._buckets, self._carry)
            if parts is None:
                self._missing("its manifest was removed or replaced")
            else:
                self._parts, self._sketches = parts, _Sketches.of(parts)
                self._last = min(int(self._place * len(parts)), len(parts) - 1) - 1
        return True

    def split(self, batch: pa.RecordBatch, describe_row: Callable[[int], str]) -> Split:
        """Find the rows of a batch whose scores need not be computed (see `Split` for the parameters)."""
        hashes = self._hasher.hashes(batch)
        found = list(self._find(*hashes)) if self._sketches is not None and batch.num_rows else []
        return Split(
            batch=batch, describe_row=describe_row, hashes=hashes, found=found, keep=self._keep, outputs=self._outputs
        )

    def add(self, split: Split, results: pa.Table | None, rejected: Any) -> None:
        """Collect the scores of a batch. The parameters are those of `PartProfile.add`."""
        self.carried += split.carried
        if results is not None:
            is_scored = np.ones(len(split.hashes[0]), bool)
            is_scored[rejected] = False
            hi, lo = split.hashes
            self._buffer.add((hi[is_scored], lo[is_scored]), results.select(self._outputs.names))

    def finish(self) -> StoredBytes | None:
        """Return the scores of the part as they are to be stored; None if it has none."""
        return self._buffer.finish()

    def _find(self, hi: Any, lo: Any) -> Iterator[Found]:
        """Yield scores with the rows of the batch to which they belong."""
        left = np.arange(len(hi))
        for part in self._candidates(hi):
            stored = self._load(part)
            if stored is None:
                continue
            places = stored.find(hi[left], lo[left])
            hit = places >= 0
            if hit.any():
                self._last = part
                yield Found(rows=left[hit], places=places[hit], scores=stored.scores)
                left = left[~hit]
            if not len(left):
                return
        while len(left) * _MANY > len(hi) and (part := self._last + 1) < len(self._parts) and part not in self._loaded:
            stored = self._load(part)
            places = np.full(len(left), -1) if stored is None else stored.find(hi[left], lo[left])
            hit = places >= 0
            if stored is None or not hit.any():
                return
            self._last = part
            yield Found(rows=left[hit], places=places[hit], scores=stored.scores)
            left = left[~hit]

    def _candidates(self, hi: Any) -> list[int]:
        assert self._sketches is not None
        return list(dict.fromkeys([*reversed(self._loaded), *self._sketches.parts_of(hi)]))

    def _load(self, number: int) -> StoredScores | None:
        """Return the scores of a part of the accepted run; None if they cannot be used, or if enough were read."""
        if number in self._loaded:
            self._loaded.move_to_end(number)
            return self._loaded[number]
        part = self._parts[number]
        if part is None or number in self._lost or self._loads >= MAX_LOADS:
            return None
        self._loads += 1
        try:
            stored = StoredScores(
                scores_of(self._buckets, self._carry, number, part.sha256), part.sha256, self._outputs
            )
        except (ObjectNotFound, Unusable) as error:
            what = str(error) if isinstance(error, Unusable) else "is missing"
            self._lost.add(number)
            self._missing(f"the object with the scores of its part {number} {what}")
            return None
        self._loaded[number] = stored
        while len(self._loaded) > 1 and sum(one.nbytes for one in self._loaded.values()) > KEPT_BYTES:
            self._loaded.popitem(last=False)
        return stored

    def _missing(self, what: str) -> None:
        self.fault = self.fault or f"run {self._carry.job_id}: {what}"
        log.warning("carry.lost", extra={"run": self._carry.job_id, "error": what})
