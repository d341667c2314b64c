"""Writes an object from pieces whose total size need not be known."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
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
    confirm : bool
        Whether to find out if the store received the bytes as they were written (see `confirmed`).
    """

    confirmed = False
    """Whether the ETag of the object proves that the store received the bytes as they were written. S3 and R2 compute
    the ETag from the bytes that they receive. Other stores and encrypted buckets do not, which proves nothing."""

    def __init__(
        self,
        store: ObjectStore,
        key: str,
        *,
        mode: PutMode = OVERWRITE,
        metadata: Mapping[str, str] | None = None,
        size: int | None = None,
        confirm: bool = False,
    ) -> None:
        self._store, self._key, self._mode, self._metadata = store, key, mode, metadata
        self._part_bytes = max(PART_BYTES, -(-(size or 0) // _MAX_PARTS))
        self._part = bytearray()
        self._upload: Upload | None = None
        self._expected = _ExpectedETag() if confirm else None

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
            if self._expected is not None:
                self._expected.add(self._part)
            info = self._store.put(self._key, bytes(self._part), mode=self._mode, metadata=self._metadata)
        else:
            self._send()
            info = self._upload.complete()
        if self._expected is not None:
            self.confirmed = info.etag == self._expected.etag(in_parts=self._upload is not None)
            self._expected.close()
        return info

    def _send(self) -> None:
        if self._upload is None:
            self._upload = self._store.open_upload(self._key, mode=self._mode, metadata=self._metadata)
        part, self._part = self._part, bytearray()
        if self._expected is not None:
            self._expected.add(part)
        self._upload.send(part)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._part = bytearray()
        if self._expected is not None:
            self._expected.close()
        if self._upload is not None:
            self._upload.abort()


class _ExpectedETag:
    """Computes the ETag that S3 and R2 give to an object, in a second thread, while its parts are sent."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="etag")
        self._digests = bytearray()
        self._parts = 0
        self._hashing: Future[bytes] | None = None

    def add(self, part: bytes | bytearray) -> None:
        """Add the next part. Wait for the part before it, so that few parts are in memory."""
        self._end_part()
        self._hashing = self._pool.submit(_md5, part)

    def etag(self, *, in_parts: bool) -> str:
        """Return the ETag of an object that consists of the parts so far."""
        self._end_part()
        return f"{_md5(self._digests).hex()}-{self._parts}" if in_parts else self._digests.hex()

    def close(self) -> None:
        """End the thread."""
        self._pool.shutdown()

    def _end_part(self) -> None:
        if self._hashing is not None:
            self._digests += self._hashing.result()
            self._parts += 1
            self._hashing = None


def _md5(data: bytes | bytearray) -> bytes:
    return hashlib.md5(data, usedforsecurity=False).digest()
