"""Read an object as a seekable file with ranged GETs. All reads return bytes of the version that was planned."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from scoreline.storage.errors import InputChanged, ObjectNotFound, PreconditionFailed
from scoreline.storage.objects.base import ObjectStore


@dataclass
class Ends:
    """The first and the last bytes of an object, once they have been read. Several files of one object may share them.

    Formats have their metadata there, and read it in small pieces.
    """

    head: bytes = b""
    tail: bytes = b""


class RangedFile(io.RawIOBase):
    """A read-only file for an object that is pinned by its ETag.

    Parameters
    ----------
    store : ObjectStore
        The store of the object.
    key : str
        Key of the object.
    size : int
        Size of the object in bytes.
    etag : str
        ETag that the object must have at every read.
    ends : Ends, optional
        The ends of the object, to share them with other files. If this is given, at least `_END_BYTES` are requested at
        either end.

    Raises (from any read)
    ----------------------
    InputChanged
        The object was replaced or deleted.
    """

    WHOLE_BYTES = 256 << 10
    """Objects up to this size are read in one request, even if only their footer is needed, because further requests
    would cost more than the extra bytes."""
    _TAIL_BYTES = 256 << 10
    _END_BYTES = 64 << 10
    """Minimum number of bytes to request at either end of an object whose ends are read in small pieces. Fewer bytes
    would not arrive earlier."""

    def __init__(self, store: ObjectStore, key: str, size: int, etag: str, ends: Ends | None = None) -> None:
        super().__init__()
        self._store = store
        self._key = key
        self._size = size
        self._etag = etag
        self._position = 0
        self._whole: bytes | None = None
        self._ends = Ends() if ends is None else ends
        self._end_bytes = 0 if ends is None else self._END_BYTES
        self.end = b""
        """The last 8 bytes of the object, once they have been read."""

    def readable(self) -> bool:
        """Return True, because the file can be read."""
        return True

    def seekable(self) -> bool:
        """Return True, because the position can be set."""
        return True

    def tell(self) -> int:
        """Return the position in bytes."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Set the position in bytes and return it."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def read(self, size: int | None = -1) -> bytes:
        """Read up to `size` bytes with a single request."""
        stop = self._size if size is None or size < 0 else min(self._position + size, self._size)
        if stop <= self._position:
            return b""
        if self._whole is None and self._size <= self.WHOLE_BYTES:
            self._whole = self.fetch(0, self._size)
        data = self._read(self._position, stop)
        self._position += len(data)
        if stop == self._size:
            self.end = (self.end + data)[-8:]
        return data

    def _read(self, start: int, stop: int) -> bytes:
        """Return the bytes of a range. They come from memory if an earlier request fetched them."""
        if self._whole is not None:
            return self._whole[start:stop]
        head, tail = self._ends.head, self._ends.tail
        known = self._size - len(tail)
        if start >= known:
            return tail[start - known : stop - known]
        if stop <= self._end_bytes:
            head = self._ends.head = head or self.fetch(0, self._end_bytes)
            return head[start:stop]
        first = min(start, self._size - self._end_bytes) if stop == self._size else start
        data = self.fetch(first, stop)
        if stop == self._size and len(data) <= self._TAIL_BYTES:  # the page indexes are next to the footer
            self._ends.tail = data
        return data[start - first :] if first < start else data

    def fetch(self, start: int, stop: int) -> bytes:
        """Return the bytes of a range with a single request. This is thread-safe."""
        with self._explained():
            data = self._store.get(self._key, byte_range=(start, stop), if_match=self._etag).data
        if len(data) < min(stop, self._size) - start:  # a short response would shift all later bytes
            raise changed(self._store.uri(self._key))
        return data

    def get_into(self, start: int, buffers: Sequence[memoryview]) -> None:
        """Fill buffers, one after another, with the bytes from a position. One request is sent. This is thread-safe."""
        stop = start + sum(map(len, buffers))
        with self._explained():
            self._store.get(self._key, byte_range=(start, stop), if_match=self._etag, into=buffers)

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (PreconditionFailed, ObjectNotFound) as error:
            raise changed(self._store.uri(self._key)) from error

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # typeshed's Buffer is wider
        """Copy bytes into `buffer` and return their number, or 0 at the end of the file."""
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


def changed(uri: str) -> InputChanged:
    """Return the error for an object that has changed since it was planned."""
    return InputChanged(f"{uri} was replaced or deleted after the job was planned: submit a new job for the new object")
