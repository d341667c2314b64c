"""A file from which Arrow reads the column chunks of a row group. The chunks are fetched in a few large requests."""

from __future__ import annotations

import bisect
import contextlib
from collections import deque
from collections.abc import Iterable, Sequence

from scoreline.storage.kept_memory import MEMORY
from scoreline.storage.tables.base import Pinned
from scoreline.storage.tables.fetching import Fetcher, Request
from scoreline.storage.tables.parquet_chunks import Chunk
from scoreline.storage.tables.parquet_pages import Page, page_of_nulls, read_header
from scoreline.storage.tables.ranged import RangedFile

_HEADER_BYTES = (512, 16 << 10)
"""Usual and maximum size in bytes of the header of a page."""
_NULLS_BYTES = len(page_of_nulls(1 << 40))
"""Upper limit for the size of a page of nulls."""


class _Piece:
    """The part of a request that belongs to one chunk."""

    __slots__ = ("_begin", "_block_bytes", "_blocks", "start", "stop")

    def __init__(self, request: Request, data: Sequence[memoryview], start: int, stop: int) -> None:
        size = self._block_bytes = len(data[0])
        first = (start - request.start) // size
        self._blocks = deque(data[first : -(-(stop - request.start) // size)])
        self._begin = request.start + first * size
        """Position in the object of the first block."""
        self.start = start
        """Position in the object of the first byte that was not released."""
        self.stop = stop

    def slices(self, start: int, stop: int) -> list[memoryview]:
        """Return the bytes between two positions in the object."""
        found = []
        stop = min(stop, self.stop)
        while start < stop:
            number, offset = divmod(start - self._begin, self._block_bytes)
            found.append(self._blocks[number][offset : offset + stop - start])
            start += len(found[-1])
        return found

    def release_before(self, position: int) -> int:
        """Release the blocks before a position, and return the number of released bytes."""
        while self._blocks and (self._begin + self._block_bytes <= position or self.stop <= position):
            self._blocks.popleft()
            self._begin += self._block_bytes
        before, self.start = self.start, min(max(self.start, self._begin), self.stop)
        return self.start - before


class _Stream:
    """The bytes of one chunk, read from beginning to end."""

    __slots__ = ("chunk", "instead", "left_out", "pieces", "requests", "shift")

    def __init__(self, chunk: Chunk) -> None:
        self.chunk = chunk
        self.requests: deque[Request] = deque()
        self.pieces: deque[_Piece] = deque()
        """Pieces that were fetched but not read yet."""
        self.left_out: int | None = None
        """Number of bytes at the beginning of the chunk that `instead` replaces; None if the number is not known
        yet."""
        self.instead = b""
        """Bytes that are shown in place of the first ones, until they are read. They include the dictionary."""
        self.shift = 0
        """By how many bytes the rest of the chunk is shown too early."""


class ChunkFile(RangedFile):
    """A file that reads the planned chunks of an object from a fetcher, each from beginning to end.

    All other bytes are read with separate requests.

    Parameters
    ----------
    source : Pinned
        The object.
    planned : iterable of pairs of Request and sequence of Chunk
        The requests, each with the chunks that it fetches (see `plan_requests`).
    gradual : bool
        Whether Arrow reads each chunk in small pieces, and copies these. If so, blocks are released once they are read.
        Otherwise, Arrow reads each chunk at once, without a copy, and the bytes stay in memory until `close`.
    skipped_rows : int
        Number of rows at the beginning of the group whose values are not needed. Pages that contain only these rows are
        replaced by a page of nulls, so that Arrow need not decode them. The number of rows stays the same.
    """

    def __init__(
        self,
        source: Pinned,
        fetcher: Fetcher,
        planned: Iterable[tuple[Request, Sequence[Chunk]]],
        *,
        gradual: bool,
        skipped_rows: int = 0,
    ) -> None:
        super().__init__(source.store, source.key, source.size, source.etag)
        self._skipped_rows = skipped_rows
        self._fetcher = fetcher
        self._gradual = gradual
        self._requests: list[Request] = []
        self._released = 0
        self._counted = 0
        streams: dict[int, _Stream] = {}
        for request, chunks in planned:
            self._requests.append(request)
            for chunk in chunks:
                streams.setdefault(chunk.start, _Stream(chunk)).requests.append(request)
        self._starts = sorted(streams)
        self._streams = [streams[start] for start in self._starts]
        self._unreleased = 0
        """Number of bytes to release before the next read, when Arrow has copied the bytes that it read last."""

    def read(self, size: int | None = -1) -> bytes:
        """Read up to `size` bytes.

        Bytes of a planned chunk are returned as a memoryview without a copy, if possible.
        """
        number = bisect.bisect_right(self._starts, self._position) - 1
        if number >= 0 and size is not None and size > 0:
            stream = self._streams[number]
            is_within = self._position + size <= stream.chunk.stop
            if self._position < stream.chunk.stop and not is_within:
                if stream.left_out:
                    raise OSError("a read of a column goes beyond its bytes")
                stream.left_out = 0  # do not replace pages of this chunk
            elif is_within:
                data = self._read_shown(stream, self._position, self._position + size)
                if data is not None:
                    self._position += size
                    return data  # type: ignore[return-value]  # Arrow takes any buffer
        return super().read(size)

    def _read_shown(self, stream: _Stream, start: int, stop: int) -> memoryview | bytes | None:
        """Read bytes of a column chunk as if one page of nulls stood in place of the skipped pages.

        Return fewer bytes at the end of the chunk.
        """
        if stream.left_out is None:
            self._skip_pages(stream)
        if not stream.left_out:
            return self._read_chunk(stream, start, stop)
        chunk, shift = stream.chunk, stream.shift
        rest = chunk.start + stream.left_out
        if start + shift < rest and not stream.instead:
            raise OSError(f"bytes {start} to {stop} were read before")
        shown = stream.instead[start - chunk.start : stop - chunk.start]
        if stop + shift >= rest:
            stream.instead = b""
        if len(shown) == stop - start:
            return shown
        begin, end = max(start + shift, rest), min(stop + shift, chunk.stop)
        data = self._read_chunk(stream, begin, end) if begin < end else b""
        if data is None:
            raise OSError(f"bytes {begin} to {end} were read before")
        return b"".join((shown, data)) if shown else data

    def _skip_pages(self, stream: _Stream) -> None:
        """Skip the pages of a chunk that contain only skipped rows. Stop at a page header that cannot be decoded.

        Pages are skipped only if together they are at least as long as the bytes that replace them.
        """
        chunk, stream.left_out = stream.chunk, 0
        if not self._skipped_rows or not chunk.can_be_null:
            return
        position, values, dictionary = chunk.start, 0, b""
        skipped = 0
        with contextlib.suppress(ValueError):
            while position < chunk.stop:
                page = self._read_header(stream, position)
                if position + page.size > chunk.stop:
                    break
                if page.is_dictionary:
                    dictionary += self._peek(stream, position, page.size)
                elif page.values is not None and values + page.values > self._skipped_rows:
                    break
                values += page.values or 0
                position += page.size
                if values and len(dictionary) + _NULLS_BYTES <= position - chunk.start:
                    skipped, stream.left_out = values, position - chunk.start
                    self._drop(stream, position)
        if skipped:
            stream.instead = dictionary + page_of_nulls(skipped)
        stream.shift = stream.left_out - len(stream.instead)

    def _read_header(self, stream: _Stream, position: int) -> Page:
        usual, most = _HEADER_BYTES
        try:
            return read_header(self._peek(stream, position, usual))
        except ValueError:
            return read_header(self._peek(stream, position, most))

    def _peek(self, stream: _Stream, start: int, size: int) -> bytes:
        """Return bytes of a chunk without consuming them. Return fewer bytes at the end of the chunk."""
        stop = min(start + size, stream.chunk.stop)
        while stream.requests and (not stream.pieces or stream.pieces[-1].stop < stop):
            stream.pieces.append(self._fetch(stream))
        found = [
            data
            for piece in stream.pieces
            if start < piece.stop and piece.start < stop
            for data in piece.slices(max(start, piece.start), stop)
        ]
        return b"".join(found)

    def _drop(self, stream: _Stream, position: int) -> None:
        """Release the bytes of a chunk before a position."""
        while stream.pieces and stream.pieces[0].stop <= position:
            self._release(stream.pieces.popleft().release_before(position))
            if not stream.pieces and stream.requests:
                stream.pieces.append(self._fetch(stream))
        if stream.pieces:
            self._release(stream.pieces[0].release_before(position))

    def _read_chunk(self, stream: _Stream, start: int, stop: int) -> memoryview | bytes | None:
        parts: list[memoryview] = []
        position = start
        read, self._unreleased = self._unreleased, 0
        self._release(read)
        while position < stop:
            if not stream.pieces:
                if not stream.requests:
                    return None
                stream.pieces.append(self._fetch(stream))
            piece = stream.pieces[0]
            if position < piece.start:  # these bytes were already read and released
                return None
            if position < piece.stop:
                parts += piece.slices(position, stop)
                position = min(stop, piece.stop)
            if self._gradual:
                self._unreleased += piece.release_before(position)
            if piece.stop <= position:
                stream.pieces.popleft()
        if len(parts) == 1:
            return parts[0]
        return b"".join(parts) if self._gradual else _join(parts)

    def _release(self, size: int) -> None:
        if size:
            self._released += size
            self._fetcher.release(size)

    def _fetch(self, stream: _Stream) -> _Piece:
        request = stream.requests.popleft()
        start = max(request.start, stream.chunk.start)
        stop = min(request.stop, stream.chunk.stop)
        return _Piece(request, self._fetcher.take(request), start, stop)

    def release_taken(self) -> None:
        """Release the leading requests that Arrow has read completely."""
        while self._counted < len(self._requests) and self._requests[self._counted].takers == 0:
            self._release(self._requests[self._counted].size)
            self._counted += 1

    def close(self) -> None:
        """Tell the fetcher that all bytes of the requests are released."""
        if not self.closed:
            self._fetcher.release(sum(request.size for request in self._requests if request.is_sent) - self._released)
            for request in self._requests:
                request.is_sent = True  # so that the fetcher no longer sends this request
            self._streams.clear()
            self._starts.clear()
        super().close()


def _join(parts: Sequence[memoryview]) -> memoryview:
    """Copy the parts of a chunk into one buffer, which would be new memory for each chunk if it were in the heap."""
    whole = memoryview(MEMORY.array(sum(map(len, parts))))
    position = 0
    for part in parts:
        whole[position : position + len(part)] = part
        position += len(part)
    return whole
