"""Finds the column chunks of a row group, estimates the memory to decode them, and plans the requests."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import pyarrow.parquet as pq

from scoreline.storage.tables.fetching import BLOCK_BYTES, CONNECTIONS, Request

_PAGE_BYTES = 1 << 20
"""Size before compression that pyarrow, parquet-mr and most other writers aim at for a page and for a dictionary."""
_HEADER_BYTES = 16 << 10
"""Upper estimate for the size of the header of a page."""
_REQUEST_BYTES = (4 << 20, 16 << 20)
_REQUESTS = 10
"""Minimum and maximum size of a request for several chunks. Within these limits, a row group takes about `_REQUESTS`
requests: enough to use all connections, and few enough that their latency does not matter."""
_PIECE_BYTES = 1 << 20
"""If a row group does not fit into the budget, its chunks are divided into pieces. A piece has at least this size if
there is enough memory for it."""
_HEAD_SHARE = 0.3
_MAX_CUTS = 6
"""If a row group is only slightly too large for the budget, at most `_MAX_CUTS` chunks are cut in two. The first piece
has the share `_HEAD_SHARE` of the bytes. When the first piece has been decoded, enough of the other chunks has been
decoded, too, to make room for the second piece."""
_INDEX_BYTES = _PAGE_BYTES // 2
"""Size of a page of references to a dictionary; 131,072 references of 17 bits take half of this size."""
_LEAST_REST = 512 << 10
"""A chunk is fetched to its end, not only up to the last row that is needed, if the rest is smaller than this."""
_GAP_SHARE = 200
"""Chunks are fetched with one request if the gaps between them take at most 1 / `_GAP_SHARE` of the size of these
chunks."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Chunk:
    """A column chunk: the stored values of one column in one row group."""

    name: str
    """The column of the table that the chunk belongs to. A nested column has several chunks."""
    start: int
    stop: int
    """Position in the object after the last byte of the chunk. `start` is the position of the first byte."""
    dictionary_bytes: int
    """Size of the dictionary as stored; 0 if there is no dictionary."""
    encoded_bytes: int
    """Size before compression, but after encoding."""
    decoded_bytes: int
    """Estimated size in memory."""
    can_be_null: bool = False
    """Whether nulls can replace the values of rows that are not needed, with one null for each row."""
    varies: bool = False
    """Whether the size of a value differs from row to row, as that of a text or a list does."""

    @property
    def size(self) -> int:
        """Size as stored."""
        return self.stop - self.start

    def decoder_bytes(self, share: float = 1.0) -> int:
        """Return the estimated memory to decode the first values page by page: the dictionary and the largest page.

        The parameter is that of `position_after`.
        """
        ratio = max(self.encoded_bytes / max(self.size, 1), 1)
        dictionary = int(self.dictionary_bytes * ratio)
        stored = (self.size if share >= 1 else self.position_after(share)) - self.dictionary_bytes
        return dictionary + min(max(int(stored * ratio), 0), _PAGE_BYTES)

    def position_of(self, share: float) -> int:
        """Return the estimated offset after a fraction of the values of the chunk; 0 if values cannot be skipped."""
        return self.dictionary_bytes + int(share * (self.size - self.dictionary_bytes)) if self.can_be_null else 0

    def position_after(self, share: float) -> int:
        """Return the number of bytes that the first values of the chunk take, rounded up to whole pages.

        Parameters
        ----------
        share : float
            The number of these values, divided by the number of all values.
        """
        ratio = min(self.size / max(self.encoded_bytes, 1), 1.0)
        page = int(ratio * (_INDEX_BYTES if self.dictionary_bytes else _PAGE_BYTES)) + _HEADER_BYTES
        pages = max(math.ceil(share * (self.size - self.dictionary_bytes) / page), 1)
        position = self.dictionary_bytes + pages * page
        return position if self.size - position >= _LEAST_REST else self.size


_WIDTHS = {"BOOLEAN": 1, "INT32": 4, "INT64": 8, "INT96": 8, "FLOAT": 4, "DOUBLE": 8}
_POINTER_BYTES = 8


class Leaves:
    """Finds the leaf columns of a Parquet schema for the columns of a table.

    Parameters
    ----------
    metadata : pyarrow.parquet.FileMetaData
        The footer of the object.
    """

    def __init__(self, metadata: pq.FileMetaData) -> None:
        self._numbers: defaultdict[str, list[int]] = defaultdict(list)
        for number in range(metadata.num_columns):
            path = metadata.schema.column(number).path
            self._numbers[path].append(number)
            while (dot := path.rfind(".")) > 0:  # dots separate names in a path, and names may contain dots
                path = path[:dot]
                self._numbers[path].append(number)

    def of(self, names: Collection[str]) -> dict[int, str]:
        """Map the number of each leaf column to the name of its table column, for the given names."""
        return {number: name for name in names for number in self._numbers.get(name, ())}


def find_chunks(
    metadata: pq.FileMetaData, group: int, leaves: dict[int, str], size: int, plain: Collection[str] = ()
) -> list[Chunk]:
    """Return the chunks of some columns in a row group, in file order.

    Parameters
    ----------
    leaves : dict of int to str
        The columns (see `Leaves.of`).
    size : int
        Size of the object. Chunks that are out of bounds or overlap are left out, because decoding fails on them. If
        chunks are left out, no pages of the other chunks are skipped.
    plain : collection of str
        Columns whose values do not depend on other rows. The codes of a dictionary column depend on other rows.
    """
    row_group = metadata.row_group(group)
    chunks = []
    for number, name in leaves.items():
        column = row_group.column(number)
        start, values = column.data_page_offset, column.num_values
        dictionary = column.dictionary_page_offset
        dictionary_bytes = start - dictionary if dictionary is not None and 0 < dictionary < start else 0
        width = _WIDTHS.get(column.physical_type)
        encoded = column.total_uncompressed_size
        decoded = values * width if width else max(encoded, values * 2 * _POINTER_BYTES)
        start -= dictionary_bytes
        levels = metadata.schema.column(number)
        chunks.append(
            Chunk(
                name=name,
                start=start,
                stop=start + column.total_compressed_size,
                dictionary_bytes=dictionary_bytes,
                encoded_bytes=encoded,
                decoded_bytes=decoded,
                can_be_null=levels.path in plain and levels.max_repetition_level == 0 < levels.max_definition_level,
                varies=column.physical_type == "BYTE_ARRAY" or levels.max_repetition_level > 0,
            )
        )
    chunks.sort(key=lambda chunk: chunk.start)
    sound: list[Chunk] = []
    for chunk in chunks:
        if (sound[-1].stop if sound else 0) <= chunk.start < chunk.stop <= size:
            sound.append(chunk)
    return sound if len(sound) == len(chunks) else [replace(chunk, can_be_null=False) for chunk in sound]


def plan_requests(
    chunks: Sequence[Chunk],
    first_row: int,
    rows: int,
    *,
    budget_bytes: int | None = None,
    request_bytes: int | None = None,
    needed_rows: int | None = None,
    skipped_rows: int = 0,
) -> Iterator[tuple[Request, list[Chunk]]]:
    """Plan the requests for the chunks of a row group, in file order. Yield each request with its chunks.

    Small adjacent chunks share a request. A large chunk is divided into several requests.

    Parameters
    ----------
    first_row, rows : int
        First row and number of rows of the group. From these follows, for each request, the first row that needs it.
    budget_bytes : int, optional
        Number of bytes that may be in memory at a time; by default all. Chunks are divided to fit.
    request_bytes : int, optional
        Maximum number of bytes of a request for several chunks.
    needed_rows : int, optional
        Number of rows at the beginning of the group that are needed now; by default all. Bytes that only later rows
        need get separate requests.
    skipped_rows : int
        Number of rows before the first row to decode. The bytes of these rows are requested column by column, because a
        reader skips all of them in a column at once.
    """
    share = 1.0 if needed_rows is None or not rows else needed_rows / rows
    needed = {chunk.start: chunk.size if share >= 1 else chunk.position_after(share) for chunk in chunks}
    skipped = {chunk.start: chunk.position_of(skipped_rows / rows) if skipped_rows else 0 for chunk in chunks}
    low, high = _REQUEST_BYTES
    most = request_bytes or min(max(sum(needed.values()) // _REQUESTS, low), high)
    edges = _divide(chunks, skipped, needed, budget_bytes)
    joined: list[Chunk] = []
    useful = 0
    for chunk in chunks:
        pieces = edges[chunk.start]
        if joined and (
            len(pieces) > 1
            or chunk.stop - joined[0].start > most
            or (chunk.stop - joined[0].start - useful - chunk.size) * _GAP_SHARE > useful + chunk.size
        ):
            yield Request(joined[0].start, joined[-1].stop, first_row, len(joined)), joined
            joined, useful = [], 0
        if len(pieces) == 1:
            joined.append(chunk)
            useful += chunk.size
            continue
        for start, stop in zip(pieces, [*pieces[1:], chunk.size], strict=True):
            values = max(chunk.size - chunk.dictionary_bytes, 1)
            row = rows * max(start - chunk.dictionary_bytes, 0) // values
            if start < skipped[chunk.start]:
                row = 0
            elif needed_rows is not None and start >= needed[chunk.start]:
                row = max(row, needed_rows)
            yield Request(chunk.start + start, chunk.start + stop, first_row + row), [chunk]
    if joined:
        yield Request(joined[0].start, joined[-1].stop, first_row, len(joined)), joined


def _divide(
    chunks: Sequence[Chunk], skipped: Mapping[int, int], needed: Mapping[int, int], budget: int | None
) -> dict[int, list[int]]:
    """Divide chunks into pieces. Return the offsets of the pieces in each chunk.

    Parameters
    ----------
    skipped, needed : mapping of int to int
        Offsets in each chunk, by the start of the chunk: the end of the skipped bytes, and the end of the bytes that
        are needed now. Pieces do not cross these offsets.
    """
    high = _REQUEST_BYTES[1] if budget is None else min(_REQUEST_BYTES[1], max(budget // CONNECTIONS, 1))
    past = {chunk.start: min(skipped[chunk.start], needed[chunk.start]) for chunk in chunks}
    first = [_cut_at(0, size, _evenly(size, -(-size // high))) for size in past.values()]
    now = _pieces(
        [
            (0 if past[chunk.start] else chunk.dictionary_bytes, past[chunk.start], needed[chunk.start])
            for chunk in chunks
        ],
        budget,
    )
    later = _pieces([(0, needed[chunk.start], chunk.size) for chunk in chunks], budget)
    return {chunk.start: [*a, *b, *c] for chunk, a, b, c in zip(chunks, first, now, later, strict=True)}


def _pieces(ranges: Sequence[tuple[int, int, int]], budget: int | None) -> list[list[int]]:
    """Divide ranges of bytes into pieces, so that the current pieces of all ranges fit into a budget.

    Return their positions.

    If the ranges exceed the budget only slightly, a few ranges are cut in two, and their second pieces are fetched when
    the budget allows it. Otherwise, all ranges are divided into about the same number of pieces. The first pieces have
    different sizes, so that the pieces of different ranges end at different times. On average, half of each piece is in
    memory.

    Parameters
    ----------
    ranges : sequence of tuple of int
        For each range, the size of the dictionary at its beginning, its start and its end. A dictionary cannot be
        divided.
    """
    high = _REQUEST_BYTES[1]
    sizes = [stop - start for _, start, stop in ranges]
    total = sum(sizes)
    budget = total if budget is None else budget
    counts = [max(-(-size // high), 1) for size in sizes]
    missing = total - budget
    cut: set[int] = set()
    for number in sorted(range(len(ranges)), key=lambda number: -sizes[number]):
        if missing > 0 and counts[number] == 1:
            cut.add(number)
            missing -= sizes[number] - int(_HEAD_SHARE * sizes[number])
    if missing <= 0 and len(cut) <= _MAX_CUTS:
        return [
            _cut_at(start, stop, [int(_HEAD_SHARE * size)] if number in cut else _evenly(size, counts[number]))
            for number, ((_, start, stop), size) in enumerate(zip(ranges, sizes, strict=True))
        ]
    budget = max(budget - len(ranges) * BLOCK_BYTES // 2, budget // 2)  # half of the current block of a range was read
    in_memory = len(ranges) / 2 + CONNECTIONS
    least = min(_PIECE_BYTES, int(budget / in_memory))
    found = []
    for number, ((dictionary, start, stop), size) in enumerate(zip(ranges, sizes, strict=True)):
        piece = _in_blocks(max(min(int(budget / in_memory * size * len(ranges) / total), high), least))
        first = max(piece * (number + 1) // len(ranges), dictionary + _HEADER_BYTES if dictionary else 1)
        found.append(_cut_at(start, stop, range(first, size - piece // 4, piece)))
    return found


def _in_blocks(size: int) -> int:
    """Round a size to whole blocks of memory, unless it is far below a block."""
    return max(round(size / BLOCK_BYTES) * BLOCK_BYTES, min(size, BLOCK_BYTES), 1)


def _evenly(size: int, count: int) -> list[int]:
    return [size * piece // count for piece in range(1, count)]


def _cut_at(start: int, stop: int, offsets: Iterable[int]) -> list[int]:
    return [start, *(start + offset for offset in offsets)] if start < stop else []
