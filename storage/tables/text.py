"""Read text formats: decompress an object block by block, and find the records in it."""

from __future__ import annotations

import contextlib
from bisect import bisect_right
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from scoreline.storage.errors import UnreadableInput
from scoreline.storage.prefetch import prefetched
from scoreline.storage.tables.base import MAX_RAW_CHARS, Pinned, SeekPoint, Span
from scoreline.storage.tables.boundaries import RecordFinder, Records
from scoreline.storage.tables.compressed import DecompressedFile, open_head, open_plain
from scoreline.storage.tables.ranged import RangedFile

BLOCK_BYTES = 8 << 20
"""Number of bytes that are read, parsed and scored at a time. This is about 20,000 rows of 20 numbers."""
SURVEY_BYTES = 4 << 20
"""Number of bytes that are read at a time when records are only counted. This number is smaller than `BLOCK_BYTES`,
because several objects may be read in parallel."""
MAX_RECORD_BYTES = 16 << 20
"""Maximum size of a record. A longer record is not collected in memory, but reported as an unclosed quotation mark."""
BOM = b"\xef\xbb\xbf"

_SPAN_ROWS = 65_536
_OTHER_BOMS = {
    b"\xff\xfe\x00\x00": "UTF-32",
    b"\x00\x00\xfe\xff": "UTF-32",
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
}


Opener = Callable[[], contextlib.AbstractContextManager[RangedFile | DecompressedFile]]


@dataclass(frozen=True, kw_only=True)
class Block:
    """Complete records of a text."""

    data: bytes
    records: Records
    start: int
    """Position of the block in the text, in bytes."""
    first_row: int
    """Number of the first record, counted from 0."""

    def lines(self, number: int) -> int:
        """Return the number of lines of which a record consists."""
        return self.data[self.records.starts[number] : self.records.ends[number]].rstrip(b"\r\n").count(b"\n") + 1

    def text(self, number: int, encoding: str = "utf-8") -> str:
        """Return the first `MAX_RAW_CHARS` characters of a record for display, without its line end."""
        raw = self.data[self.records.starts[number] : self.records.ends[number]]
        return raw[: 4 * MAX_RAW_CHARS].decode(encoding, "replace").rstrip("\r\n")[:MAX_RAW_CHARS]


def read_blocks(
    source: Pinned,
    open_text: Opener,
    finder: RecordFinder,
    start: int,
    stop: int | None,
    *,
    first_row: int,
    block_bytes: int = BLOCK_BYTES,
) -> Iterator[Block]:
    """Yield blocks with the records of a text between the bytes `start` and `stop`.

    Both positions must be record boundaries.

    Parameters
    ----------
    source : Pinned
        The object.
    open_text : callable
        Opens the text at `start`.
    finder : RecordFinder
        Finds the records.
    start, stop : int, int or None
        Positions in the decompressed text. A `stop` of None is the end of the text.
    first_row : int
        Number of the record that begins at `start`.
    block_bytes : int
        Number of bytes to read at a time.

    Raises
    ------
    UnreadableInput
        The object cannot be decompressed, or a record is incomplete or longer than `MAX_RECORD_BYTES`. The message
        names the object and the position.
    """
    data, position, row = b"", start, first_row
    with contextlib.closing(_pieces(open_text, start, stop, block_bytes)) as pieces:
        for piece, last in pieces:
            cut = len(piece) if last else _after_last_line(piece)
            data = b"".join((data, memoryview(piece)[:cut])) if data or cut < len(piece) else piece
            records = finder.find(data, last=last)
            if records.rest:
                yield Block(data=data[: records.rest], records=records, start=position, first_row=row)
                position, row, data = position + records.rest, row + len(records), data[records.rest :]
            data += piece[cut:]
            if len(data) > MAX_RECORD_BYTES:
                raise UnreadableInput(
                    f"{source.uri}: row {row}, which begins at byte {position:,}, is longer than "
                    f"{MAX_RECORD_BYTES >> 20} MiB: check whether a quotation mark is not closed"
                )
    if data:
        raise UnreadableInput(
            f"{source.uri}: row {row}, which begins at byte {position:,}, has a quotation mark that is not closed"
        )


def _after_last_line(piece: bytes) -> int:
    """Return the position after the last line feed, or the end if there is no line feed or a line may end after it."""
    position = piece.rfind(b"\n") + 1
    return position if position and piece.find(b"\r", position) < 0 else len(piece)


def survey_blocks[T](
    blocks: Iterable[Block], parse: Callable[[Block], T], infer: Callable[[T], None]
) -> tuple[Span, ...]:
    """Return the spans of a text (separately readable ranges), and pass its blocks to functions that infer types.

    Parameters
    ----------
    blocks : iterable of Block
        All blocks of the text.
    parse : callable
        Parses a block that has records. Another thread calls it, while the previous block is passed to `infer`.
    infer : callable
        Receives each result of `parse`, in the order of the blocks.
    """
    spans: list[Span] = []

    def parsed() -> Generator[T]:
        for block in blocks:
            spans.extend(_spans(block))
            if len(block.records):
                yield parse(block)

    results = parsed()
    for first in results:
        infer(first)  # infer the first block before others are parsed, because its types speed up parsing
        break
    with contextlib.closing(prefetched(results)) as others:
        for result in others:
            infer(result)
    return tuple(spans)


def with_points(spans: Iterable[Span], points: Sequence[SeekPoint]) -> tuple[Span, ...]:
    """Return the spans, each with the last seek point before it."""
    places = [point.position for point in points]
    found = ((span, bisect_right(places, span.start)) for span in spans)
    return tuple(replace(span, point=points[number - 1]) if number else span for span, number in found)


def split_blocks(blocks: Iterable[Block], source: Pinned, span: Span, max_records: int, noun: str) -> Iterator[Block]:
    """Divide the blocks of a span into blocks of at most `max_records`.

    Parameters
    ----------
    noun : str
        Word for records in error messages, such as ``lines``.

    Raises
    ------
    UnreadableInput
        The span has more or fewer records than the survey counted.
    """
    count = 0
    for block in blocks:
        count += len(block.records)
        yield from _divide(block, max_records)
    if count != span.rows:
        raise UnreadableInput(
            f"{source.uri} has {count} {noun} from byte {span.start:,} to {span.stop:,}, but {span.rows} were counted"
        )


def _spans(block: Block) -> Iterator[Span]:
    for piece in _divide(block, _SPAN_ROWS) if len(block.records) else ():
        yield Span(
            start=piece.start,
            stop=piece.start + len(piece.data),
            first_row=piece.first_row,
            rows=len(piece.records),
            size=len(piece.data),
        )


def _divide(block: Block, max_records: int) -> Iterator[Block]:
    """Divide a block into equal blocks of at most `max_records`. Empty lines at the end belong to the last block."""
    count = len(block.records)
    if count <= max_records:
        yield block
        return
    pieces = -(-count // max_records)
    for number in range(pieces):
        yield slice_block(block, count * number // pieces, count * (number + 1) // pieces)


def slice_block(block: Block, start: int, stop: int) -> Block:
    """Return a block with the records from `start` to `stop` (exclusive) of another block."""
    records = block.records
    low = int(records.starts[start]) if start else 0
    high = int(records.starts[stop]) if stop < len(records) else len(block.data)
    moved = Records(starts=records.starts[start:stop] - low, ends=records.ends[start:stop] - low, rest=high - low)
    return Block(data=block.data[low:high], records=moved, start=block.start + low, first_row=block.first_row + start)


def pick_records(block: Block, numbers: Sequence[int]) -> Block:
    """Return a block with some records of another block. At least one record must be given."""
    starts, ends = block.records.starts, block.records.ends
    texts = [block.data[starts[number] : ends[number]] for number in numbers]
    if not texts[-1].endswith((b"\n", b"\r")):
        texts[-1] += b"\n"
    stops = np.cumsum([len(text) for text in texts], dtype=np.int64)
    records = Records(starts=np.concatenate([[0], stops[:-1]]).astype(np.int64), ends=stops, rest=int(stops[-1]))
    return Block(data=b"".join(texts), records=records, start=block.start, first_row=block.first_row)


def read_head(source: Pinned, compression: str | None, size: int) -> bytes:
    """Return the first `size` bytes of a text.

    Raise `UnreadableInput` if the text begins with a byte order mark other than that of UTF-8.
    """
    data = _read(open_plain(source) if compression is None else open_head(source, compression), size)
    for mark, encoding in _OTHER_BOMS.items():
        if data.startswith(mark):
            raise UnreadableInput(f"{source.uri} is {encoding}: convert it to UTF-8")
    return data


def _pieces(open_text: Opener, start: int, stop: int | None, size: int) -> Generator[tuple[bytes, bool]]:
    """Yield pairs of at most `size` bytes and a flag that is True for the last pair. The next pair is prefetched."""

    def read() -> Generator[tuple[bytes, bool]]:
        left = None if stop is None else stop - start
        with open_text() as file:
            last = False
            while not last:
                piece = _read(file, size if left is None else min(size, left))
                if left is not None:
                    left -= len(piece)
                last = not piece or left == 0
                yield piece, last

    return prefetched(read())


def _read(file: RangedFile | DecompressedFile, size: int) -> bytes:
    """Read `size` bytes, or fewer at the end of the file."""
    pieces, left = [], size
    while left and (piece := file.read(left)):
        pieces.append(piece)
        left -= len(piece)
    return b"".join(pieces)
