"""Finds the column chunks of a row group, estimates the memory for decoding them, and plans the requests for them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import pyarrow.parquet as pq

from scoreline.storage.tables.fetching import Request

_PAGE_BYTES = 1 << 20
"""Size of a page and of a dictionary that pyarrow, parquet-mr and most other writers aim at, before compression."""
_REQUEST_BYTES = (4 << 20, 16 << 20)
_REQUESTS = 10
"""Minimum and maximum size of a request for several chunks. Within these limits, a row group takes about `_REQUESTS`
requests: enough to use all connections, and few enough that their latency does not matter."""
_WINDOWS = 4
_PIECE_BYTES = 1 << 20
"""If a row group does not fit into the budget, the current pieces of all columns take this part of it, and the rest is
for those that are fetched ahead. Pieces are at least this large if there is memory for it."""
_HEAD_SHARE = 0.3
_MAX_CUTS = 6
"""If a row group is only slightly too large for the budget, at most `_MAX_CUTS` chunks are cut in two, at this share of
their bytes. By the time that a first piece is decoded, enough of all other chunks is, too, to make room for the second
piece."""
_GAP_SHARE = 200
"""Chunks are joined although other bytes lie between them if these are at most this fraction of the request."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Chunk:
    """The values of one column in one row group, as they are stored."""

    name: str
    """The column of the table that it belongs to. A nested column has several chunks."""
    start: int
    stop: int
    """Range of its bytes in the object."""
    dictionary_bytes: int
    """Size of its dictionary as stored; 0 without one."""
    encoded_bytes: int
    """Size before compression, but after encoding."""
    decoded_bytes: int
    """Estimated size in memory."""

    @property
    def size(self) -> int:
        """Size as stored."""
        return self.stop - self.start

    @property
    def decoder_bytes(self) -> int:
        """Estimated memory of a decoder that reads this chunk page by page: its dictionary and a page."""
        ratio = max(self.encoded_bytes / max(self.size, 1), 1)
        dictionary = int(self.dictionary_bytes * ratio)
        return dictionary + min(max(self.encoded_bytes - dictionary, 0), _PAGE_BYTES)


_WIDTHS = {"BOOLEAN": 1, "INT32": 4, "INT64": 8, "INT96": 8, "FLOAT": 4, "DOUBLE": 8}
_POINTER_BYTES = 8


class Leaves:
    """Finds the columns of a Parquet schema by the names of the columns of the table.

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
            while (dot := path.rfind(".")) > 0:  # a name may contain dots, and so may the path of a nested column
                path = path[:dot]
                self._numbers[path].append(number)

    def of(self, names: Collection[str]) -> dict[int, str]:
        """Return the numbers of the stored columns that belong to columns of the table, with the names of those."""
        return {number: name for name in names for number in self._numbers.get(name, ())}


def find_chunks(metadata: pq.FileMetaData, group: int, leaves: dict[int, str], size: int) -> list[Chunk]:
    """Return the chunks of some columns in a row group, in the order of their bytes.

    Parameters
    ----------
    leaves : dict of int to str
        The columns (see `Leaves.of`).
    size : int
        Size of the object. Chunks outside it, or within others, are left out: decoding them fails.
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
        chunks.append(
            Chunk(
                name=name,
                start=start,
                stop=start + column.total_compressed_size,
                dictionary_bytes=dictionary_bytes,
                encoded_bytes=encoded,
                decoded_bytes=decoded,
            )
        )
    chunks.sort(key=lambda chunk: chunk.start)
    sound: list[Chunk] = []
    for chunk in chunks:
        if (sound[-1].stop if sound else 0) <= chunk.start < chunk.stop <= size:
            sound.append(chunk)
    return sound


def plan_requests(
    chunks: Sequence[Chunk],
    first_row: int,
    rows: int,
    *,
    budget_bytes: int | None = None,
    request_bytes: int | None = None,
) -> Iterator[tuple[Request, list[Chunk]]]:
    """Plan the requests for the chunks of a row group, in the order of their bytes. Yield each with its chunks.

    Small neighbours are fetched with one request. A large chunk is divided.

    Parameters
    ----------
    first_row, rows : int
        The rows of the group. They tell for each request which row needs it first.
    budget_bytes : int, optional
        Number of bytes that may be in memory at a time; by default all. Chunks are divided accordingly.
    request_bytes : int, optional
        Maximum number of bytes of a request for several chunks.
    """
    total = sum(chunk.size for chunk in chunks)
    low, high = _REQUEST_BYTES
    most = request_bytes or min(max(total // _REQUESTS, low), high)
    edges = _divide(chunks, total if budget_bytes is None else budget_bytes)
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
            before = max(start - chunk.dictionary_bytes, 0)
            yield Request(chunk.start + start, chunk.start + stop, first_row + rows * before // values), [chunk]
    if joined:
        yield Request(joined[0].start, joined[-1].stop, first_row, len(joined)), joined


def _divide(chunks: Sequence[Chunk], budget: int) -> dict[int, list[int]]:
    """Return where the pieces of each chunk begin within it. One piece of every chunk fits into the budget.

    If the chunks are only slightly too large, a few of them are cut in two, and the second pieces are fetched when the
    budget allows it. Otherwise all chunks are divided evenly.
    """
    high = _REQUEST_BYTES[1]
    counts = {chunk.start: max(-(-chunk.size // high), 1) for chunk in chunks}
    missing = sum(chunk.size // counts[chunk.start] for chunk in chunks) - budget
    cut: set[int] = set()
    for chunk in sorted(chunks, key=lambda chunk: -chunk.size):
        if missing > 0 and counts[chunk.start] == 1:
            cut.add(chunk.start)
            missing -= chunk.size - int(_HEAD_SHARE * chunk.size)
    if missing > 0 or len(cut) > _MAX_CUTS:
        cut.clear()
        window = budget // _WINDOWS
        windows = -(-sum(chunk.size for chunk in chunks) // window)
        least = min(_PIECE_BYTES, window // len(chunks))
        counts = {chunk.start: -(-chunk.size // min(high, max(chunk.size // windows, least, 1))) for chunk in chunks}
    return {
        chunk.start: [0, int(_HEAD_SHARE * chunk.size)]
        if chunk.start in cut
        else [chunk.size * piece // counts[chunk.start] for piece in range(counts[chunk.start])]
        for chunk in chunks
    }
