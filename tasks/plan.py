"""How an input is cut into parts: values in, values out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

BATCH_ROWS = 65_536
"""Rows scored at once: the fastest size measured for forests, and 10 MiB at 20 float64 columns."""
PART_ROWS = 131_072
"""Two batches of the size that forests are fastest with: a lost part costs a second, and overhead stays below 5%."""
PART_BYTES = 128 << 20
"""Uncompressed. Bounds a worker's memory for wide rows."""
PART_SLICES = 256
"""Objects that a part may read: each costs some requests, one after the other."""


@dataclass(frozen=True, kw_only=True)
class InputFile:
    """A planned object and its row groups."""

    key: str
    size: int
    etag: str
    group_rows: tuple[int, ...]
    group_bytes: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Slice:
    """A run of row groups of one object."""

    key: str
    size: int
    etag: str
    groups: tuple[int, int]
    """First row group, and the one after the last."""
    first_row: int
    """Number, within the object, of the first row."""
    rows: int


@dataclass(frozen=True, kw_only=True)
class Part:
    """What one task scores: slices in input order."""

    slices: tuple[Slice, ...]

    @property
    def rows(self) -> int:
        """Rows of all slices."""
        return sum(piece.rows for piece in self.slices)


@dataclass(frozen=True, kw_only=True)
class Columns:
    """The columns that each part reads and writes."""

    features: tuple[str, ...]
    keep: tuple[str, ...]
    schema: str
    """Output schema as Arrow IPC in base64; empty for an input without rows."""


def cut(files: Sequence[InputFile], part_rows: int = PART_ROWS, part_bytes: int = PART_BYTES) -> tuple[Part, ...]:
    """Cut files into parts of whole row groups, in input order.

    A part is closed before it would exceed `part_rows` rows, `part_bytes` uncompressed bytes or `PART_SLICES` slices; a
    single row group that exceeds them is a part alone. Small files share a part; files and row groups without rows are
    in none.
    """
    parts: list[Part] = []
    current: list[Slice] = []
    rows = size = 0
    for piece, weight in _groups(files):
        adjoins = bool(current) and _adjoin(current[-1], piece)
        full = rows + piece.rows > part_rows or size + weight > part_bytes
        if current and (full or (len(current) == PART_SLICES and not adjoins)):
            parts.append(Part(slices=tuple(current)))
            current, rows, size = [], 0, 0
        if adjoins and current:
            last = current.pop()
            piece_rows = last.rows + piece.rows
            current.append(
                Slice(
                    key=piece.key, size=piece.size, etag=piece.etag, groups=(last.groups[0], piece.groups[1]),
                    first_row=last.first_row, rows=piece_rows,
                )
            )  # fmt: skip
        else:
            current.append(piece)
        rows += piece.rows
        size += weight
    if current:
        parts.append(Part(slices=tuple(current)))
    return tuple(parts)


def _groups(files: Iterable[InputFile]) -> Iterable[tuple[Slice, int]]:
    for file in files:
        first_row = 0
        for number, (rows, size) in enumerate(zip(file.group_rows, file.group_bytes, strict=True)):
            if rows:
                groups = (number, number + 1)
                yield (
                    Slice(key=file.key, size=file.size, etag=file.etag, groups=groups, first_row=first_row, rows=rows),
                    size,
                )
            first_row += rows


def _adjoin(left: Slice, right: Slice) -> bool:
    return left.key == right.key and left.groups[1] == right.groups[0]
