"""The bytes of a text, decompressed, a block at a time, and the records in them; what its readers have in common."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass

import pyarrow as pa

from scoreline.storage.errors import UnreadableInput
from scoreline.storage.prefetch import prefetched
from scoreline.storage.tables.base import MAX_RECORD_CHARS, Pinned, Span, Survey
from scoreline.storage.tables.boundaries import Boundaries, Records
from scoreline.storage.tables.compressed import Decompressed
from scoreline.storage.tables.ranged import RangedFile

BLOCK_BYTES = 8 << 20
"""Read, parsed and scored at once: some 20,000 rows of 20 numbers."""
SURVEY_BYTES = 4 << 20
"""Likewise where records are only counted, of several objects at a time."""
MAX_RECORD_BYTES = 16 << 20
"""A longer record is taken for a quotation mark that is not closed, rather than collected in memory."""
_SPAN_ROWS = 65_536
_COPY_BYTES = 1 << 20

_NOT_UTF8 = {
    b"\xff\xfe\x00\x00": "UTF-32",
    b"\x00\x00\xfe\xff": "UTF-32",
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
}
BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, kw_only=True)
class Block:
    """Whole records of a text."""

    data: bytes
    records: Records
    start: int
    """Where the block begins in the text, in bytes."""
    first_row: int
    """Number of the first record, from 0."""

    def text(self, number: int, encoding: str = "utf-8") -> str:
        """Return one record, as it can be shown."""
        raw = self.data[self.records.starts[number] : self.records.ends[number]]
        return raw[: 4 * MAX_RECORD_CHARS].decode(encoding, "replace").rstrip("\r\n")[:MAX_RECORD_CHARS]


def blocks(
    source: Pinned,
    compression: str | None,
    boundaries: Boundaries,
    start: int,
    stop: int | None,
    *,
    first_row: int,
    block_bytes: int = BLOCK_BYTES,
) -> Iterator[Block]:
    """Yield the records from the byte `start` to `stop` of a text, each of which has to be a boundary.

    Raises
    ------
    UnreadableInput
        Naming the object and the place: it cannot be decompressed, a record is not ended or longer than
        `MAX_RECORD_BYTES`.
    """
    data, place, row = b"", start, first_row
    with contextlib.closing(_pieces(source, compression, start, stop, block_bytes)) as pieces:
        for piece, last in pieces:
            data = data + piece if data else piece
            found = boundaries.find(data, last=last)
            if found.rest:
                yield Block(data=data[: found.rest], records=found, start=place, first_row=row)
                place, row, data = place + found.rest, row + len(found), data[found.rest :]
            if len(data) > MAX_RECORD_BYTES:
                raise UnreadableInput(
                    f"{source.uri}: row {row}, which begins at byte {place:,}, is longer than "
                    f"{MAX_RECORD_BYTES >> 20} MiB: is a quotation mark not closed?"
                )
    if data:
        raise UnreadableInput(
            f"{source.uri}: row {row}, which begins at byte {place:,}, has a quotation mark that is not closed"
        )


def survey(found: Iterable[Block], schema_of: Callable[[Block], pa.Schema], empty: pa.Schema) -> Survey:
    """Cut the blocks of a text into spans; the schema is that of the first block with records, where there is one."""
    spans: list[Span] = []
    schema = empty
    for block in found:
        if not spans and len(block.records):
            schema = schema_of(block)
        spans += _cut(block)
    return Survey(schema=schema, spans=tuple(spans))


def pieces(found: Iterable[Block], source: Pinned, span: Span, most: int, noun: str) -> Iterator[Block]:
    """Yield the blocks of a span by so many records, `noun` to its readers; refuses more or fewer than were counted."""
    seen = 0
    for block in found:
        seen += len(block.records)
        yield from _divided(block, most)
    if seen != span.rows:
        raise UnreadableInput(
            f"{source.uri} has {seen} {noun} from byte {span.start:,} to {span.stop:,}, where {span.rows} were counted"
        )


def _cut(block: Block) -> Iterator[Span]:
    for piece in _divided(block, _SPAN_ROWS) if len(block.records) else ():
        yield Span(
            start=piece.start,
            stop=piece.start + len(piece.data),
            first_row=piece.first_row,
            rows=len(piece.records),
            size=len(piece.data),
        )


def _divided(block: Block, most: int) -> Iterator[Block]:
    """Divide a block into such of at most so many records; empty lines at its end belong to the last."""
    count = len(block.records)
    if count <= most:
        yield block
        return
    for start in range(0, count, most):
        yield part_of(block, start, min(start + most, count))


def part_of(block: Block, start: int, stop: int) -> Block:
    """Return some records of a block, by number."""
    records = block.records
    low = int(records.starts[start]) if start else 0
    high = int(records.starts[stop]) if stop < len(records) else len(block.data)
    moved = type(records)(starts=records.starts[start:stop] - low, ends=records.ends[start:stop] - low, rest=high - low)
    return Block(data=block.data[low:high], records=moved, start=block.start + low, first_row=block.first_row + start)


def head(source: Pinned, compression: str | None, size: int) -> bytes:
    """Return the first bytes of a text; refuses what is not UTF-8 by its own sign."""
    data = _read(_open(source, compression), size)
    for sign, name in _NOT_UTF8.items():
        if data.startswith(sign):
            raise UnreadableInput(f"{source.uri} is {name}: it has to be UTF-8")
    return data


def _pieces(
    source: Pinned, compression: str | None, start: int, stop: int | None, size: int
) -> Generator[tuple[bytes, bool]]:
    """Yield bytes, and whether they are the last; the next ones are fetched meanwhile."""
    file = _open(source, compression)

    def read() -> Generator[tuple[bytes, bool]]:
        left = None if stop is None else stop - start
        _skip(file, start)
        last = False
        while not last:
            piece = _read(file, size if left is None else min(size, left))
            if left is not None:
                left -= len(piece)
            last = not piece or left == 0
            yield piece, last

    return prefetched(read())


def _open(source: Pinned, compression: str | None) -> RangedFile | Decompressed:
    if compression is not None:
        return Decompressed(source, compression)
    return RangedFile(source.store, source.key, source.size, source.etag)


def _skip(file: RangedFile | Decompressed, count: int) -> None:
    """Go to a byte: what is compressed has to be read up to there."""
    if isinstance(file, RangedFile):
        file.seek(count)
        return
    while count and (piece := file.read(min(count, _COPY_BYTES))):
        count -= len(piece)


def _read(file: RangedFile | Decompressed, size: int) -> bytes:
    """Read that many bytes, or to the end."""
    pieces, left = [], size
    while left and (piece := file.read(left)):
        pieces.append(piece)
        left -= len(piece)
    return b"".join(pieces)
