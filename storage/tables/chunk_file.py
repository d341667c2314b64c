"""A file for Arrow that contains the column chunks of a row group, which were fetched in a few large requests."""

from __future__ import annotations

import bisect
from collections import deque
from collections.abc import Iterable, Sequence

from scoreline.storage.tables.base import Pinned
from scoreline.storage.tables.fetching import Fetcher, Request
from scoreline.storage.tables.parquet_chunks import Chunk
from scoreline.storage.tables.ranged import RangedFile

_BLOCK_BYTES = 1 << 20
"""The bytes of a request are released in blocks of this size, while Arrow reads on."""


class _Stream:
    """The bytes of a chunk, which are read from beginning to end."""

    __slots__ = ("blocks", "chunk", "requests")

    def __init__(self, chunk: Chunk) -> None:
        self.chunk = chunk
        self.requests: deque[Request] = deque()
        self.blocks: deque[tuple[int, memoryview | bytes]] = deque()
        """The blocks that were fetched and not yet read, with their positions."""


class ChunkFile(RangedFile):
    """An object whose planned chunks are read from a fetcher, each from beginning to end.

    Anything else is read with a request of its own.

    Parameters
    ----------
    source : Pinned
        The object.
    planned : iterable of pairs of Request and sequence of Chunk
        The requests, and the chunks that each is for (see `plan_requests`).
    gradual : bool
        Whether Arrow reads the chunks bit by bit. Their bytes are then released bit by bit, too. Otherwise each chunk
        is read at once, without a copy, and Arrow holds its bytes until `close`.
    """

    def __init__(
        self, source: Pinned, fetcher: Fetcher, planned: Iterable[tuple[Request, Sequence[Chunk]]], *, gradual: bool
    ) -> None:
        super().__init__(source.store, source.key, source.size, source.etag)
        self._fetcher = fetcher
        self._gradual = gradual
        self._requests: list[Request] = []
        self._released = 0
        streams: dict[int, _Stream] = {}
        for request, chunks in planned:
            self._requests.append(request)
            for chunk in chunks:
                streams.setdefault(chunk.start, _Stream(chunk)).requests.append(request)
        self._starts = sorted(streams)
        self._streams = [streams[start] for start in self._starts]

    def read(self, size: int | None = -1) -> bytes:
        """Read up to `size` bytes; of a planned chunk without a copy if possible, as a memoryview."""
        number = bisect.bisect_right(self._starts, self._position) - 1
        if number >= 0 and size is not None and size >= 0:
            stream = self._streams[number]
            if self._position < stream.chunk.stop and self._position + size <= stream.chunk.stop:
                data = self._read_chunk(stream, self._position, self._position + size)
                if data is not None:
                    self._position += size
                    return data  # type: ignore[return-value]  # Arrow takes any buffer
        return super().read(size)

    def _read_chunk(self, stream: _Stream, start: int, stop: int) -> memoryview | bytes | None:
        parts: list[memoryview | bytes] = []
        position = start
        while position < stop:
            if not stream.blocks:
                if not stream.requests:
                    return None
                self._fetch(stream)
                continue
            begin, block = stream.blocks[0]
            if position < begin:  # has been read before
                return None
            end = begin + len(block)
            if position < end:
                parts.append(memoryview(block)[position - begin : stop - begin])
                position = min(stop, end)
            if end <= stop:
                stream.blocks.popleft()
                if self._gradual:
                    self._released += len(block)
                    self._fetcher.release(len(block))
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _fetch(self, stream: _Stream) -> None:
        request = stream.requests.popleft()
        start = max(request.start, stream.chunk.start)
        stop = min(request.stop, stream.chunk.stop)
        data = memoryview(self._fetcher.take(request))[start - request.start : stop - request.start]
        if not self._gradual:
            stream.blocks.append((start, data))
            return
        for low in range(0, len(data), _BLOCK_BYTES):
            stream.blocks.append((start + low, bytes(data[low : low + _BLOCK_BYTES])))

    def close(self) -> None:
        """Count all bytes of the requests as released."""
        if not self.closed:
            self._fetcher.release(sum(request.size for request in self._requests if request.is_sent) - self._released)
            for request in self._requests:
                request.is_sent = True  # or it would be fetched ahead now
            self._streams.clear()
            self._starts.clear()
        super().close()
