"""Compares the results of two model versions, batch by batch, as a whole and by segment."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from scoreline.storage.models.manifest import Manifest
from scoreline.tasks.quality.challengers.compared_columns import (
    BUCKETS,
    LabelComparison,
    ScoreComparison,
    SegmentComparison,
)
from scoreline.tasks.quality.challengers.comparison import Comparison
from scoreline.tasks.quality.challengers.joint_histograms import MAX_CELLS, SMALLEST, JointHistogram
from scoreline.tasks.quality.profiles.counting import type_of
from scoreline.tasks.quality.profiles.exact_sums import ExactSum
from scoreline.tasks.quality.profiles.histograms import MAX_LEVEL, MIN_LEVEL
from scoreline.tasks.quality.profiles.number_counts import NumberCounts, buckets_of, coarsened
from scoreline.tasks.quality.profiles.part_counts import segments_of
from scoreline.tasks.quality.profiles.profile import MAX_SEGMENTS
from scoreline.tasks.quality.profiles.values import key_of

_HALF = 0.5
_FEW_BUCKETS = 3
_NO_LABEL = "(null)"
_OF_CLASSES = ("classifier", "clusterer", "outlier_detector", "density_estimator")
"""The kinds of models that predict classes, clusters or components, even if they are numbers."""


@dataclass(frozen=True, kw_only=True)
class ComparedColumns:
    """What the columns of the results of two versions hold, by the names of the columns that both have."""

    labels: tuple[str, ...] = ()
    scores: tuple[str, ...] = ()
    probabilities: frozenset[str] = frozenset()
    """The scores between 0 and 1 that are probabilities of classes."""
    only_of_champion: tuple[str, ...] = ()
    only_of_challenger: tuple[str, ...] = ()

    @classmethod
    def of(
        cls, champion: pa.Schema, challenger: pa.Schema, kept: Collection[str], manifest: Manifest
    ) -> ComparedColumns:
        """Return what can be compared.

        Parameters
        ----------
        champion, challenger : pyarrow.Schema
            The columns of the results, those in `kept` included.
        manifest : Manifest
            The champion's manifest, which says which columns hold classes and probabilities.
        """
        ours = [name for name in champion.names if name not in kept]
        theirs = [name for name in challenger.names if name not in kept]
        labels, scores = [], []
        classes, probabilities = _columns_of(manifest)
        only = [[name for name in ours if name not in theirs], [name for name in theirs if name not in ours]]
        for name in ours:
            if name in theirs:
                kinds = {type_of(schema.field(name).type) for schema in (champion, challenger)}
                is_label = bool(classes) and name.startswith(classes)
                if kinds == {"number"} and not is_label:
                    scores.append(name)
                elif kinds <= {"number", "text", "boolean"}:
                    labels.append(name)
                else:
                    only[0].append(name)
                    only[1].append(name)
        return cls(
            labels=tuple(labels),
            scores=tuple(scores),
            probabilities=frozenset(name for name in scores if probabilities and name.startswith(probabilities)),
            only_of_champion=tuple(sorted(only[0])),
            only_of_challenger=tuple(sorted(only[1])),
        )


def _columns_of(manifest: Manifest) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the beginnings of the names of columns with classes, and of those with probabilities."""
    classes, probabilities = [], []
    for model, offered in manifest.outputs.items():
        prefix = "" if len(manifest.outputs) == 1 else f"{model}_"
        if offered.classes is not None or offered.kind in _OF_CLASSES:
            classes.append(f"{prefix}prediction")
        probabilities.append(f"{prefix}proba")
    return tuple(classes), tuple(probabilities)


class PartComparison:
    """Compares the results of a part. The memory does not grow with the number of rows.

    Parameters
    ----------
    empty : Comparison
        The comparison of no rows, which names the versions and the segment column.
    columns : ComparedColumns
        What is compared.
    """

    def __init__(self, empty: Comparison, columns: ComparedColumns) -> None:
        self._columns = columns
        self._rows = self._champion_only = 0
        self._empty = empty
        self._labels = {name: _Labels() for name in columns.labels}
        self._scores = {name: _Scores(probabilities=name in columns.probabilities) for name in columns.scores}
        self._segments: dict[str, SegmentComparison] = {}
        self._others = SegmentComparison()

    def add(self, champion: pa.Table, challenger: pa.Table, present: Any) -> None:
        """Compare the rows that the champion has scored.

        Parameters
        ----------
        champion, challenger : pyarrow.Table
            The same rows in the same order.
        present : ndarray of bool
            Which of the rows the challenger has scored.
        """
        self._champion_only += int(len(present) - present.sum())
        if not present.all():
            mask = pa.array(present)
            champion, challenger = champion.filter(mask), challenger.filter(mask)
        rows = champion.num_rows
        self._rows += rows
        if not rows:
            return
        flips = {
            name: labels.add(champion.column(name), challenger.column(name)) for name, labels in self._labels.items()
        }
        pairs = {
            name: scores.add(_numbers(champion.column(name)), _numbers(challenger.column(name)))
            for name, scores in self._scores.items()
        }
        if self._empty.segment:
            self._add_segments(champion.column(self._empty.segment), flips, pairs)

    def _add_segments(self, values: pa.ChunkedArray, flips: dict[str, Any], pairs: dict[str, Any]) -> None:
        names, codes = segments_of(values)
        order = np.argsort(codes, kind="stable")
        bounds = np.searchsorted(codes[order], np.arange(len(names) + 1))
        for number, name in enumerate(names):
            rows = order[bounds[number] : bounds[number + 1]]
            found = SegmentComparison(
                rows=len(rows),
                flips={column: int(flipped[rows].sum()) for column, flipped in flips.items()},
                pairs={column: int(ok[rows].sum()) for column, (ok, _, _) in pairs.items()},
                differences={
                    column: _difference(one[rows][ok[rows]], other[rows][ok[rows]])
                    for column, (ok, one, other) in pairs.items()
                },
            )
            self._segments[name] = self._segments[name].merge(found) if name in self._segments else found
        for name in sorted(self._segments)[MAX_SEGMENTS:]:
            self._others = self._others.merge(self._segments.pop(name))

    def comparison(self, *, challenger_only: int, **more: Any) -> Comparison:
        """Return the comparison of all rows so far. `more` has further fields of it."""
        return replace(
            self._empty,
            rows=self._rows,
            champion_only=self._champion_only,
            challenger_only=challenger_only,
            labels={name: self._labels[name].comparison for name in sorted(self._labels)},
            scores={name: self._scores[name].comparison() for name in sorted(self._scores)},
            only_of_champion=self._columns.only_of_champion,
            only_of_challenger=self._columns.only_of_challenger,
            segments=dict(sorted(self._segments.items())),
            other_segments=self._others if self._others.rows else None,
            **more,
        )


class _Labels:
    """Counts the pairs of labels of one column."""

    def __init__(self) -> None:
        self.comparison = LabelComparison()

    def add(self, champion: pa.ChunkedArray, challenger: pa.ChunkedArray) -> Any:
        """Count rows, and return which of them have different labels: ndarray of bool."""
        (names, one), (other_names, other) = _encoded(champion), _encoded(challenger)
        joined = sorted({*names, *other_names})
        places = {name: place for place, name in enumerate(joined)}
        one = np.array([places[name] for name in names], np.int64)[one]
        other = np.array([places[name] for name in other_names], np.int64)[other]
        found, counts = np.unique(one * len(joined) + other, return_counts=True)
        pairs = {
            (joined[pair // len(joined)], joined[pair % len(joined)]): count
            for pair, count in zip(found.tolist(), counts.tolist(), strict=True)
        }
        flipped = one != other
        self.comparison = self.comparison.merge(LabelComparison(agreed=int(len(flipped) - flipped.sum()), pairs=pairs))
        return flipped


class _Scores:
    """Counts the pairs of numbers of one column."""

    def __init__(self, *, probabilities: bool) -> None:
        self._probabilities = probabilities
        self._pairs = self._incomparable = 0
        self._numbers = [NumberCounts(BUCKETS) for _ in range(2)]
        self._distances = NumberCounts(_FEW_BUCKETS)
        self._joint = JointHistogram(probabilities=probabilities)

    def add(self, champion: Any, challenger: Any) -> tuple[Any, Any, Any]:
        """Count rows, and return which of them have two finite numbers, and the numbers of all rows."""
        ok = np.isfinite(champion) & np.isfinite(challenger)
        with np.errstate(over="ignore"):
            distances = np.abs(challenger - champion, where=ok, out=np.zeros(len(ok)))
        ok &= np.isfinite(distances)
        one, other = champion[ok], challenger[ok]
        self._pairs += len(one)
        self._incomparable += len(ok) - len(one)
        for counts, values in zip((*self._numbers, self._distances), (one, other, distances[ok]), strict=True):
            counts.add(values)
        self._joint = self._joint.merge(joint_histogram(one, other, probabilities=self._probabilities))
        return ok, champion, challenger

    def comparison(self) -> ScoreComparison:
        one, other = self._numbers
        return ScoreComparison(
            pairs=self._pairs,
            incomparable=self._incomparable,
            champion=one.histogram(),
            challenger=other.histogram(),
            joint=self._joint,
            champion_sum=one.sum,
            challenger_sum=other.sum,
            absolute_sum=self._distances.sum,
            largest=self._distances.counter.maximum or 0.0,
        )


def joint_histogram(one: Any, other: Any, *, probabilities: bool) -> JointHistogram:
    """Return what `JointHistogram.of` returns for two ndarrays of finite float64."""
    if probabilities:
        one, other = _stretched(one), _stretched(other)
    level = MAX_LEVEL
    firsts, seconds = buckets_of(one + 0.0, level), buckets_of(other + 0.0, level)
    counts = np.ones(len(firsts), np.int64)
    while True:
        order = np.lexsort((seconds, firsts))
        firsts, seconds, counts = firsts[order], seconds[order], counts[order]
        is_new = np.concatenate([[True], (firsts[1:] != firsts[:-1]) | (seconds[1:] != seconds[:-1])])[: len(firsts)]
        starts = np.flatnonzero(is_new)
        if len(starts):
            firsts, seconds, counts = firsts[starts], seconds[starts], np.add.reduceat(counts, starts)
        if len(starts) <= MAX_CELLS or level <= MIN_LEVEL:
            break
        level, firsts, seconds = level - 1, coarsened(firsts, 1), coarsened(seconds, 1)
    cells = dict(zip(zip(firsts.tolist(), seconds.tolist(), strict=True), counts.tolist(), strict=True))
    return JointHistogram(level=level, cells=cells, probabilities=probabilities)


def _stretched(values: Any) -> Any:
    low = values <= _HALF
    return np.where(low, -1 / np.maximum(values, SMALLEST), 1 / np.maximum(1 - values, SMALLEST))


def _difference(one: Any, other: Any) -> ExactSum:
    counts = [NumberCounts(_FEW_BUCKETS) for _ in range(2)]
    for count, values in zip(counts, (one, other), strict=True):
        count.add(values)
    return ExactSum(counts[1].sum.units - counts[0].sum.units)


def _numbers(column: pa.ChunkedArray) -> Any:
    """Return the numbers of a column as ndarray of float64, shape (n,). Nulls become NaN."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    return pc.cast(column, pa.float64(), safe=False).to_numpy(zero_copy_only=False)


def _encoded(column: pa.ChunkedArray) -> tuple[Sequence[str], Any]:
    """Return the different labels of a column as texts, and the position of each row's label among them."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    encoded = pa.concat_arrays(column.chunks).dictionary_encode("encode")
    labels = [_label(value) for value in encoded.dictionary.to_pylist()]
    names = sorted(set(labels))
    places = {name: place for place, name in enumerate(names)}
    codes = np.array([places[label] for label in labels], np.int64)
    return names, codes[encoded.indices.to_numpy()]


def _label(value: Any) -> str:
    """Return a label as a text. The same class has the same text as an integer and as a float.

    >>> _label(1.0), _label(1), _label(True), _label(None), _label("a")
    ('1', '1', 'true', '(null)', 'a')
    """
    if value is None:
        return _NO_LABEL
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return key_of(str(value))
