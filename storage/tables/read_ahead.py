"""A file for an object of which one range is read in order. The next bytes of the range are prefetched in parallel."""

from __future__ import annotations

from collections.abc import Generator
from itertools import pairwise

from scoreline.storage.prefetch import map_ahead
from scoreline.storage.tables.base import Pinned
from scoreline.storage.tables.ranged import Ends, RangedFile

PIECE_BYTES = 4 << 20
"""Number of bytes of a request."""
CONNECTIONS = 5
"""Number of requests at a time. R2 sends 50 to 100 MB/s to each connection, and parsing so much text takes a second."""
_LEAST_BYTES = 1 << 20
"""Minimum size of a request, so that a short range is divided, too."""
_CAREFUL = 4
"""Of this many pieces at the beginning of a range, only two are requested at a time, because planning reads only the
first rows of some parts."""


class ReadAheadFile(RangedFile):
    """An object of which one range is read in order. At most ``(CONNECTIONS + 1) * PIECE_BYTES`` are in memory.

    Reads outside of the range, or before the last read, send separate requests.

    Parameters
    ----------
    source : Pinned
        The object.
    ends : Ends, optional
        The ends of the object (see `RangedFile`).
    stops : bool
        Whether a buffered reader gets no bytes beyond the end of the range until it asks for them. By default, its
        buffer is filled, because the range is only an estimate.
    """

    def __init__(self, source: Pinned, ends: Ends | None = None, *, stops: bool = False) -> None:
        super().__init__(source.store, source.key, source.size, source.etag, ends)
        self._stops = stops
        self._pieces: Generator[bytes] | None = None
        self._piece = b""
        self._piece_start = 0
        self._range_stop = 0

    def read_ahead(self, start: int, stop: int) -> None:
        """Prefetch the bytes from `start` to `stop`, which are read next and in order."""
        stop = min(stop, self._size)
        self.stop()
        pieces, budget = divide(start, stop), CONNECTIONS * PIECE_BYTES
        if self._size <= self.WHOLE_BYTES:
            return
        if len(pieces) == 1:  # one request is enough
            self._range_stop = stop
            return
        careful = set(pieces[:_CAREFUL])
        self._pieces = map_ahead(
            lambda piece: self.fetch(*piece),
            pieces,
            threads=CONNECTIONS,
            weigh=lambda piece: budget // 2 if piece in careful else piece[1] - piece[0],
            budget=budget,
        )
        self._piece_start, self._range_stop = start, stop

    def close(self) -> None:
        """Fetch nothing more."""
        self.stop()
        super().close()

    def stop(self) -> None:
        """Stop prefetching, and discard the prefetched bytes. The file can still be read."""
        if self._pieces is not None:
            self._pieces.close()
        self._pieces, self._piece, self._range_stop = None, b"", 0

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # typeshed's Buffer is wider
        """Copy bytes into `buffer` piece by piece, so that a large read takes little additional memory."""
        filled = 0
        while filled < len(buffer) and not (self._stops and filled and self._position == self._range_stop):
            size = len(buffer) - filled
            if self._stops and self._position < self._range_stop:
                size = min(size, self._range_stop - self._position)
            if self._pieces is not None and self._piece_start <= self._position < self._range_stop:
                left = self._piece_start + len(self._piece) - self._position
                size = min(size, left if left > 0 else PIECE_BYTES)
            data = self.read(size)
            if not data:
                break
            buffer[filled : filled + len(data)] = data
            filled += len(data)
        return filled

    def _read(self, start: int, stop: int) -> bytes:
        if self._pieces is None or not self._piece_start <= start < self._range_stop:
            return super()._read(start, stop)
        parts = []
        while start < min(stop, self._range_stop) and self._go_on_to(start):
            offset = start - self._piece_start
            parts.append(self._piece[offset : offset + stop - start])
            start += len(parts[-1])
        if start < stop:
            parts.append(super()._read(start, stop))
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _go_on_to(self, position: int) -> bool:
        """Wait for the piece that contains a position. Return False if an earlier error has ended the prefetch."""
        assert self._pieces is not None
        while position >= self._piece_start + len(self._piece):
            self._piece_start += len(self._piece)
            self._piece = b""  # free this piece before the next one is in memory
            self._piece = next(self._pieces, b"")
            if not self._piece:
                return False
        return True


def divide(start: int, stop: int) -> list[tuple[int, int]]:
    """Divide a range evenly into pieces of up to `PIECE_BYTES`, each of which takes a request.

    There is a piece for each connection, unless the pieces would then be smaller than `_LEAST_BYTES`.
    """
    size = stop - start
    if size <= _LEAST_BYTES:
        return [(start, stop)]
    count = max(-(-size // PIECE_BYTES), min(CONNECTIONS, size // _LEAST_BYTES))
    bounds = [start + size * number // count for number in range(count + 1)]
    return list(pairwise(bounds))
