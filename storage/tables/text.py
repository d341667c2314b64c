"""The bytes of a text, decompressed, a block at a time, and the records in them."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from storage.errors import UnreadableInput
from storage.tables.base import MAX_RECORD_CHARS, Pinned
from storage.tables.boundaries import Boundaries, Records
from storage.tables.compressed import Decompressed
from storage.tables.ranged import RangedFile

BLOCK_BYTES = 8 << 20
"""Read, parsed and scored at once: some 20,000 rows of 20 numbers."""
SURVEY_BYTES = 4 << 20
"""Likewise where records are only counted, of several objects at a time."""
MAX_RECORD_BYTES = 16 << 20
"""A longer record is taken for a quotation mark that is not closed, rather than collected in memory."""
_COPY_BYTES = 1 << 20

_NOT_UTF8 = {
    b"\xff\xfe\x00\x00": "UTF-32", b"\x00\x00\xfe\xff": "UTF-32", b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16",
}  # fmt: skip
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
    source: Pinned, compression: str | None, boundaries: Boundaries, start: int, stop: int | None, *, first_row: int,
    block_bytes: int = BLOCK_BYTES,
) -> Iterator[Block]:  # fmt: skip
    """Yield the records from the byte `start` to `stop` of a text, each of which has to be a boundary.

    Raises
    ------
    UnreadableInput
        Naming the object and the place: it cannot be decompressed, a record is not ended or longer than
        `MAX_RECORD_BYTES`.
    """
    data, place, row = b"", start, first_row
    for piece, last in _pieces(source, compression, start, stop, block_bytes):
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


def head(source: Pinned, compression: str | None, size: int) -> bytes:
    """Return the first bytes of a text; refuses what is not UTF-8 by its own sign."""
    data = _read(_open(source, compression), size)
    for sign, name in _NOT_UTF8.items():
        if data.startswith(sign):
            raise UnreadableInput(f"{source.uri} is {name}: it has to be UTF-8")
    return data


def _pieces(
    source: Pinned, compression: str | None, start: int, stop: int | None, size: int
) -> Iterator[tuple[bytes, bool]]:
    """Yield bytes, and whether they are the last; the next ones are fetched meanwhile."""
    file = _open(source, compression)
    left = None if stop is None else stop - start
    pool = ThreadPoolExecutor(1, thread_name_prefix="text")
    try:
        pool.submit(_skip, file, start).result()
        ahead = pool.submit(_read, file, size if left is None else min(size, left))
        while True:
            piece = ahead.result()
            if left is not None:
                left -= len(piece)
            if not piece or left == 0:
                yield piece, True
                return
            ahead = pool.submit(_read, file, size if left is None else min(size, left))
            yield piece, False
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


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
