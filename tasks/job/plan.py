"""How an input is cut into parts: values in, values out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from scoreline.storage.tables.base import Span

BATCH_ROWS = 65_536
"""Rows scored at once: the fastest size measured for forests, and 10 MiB at 20 float64 columns."""


@dataclass(frozen=True, kw_only=True)
class InputFile:
    """A planned object and what of it can be read alone."""

    bucket: str
    key: str
    size: int
    etag: str
    spans: tuple[Span, ...]


@dataclass(frozen=True, kw_only=True)
class Slice:
    """Rows of one object."""

    bucket: str
    key: str
    size: int
    etag: str
    start: int
    """Where they begin, in the unit of the format (see `Span`)."""
    stop: int
    first_row: int
    """Number, within the object, of the first row."""
    rows: int
    """How many there are from `start` to `stop`."""
    only: Sequence[int] | None = None
    """Numbers, within the object and in order, of those to score; by default all. A range, or a tuple."""

    @property
    def count(self) -> int:
        """Rows to score."""
        return self.rows if self.only is None else len(self.only)

    @property
    def scope(self) -> tuple[int, int]:
        """Number of the first row and how many there are, of the run of rows among which are those to score."""
        return (self.only.start, len(self.only)) if isinstance(self.only, range) else (self.first_row, self.rows)


@dataclass(frozen=True, kw_only=True)
class Part:
    """What one task scores: slices in input order."""

    slices: tuple[Slice, ...]

    @property
    def rows(self) -> int:
        """Rows to score of all slices."""
        return sum(piece.count for piece in self.slices)


@dataclass(frozen=True, kw_only=True)
class Columns:
    """The columns that each part reads and writes."""

    features: tuple[str, ...]
    keep: tuple[str, ...]
    schema: str
    """Output schema as Arrow IPC in base64; empty for an input without rows."""
    reads: str = ""
    """Schema of what is read, features first, likewise: text is decoded to these types."""
    folders: tuple[str, ...] = ()
    """Those of them that are in the names of folders, as ``year=2026/``, where an object itself has no such column."""

    @property
    def names(self) -> tuple[str, ...]:
        """All that are read, each once."""
        return tuple(dict.fromkeys((*self.features, *self.keep)))


def evenly_spaced[T](items: Sequence[T], most: int) -> Iterator[T]:
    """Yield at most `most` and one of some items, from the first to the last, as far apart as can be.

    >>> list(spread("abcdefghi", 2)), list(spread("ab", 9)), list(spread("", 9))
    (['a', 'e', 'i'], ['a', 'b'], [])
    """
    for number in sorted({n * (len(items) - 1) // most for n in range(most + 1)}) if items else ():
        yield items[number]
