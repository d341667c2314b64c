"""Bytes of an artifact as a stream, each chunk verified before anybody reads it."""

from __future__ import annotations

import hashlib
import io
from collections import deque
from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Self

from storage.errors import ModelCorrupt, ObjectNotFound, PreconditionFailed
from storage.models.manifest import Artifact
from storage.objects.base import ObjectStore

READ_AHEAD = 4
"""Chunks fetched at once: with chunks of 4 MiB, a buffer of 16 MiB whatever the model's size."""


class VerifiedReader(io.RawIOBase):
    """A raw stream over ranged GETs; wrap it in `io.BufferedReader`.

    The first request pins the object's ETag, the others carry it as If-Match, and no byte is handed out before the
    SHA-256 of its chunk agreed with the manifest.

    Raises (from any read)
    ----------------------
    ModelCorrupt
        The object is missing, replaced, shorter, longer or altered.
    StoreUnavailable
        Transient; the store's own retries are used up.
    """

    def __init__(self, store: ObjectStore, key: str, artifact: Artifact) -> None:
        super().__init__()
        self._store = store
        self._key = key
        self._artifact = artifact
        self._chunks = self._verified_chunks()
        self._view = memoryview(b"")

    def readable(self) -> bool:
        """Whether bytes can be read: always."""
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # typeshed's Buffer is wider
        """Fill `buffer` with verified bytes; 0 at the end."""
        if not self._view:
            self._view = memoryview(next(self._chunks, b""))
        count = min(len(buffer), len(self._view))
        buffer[:count] = self._view[:count]
        self._view = self._view[count:]
        return count

    def close(self) -> None:
        """Cancel what is read ahead."""
        self._chunks.close()
        super().close()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __enter__(self) -> Self:
        return self

    def _verified_chunks(self) -> Generator[bytes]:
        digests = self._artifact.chunks
        if not digests:
            raise ModelCorrupt(f"{self._store.uri(self._key)} is empty")
        data, etag = self._fetch(0, None)
        with ThreadPoolExecutor(READ_AHEAD, thread_name_prefix="model-read") as pool:
            ahead: deque[Future[tuple[bytes, str]]] = deque()
            try:
                for number in range(len(digests)):
                    while len(ahead) < READ_AHEAD and number + len(ahead) + 1 < len(digests):
                        ahead.append(pool.submit(self._fetch, number + len(ahead) + 1, etag))
                    if hashlib.sha256(data).hexdigest() != digests[number]:
                        raise ModelCorrupt(
                            f"{self._store.uri(self._key)} differs from its manifest in chunk {number}: refused"
                        )
                    yield data
                    if ahead:
                        data, _ = ahead.popleft().result()
            finally:
                for future in ahead:
                    future.cancel()

    def _fetch(self, number: int, etag: str | None) -> tuple[bytes, str]:
        start = number * self._artifact.chunk_bytes
        stop = min(start + self._artifact.chunk_bytes, self._artifact.size)
        uri = self._store.uri(self._key)
        try:
            stored = self._store.get(self._key, byte_range=(start, stop), if_match=etag)
        except ObjectNotFound as error:
            raise ModelCorrupt(f"{uri} is missing, though its manifest is there") from error
        except PreconditionFailed as error:
            raise ModelCorrupt(f"{uri} was replaced or cut while it was read") from error
        if stored.info.size != self._artifact.size:
            raise ModelCorrupt(f"{uri} has {stored.info.size} bytes, its manifest says {self._artifact.size}: refused")
        return stored.data, stored.info.etag
