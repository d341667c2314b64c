"""Writes an object from pieces whose total size need not be known."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Self

from scoreline.storage.objects.base import OVERWRITE, ObjectInfo, ObjectStore, PutMode, Upload

PART_BYTES = 8 << 20
"""Size of a part, in bytes. It limits the memory for an upload, because several parts are sent at the same time. R2
accepts parts of at least 5 MiB."""
_MAX_PARTS = 10_000


class ObjectWriter:
    """Collects pieces, and sends them in parts of equal size. The object appears when the writer is completed.

    An object that fits into one part is stored by a single request. If the block of a `with` statement ends without
    `complete`, nothing is stored.

    Parameters
    ----------
    store : ObjectStore
        The bucket.
    key : str
        Key of the object.
    mode : PutMode
        Condition for the write; not an `IfMatch`.
    metadata : mapping, optional
        Metadata of the object.
    size : int, optional
        Expected size in bytes. A large object needs large parts, because it has at most 10,000.
    """

    def __init__(
        self,
        store: ObjectStore,
        key: str,
        *,
        mode: PutMode = OVERWRITE,
        metadata: Mapping[str, str] | None = None,
        size: int | None = None,
    ) -> None:
        self._store, self._key, self._mode, self._metadata = store, key, mode, metadata
        self._part_bytes = max(PART_BYTES, -(-(size or 0) // _MAX_PARTS))
        self._part = bytearray()
        self._upload: Upload | None = None

    def write(self, data: bytes) -> int:
        """Append bytes and return their number. If too many parts are being sent, wait."""
        with memoryview(data) as view:
            start = 0
            while start < len(view):
                if len(self._part) == self._part_bytes:
                    self._send()
                stop = start + self._part_bytes - len(self._part)
                self._part += view[start:stop]
                start = stop
        return len(data)

    def complete(self) -> ObjectInfo:
        """Make the object appear, and return its properties (errors as in `ObjectStore.put`)."""
        if self._upload is None:
            return self._store.put(self._key, bytes(self._part), mode=self._mode, metadata=self._metadata)
        self._send()
        return self._upload.complete()

    def _send(self) -> None:
        if self._upload is None:
            self._upload = self._store.open_upload(self._key, mode=self._mode, metadata=self._metadata)
        part, self._part = self._part, bytearray()
        self._upload.send(part)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._part = bytearray()
        if self._upload is not None:
            self._upload.abort()
