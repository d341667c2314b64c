"""Holds the runs of many parts in few bytes."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import islice
from typing import overload

from scoreline.tasks.job.end_time import Run

_AS_RUN = partial(tuple.__new__, Run)
"""Makes a run of a tuple without calling Python, because there may be a run for each of very many objects."""


class PackedCut(Sequence[Sequence[Run]]):
    """The runs of each part, like a list of lists of `Run`.

    A part with one run takes 32 bytes. As objects, a million parts would take 200 MB.

    >>> cut = PackedCut()
    >>> cut.append([Run(0, 0, 0, 5), Run(0, 1, 0, 3)])
    >>> cut.append([Run(1, 0, 0, 7)])
    >>> len(cut), cut[1], [len(part) for part in cut]
    (2, [Run(file=1, span=0, start=0, rows=7)], [2, 1])
    """

    def __init__(self) -> None:
        self._files, self._spans = array("I"), array("I")
        self._starts, self._rows = array("q"), array("q")
        self._ends = array("q", [0])
        """Number of runs up to the end of each part, after a zero."""

    def append(self, runs: Iterable[Run]) -> None:
        """Add a part."""
        for run in runs:
            self._files.append(run.file)
            self._spans.append(run.span)
            self._starts.append(run.start)
            self._rows.append(run.rows)
        self._ends.append(len(self._rows))

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, number: int) -> list[Run]: ...
    @overload
    def __getitem__(self, number: slice) -> list[list[Run]]: ...
    def __getitem__(self, number: int | slice) -> list[Run] | list[list[Run]]:
        if isinstance(number, slice):
            return [self[place] for place in range(*number.indices(len(self)))]
        place = range(len(self))[number]
        begin, end = self._ends[place], self._ends[place + 1]
        columns = (column[begin:end] for column in (self._files, self._spans, self._starts, self._rows))
        return list(map(_AS_RUN, zip(*columns, strict=True)))

    def __iter__(self) -> Iterator[Sequence[Run]]:
        runs = map(_AS_RUN, zip(self._files, self._spans, self._starts, self._rows, strict=True))
        begin = 0
        for end in self._ends[1:]:
            yield list(islice(runs, end - begin))
            begin = end
