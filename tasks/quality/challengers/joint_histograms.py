"""Histograms of pairs of numbers, and the rank correlation that follows from them.

A cell is the bucket of one score and the bucket of the other one, both at the same level (see
`scoreline.tasks.quality.profiles.histograms`). The level is the largest one at which at most `MAX_CELLS` cells have
pairs. As with single numbers, the level and the counts depend only on the pairs, not on their order or on how they
were merged.

Probabilities are stretched first (see `stretched`), so that those near 1 are as far apart as those near 0.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from scoreline.tasks.quality.profiles.histograms import MAX_LEVEL, MIN_LEVEL, bucket_of, coarser

MAX_CELLS = 2048
"""Maximum number of cells with pairs. Scores that do not depend on each other are then divided into some 45 ranges
each, and scores that agree into far more."""
SMALLEST = 1e-300
_HALF = 0.5

type Cell = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class JointHistogram:
    """Counts of pairs of finite numbers by cell.

    >>> pairs = JointHistogram.of([(1.0, 10.0), (2.0, 20.0), (3.0, 30.0)])
    >>> pairs.total, pairs.rank_correlation()
    (3, 1.0)
    """

    level: int = MAX_LEVEL
    cells: Mapping[Cell, int] = field(default_factory=dict)
    """Number of pairs by cell, in ascending order."""
    probabilities: bool = False
    """Whether the numbers are probabilities, so that they are stretched."""

    @classmethod
    def of(cls, pairs: Iterable[tuple[float, float]], *, probabilities: bool = False) -> JointHistogram:
        """Count pairs of finite numbers."""
        cells: dict[Cell, int] = {}
        for one, other in pairs:
            pair = (stretched(one), stretched(other)) if probabilities else (one, other)
            cell = bucket_of(pair[0]), bucket_of(pair[1])
            cells[cell] = cells.get(cell, 0) + 1
        return cls.coarsened(MAX_LEVEL, cells, probabilities=probabilities)

    @property
    def total(self) -> int:
        """Number of pairs."""
        return sum(self.cells.values())

    def merge(self, other: JointHistogram) -> JointHistogram:
        """Return the histogram of the pairs of both; raises `ValueError` if only one is of probabilities."""
        if self.probabilities != other.probabilities:
            raise ValueError("joint histograms of probabilities and of other numbers cannot be merged")
        level = min(self.level, other.level)
        cells = dict(_at_level(self.cells, self.level - level))
        for cell, count in _at_level(other.cells, other.level - level).items():
            cells[cell] = cells.get(cell, 0) + count
        return self.coarsened(level, cells, probabilities=self.probabilities)

    @classmethod
    def coarsened(cls, level: int, cells: Mapping[Cell, int], *, probabilities: bool) -> JointHistogram:
        """Return a histogram at the highest level, of at most `level`, at which its cells are few enough."""
        while len(cells) > MAX_CELLS and level > MIN_LEVEL:
            level, cells = level - 1, _at_level(cells, 1)
        return cls(level=level, cells=dict(sorted(cells.items())), probabilities=probabilities)

    def rank_correlation(self) -> float | None:
        """Return Spearman's rank correlation; None if one of the numbers is the same in all pairs.

        It is computed from the cells: all numbers of one bucket count as equal, and share the mean of their ranks. The
        result is exact if each bucket holds one number. Otherwise, it usually differs by less than 0.01.
        """
        rows, columns = _by_bucket(self.cells, 0), _by_bucket(self.cells, 1)
        ranks = _middle_ranks(rows), _middle_ranks(columns)
        # Ranks are doubled, and measured from their mean, so that all sums are exact integers.
        both = sum(ranks[0][a] * ranks[1][b] * count for (a, b), count in self.cells.items())
        one = sum(ranks[0][bucket] ** 2 * count for bucket, count in rows.items())
        other = sum(ranks[1][bucket] ** 2 * count for bucket, count in columns.items())
        if not one or not other:
            return None
        return max(-1.0, min(1.0, both / math.isqrt(one * other)))

    def to_json(self) -> dict[str, Any]:
        """Return the level and the cells, as arrays of the buckets and their counts."""
        document: dict[str, Any] = {"level": self.level}
        document["first"] = [cell[0] for cell in self.cells]
        document["second"] = [cell[1] for cell in self.cells]
        document["counts"] = list(self.cells.values())
        return document | ({"probabilities": True} if self.probabilities else {})

    @classmethod
    def from_json(cls, raw: Any) -> JointHistogram:
        """Read what `to_json` returned; raises `ValueError`, `TypeError` or `LookupError`."""
        level, first, second, counts = raw["level"], raw["first"], raw["second"], raw["counts"]
        probabilities = raw.get("probabilities", False)
        if type(level) is not int or not MIN_LEVEL <= level <= MAX_LEVEL or type(probabilities) is not bool:
            raise ValueError("the level of a joint histogram is out of range")
        if not all(isinstance(items, list) for items in (first, second, counts)):
            raise TypeError("the cells of a joint histogram are not arrays")
        if not len(first) == len(second) == len(counts) <= MAX_CELLS:
            raise ValueError("a joint histogram has too many cells, or not one count for each")
        if any(type(item) is not int for item in (*first, *second, *counts)) or any(count < 1 for count in counts):
            raise TypeError("a cell of a joint histogram is not made of whole numbers")
        most = 1 << (MAX_LEVEL + 12)
        if any(abs(item) > most for item in (*first, *second)):
            raise ValueError("a cell of a joint histogram is out of range")
        cells = list(zip(first, second, strict=True))
        if any(one >= other for one, other in pairwise(cells)):
            raise ValueError("the cells of a joint histogram are not in ascending order")
        return cls(level=level, cells=dict(zip(cells, counts, strict=True)), probabilities=probabilities)


def stretched(probability: float) -> float:
    """Return a number that grows with a probability, and for which each bucket is a fixed share of p, or of 1 - p.

    >>> [stretched(p) for p in (0.25, 0.5, 0.75)]
    [-4.0, -2.0, 4.0]
    """
    if probability <= _HALF:
        return -1 / max(probability, SMALLEST)
    return 1 / max(1 - probability, SMALLEST)


def _at_level(cells: Mapping[Cell, int], levels: int) -> Mapping[Cell, int]:
    if not levels:
        return cells
    joined: dict[Cell, int] = {}
    for (one, other), count in cells.items():
        cell = coarser(one, levels), coarser(other, levels)
        joined[cell] = joined.get(cell, 0) + count
    return joined


def _by_bucket(cells: Mapping[Cell, int], axis: int) -> dict[int, int]:
    counts: dict[int, int] = {}
    for cell, count in cells.items():
        counts[cell[axis]] = counts.get(cell[axis], 0) + count
    return dict(sorted(counts.items()))


def _middle_ranks(counts: Mapping[int, int]) -> dict[int, int]:
    """Return twice the mean rank of the numbers of each bucket, minus that of all numbers."""
    total, below, ranks = sum(counts.values()), 0, {}
    for bucket, count in counts.items():
        ranks[bucket] = 2 * below + count - total
        below += count
    return ranks
