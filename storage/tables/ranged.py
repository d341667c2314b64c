"""An object as a seekable file of ranged GETs, all from the object that was planned."""

from __future__ import annotations

import io

from storage.errors import InputChanged, ObjectNotFound, PreconditionFailed
from storage.objects.base import ObjectStore


class RangedFile(io.RawIOBase):
    """A read-only file over an object, pinned by its ETag.

    Parameters
    ----------
    store, key
        The object.
    size : int
        Its bytes.
    etag : str
        What it has to be at every read.

    Raises (from any read)
    ----------------------
    InputChanged
        The object was replaced or deleted.
    """

    def __init__(self, store: ObjectStore, key: str, size: int, etag: str) -> None:
        super().__init__()
        self._store = store
        self._key = key
        self._size = size
        self._etag = etag
        self._position = 0

    def readable(self) -> bool:
        """Whether bytes can be read: always."""
        return True

    def seekable(self) -> bool:
        """Whether the position can be set: always."""
        return True

    def tell(self) -> int:
        """Return the position, in bytes."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Set the position, in bytes."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def read(self, size: int | None = -1) -> bytes:
        """Return up to `size` bytes with one request."""
        stop = self._size if size is None or size < 0 else min(self._position + size, self._size)
        if stop <= self._position:
            return b""
        try:
            data = self._store.get(self._key, byte_range=(self._position, stop), if_match=self._etag).data
        except (PreconditionFailed, ObjectNotFound) as error:
            raise InputChanged(
                f"{self._store.uri(self._key)} was replaced or deleted after the job was planned: "
                "submit a new job for the new object"
            ) from error
        self._position += len(data)
        return data

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # typeshed's Buffer is wider
        """Fill `buffer`; 0 at the end."""
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)
