"""Counts the rows of a part, batch by batch, as a whole and by segment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from scoreline.tasks.quality.profiles.counting import GroupCounts
from scoreline.tasks.quality.profiles.footers import pack, pack_document
from scoreline.tasks.quality.profiles.profile import EMPTY_SEGMENT_COLUMN, MAX_SEGMENTS, NULL_SEGMENT, Kind, Profile
from scoreline.tasks.quality.profiles.sampling import sampled_rows
from scoreline.tasks.quality.profiles.values import key_of

type Columns = dict[Kind, pa.Table | pa.RecordBatch]


@dataclass(kw_only=True)
class PartCounts:
    """What is counted of the rows of a part and of their scores. The memory does not grow with the number of rows.

    Parameters
    ----------
    features, kept : sequence of str
        Columns of the input. A kept column that is a feature is counted once.
    segment : str
        A kept column by whose values the rows are counted, too; empty if there is none.
    one_in : int
        About one in so many rows is counted (see `sampled_rows`).
    """

    features: Sequence[str]
    kept: Sequence[str] = ()
    segment: str = ""
    one_in: int = 1
    rows: int = field(default=0, init=False)
    _whole: GroupCounts = field(default_factory=GroupCounts, init=False)
    _segments: dict[str, GroupCounts] = field(default_factory=dict, init=False)
    _others: GroupCounts = field(default_factory=lambda: GroupCounts(EMPTY_SEGMENT_COLUMN), init=False)
    _evicted: Profile = field(default_factory=Profile, init=False)

    def add(
        self, batch: pa.RecordBatch, results: pa.Table | None, rejected: Any, sources: Sequence[tuple[str, Any]]
    ) -> None:
        """Count the rows of a batch.

        Parameters
        ----------
        batch : pyarrow.RecordBatch
            The rows with their features and kept columns.
        results : pyarrow.Table, optional
            Kept columns and scores of the rows that are scored, in order; None if no row is scored.
        rejected : sequence of int
            Numbers, within the batch, of the rows that are not scored.
        sources : sequence of (str, ndarray of int64)
            The URIs of the objects from which the rows come, in order, and the numbers of the rows within them.
        """
        self.rows += batch.num_rows
        columns: Columns = {"feature": batch.select(list(self.features))}
        kept_names, features = set(self.kept), set(self.features)
        if kept := [name for name in self.kept if name not in features]:
            columns["kept"] = batch.select(kept)
        scores = results
        if results is not None and self.kept:
            # `drop_columns` would copy the table once for each of thousands of columns.
            scores = results.select([name for name in results.schema.names if name not in kept_names])
        if scores is not None:
            columns["score"] = scores
        if self.one_in == 1:
            self._whole.add(columns, batch.num_rows)
            if self.segment:
                self._add_segments(batch.column(self.segment), columns, rejected)
            return
        chosen, of_scores, of_rejected = _chosen(sources, rejected, self.one_in)
        places = {kind: of_scores if kind == "score" else chosen for kind in columns}
        self._whole.add(columns, len(chosen), places)
        if self.segment:
            taken = {kind: table.take(pa.array(places[kind])) for kind, table in columns.items()}
            self._add_segments(batch.column(self.segment).take(pa.array(chosen)), taken, of_rejected)

    def _add_segments(self, values: pa.Array, columns: Columns, rejected: Any) -> None:
        """Count rows by segment. The first segments in order of their values are kept, as in `Profile.merge`."""
        names, codes = segments_of(values)
        kept = sorted({*self._segments, *names})[:MAX_SEGMENTS]
        for name in sorted(self._segments.keys() - set(kept)):
            evicted = self._segments.pop(name).profile()
            self._evicted = self._evicted.merge(evicted)
        places = {name: place for place, name in enumerate(kept)}
        codes = np.array([places.get(name, len(kept)) for name in names], np.int64)[codes]
        orders = {kind: np.delete(codes, rejected) if kind == "score" else codes for kind in columns}
        grouped = {kind: _by_group(columns[kind], orders[kind], len(kept) + 1) for kind in columns}
        for place, count in enumerate(np.bincount(codes, minlength=len(kept) + 1).tolist()):
            if count:
                group = self._others if place == len(kept) else self._group(kept[place])
                group.add({kind: tables[place] for kind, tables in grouped.items()}, count)

    def _group(self, name: str) -> GroupCounts:
        if name not in self._segments:
            self._segments[name] = GroupCounts(EMPTY_SEGMENT_COLUMN)
        return self._segments[name]

    def profile(self, *, last: bool = False) -> Profile:
        """Return the profile of all rows so far; `last` as for `GroupCounts.profile`."""
        whole = replace(self._whole.profile(last=last), rows=self.rows, one_in=self.one_in, segment=self.segment)
        if not self.segment:
            return whole
        segments = {name: self._segments[name].profile() for name in sorted(self._segments)}
        others = self._evicted.merge(self._others.profile())
        return replace(whole, segments=segments, other_segments=others if others.rows else None)

    def pack(self) -> str:
        """Return the profile of all rows as `footers.pack` does, and release the counts.

        Without segments, the profile itself is not made: that would take longer than counting the rows of a small part.
        """
        if self.segment:
            return pack(self.profile(last=True))
        arrays: list[bytes] = []
        document: dict[str, Any] = {"rows": self.rows, "counted": self._whole.rows, "one_in": self.one_in}
        document["columns"] = [counts.to_json(arrays) for counts in self._whole.released()]
        return pack_document(document, arrays)


def _chosen(sources: Sequence[tuple[str, Any]], rejected: Any, one_in: int) -> tuple[Any, Any, Any]:
    """Choose the rows that are counted: ndarrays of int64.

    Returns
    -------
    chosen : ndarray
        Their positions in the batch.
    of_scores : ndarray
        The positions of their scores, among the rows that are not rejected.
    of_rejected : ndarray
        The positions, within `chosen`, of the rows that are rejected.
    """
    start, found = 0, []
    for uri, numbers in sources:
        found.append(sampled_rows(uri, numbers, one_in) + start)
        start += len(numbers)
    chosen = np.concatenate(found)
    if not len(rejected):
        return chosen, chosen, chosen[:0]
    before = np.searchsorted(rejected, chosen)
    is_rejected = np.searchsorted(rejected, chosen, "right") > before
    return chosen, (chosen - before)[~is_rejected], np.flatnonzero(is_rejected)


def segments_of(values: pa.Array | pa.ChunkedArray) -> tuple[list[str], Any]:
    """Return the names of the segments in a column, and the position of each row's segment among them."""
    encoded = values.unify_dictionaries().combine_chunks() if isinstance(values, pa.ChunkedArray) else values
    if not pa.types.is_dictionary(encoded.type):
        encoded = encoded.dictionary_encode("encode")
    texts = pc.cast(encoded.dictionary, pa.string()).to_pylist()
    by_place = [NULL_SEGMENT if text is None else key_of(text) for text in texts]
    names = sorted({*by_place, NULL_SEGMENT})
    places = {name: place for place, name in enumerate(names)}
    indices = pc.fill_null(encoded.indices.cast(pa.int64()), len(by_place)).to_numpy(zero_copy_only=False)
    codes = np.array([*(places[name] for name in by_place), places[NULL_SEGMENT]], np.int64)[indices]
    present, codes = np.unique(codes, return_inverse=True)
    return [names[place] for place in present], codes


def _by_group(table: pa.Table | pa.RecordBatch, codes: Any, groups: int) -> list[pa.Table | pa.RecordBatch]:
    """Return the rows of each group, in order."""
    sorted_rows = table.take(pa.array(np.argsort(codes, kind="stable")))
    bounds = [0, *np.cumsum(np.bincount(codes, minlength=groups)).tolist()]
    return [sorted_rows.slice(start, stop - start) for start, stop in pairwise(bounds)]
