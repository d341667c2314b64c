"""Bytes of an artifact as a stream, each chunk verified before anybody reads it."""

from __future__ import annotations

import hashlib
import io
import os
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Protocol, Self

from scoreline.storage.errors import ModelCorrupt, ObjectNotFound, PreconditionFailed
from scoreline.storage.models.manifest import Artifact
from scoreline.storage.objects.base import ObjectStore

READ_AHEAD = 4
"""Chunks fetched at once: with chunks of 4 MiB, a buffer of some 20 MiB whatever the model's size."""


class Source(Protocol):
    """Where the bytes of an artifact come from."""

    uri: str

    def read(self, start: int, stop: int) -> bytes:
        """Return the bytes ``start <= i < stop``, unverified; called by several threads at once, after a first alone.

        Raises `ModelCorrupt` where what is stored cannot be this artifact.
        """
        ...


class StoredSource:
    """An object: the first read pins its ETag, the others carry it as If-Match."""

    def __init__(self, store: ObjectStore, key: str, size: int) -> None:
        self.uri = store.uri(key)
        self._store = store
        self._key = key
        self._size = size
        self._etag: str | None = None

    def read(self, start: int, stop: int) -> bytes:
        """Read a range of the object (see `Source.read`)."""
        try:
            stored = self._store.get(self._key, byte_range=(start, stop), if_match=self._etag)
        except ObjectNotFound as error:
            raise ModelCorrupt(f"{self.uri} is missing, though its manifest is there") from error
        except PreconditionFailed as error:
            raise ModelCorrupt(f"{self.uri} was replaced or cut while it was read") from error
        if stored.info.size != self._size:
            raise ModelCorrupt(f"{self.uri} has {stored.info.size} bytes, its manifest says {self._size}: refused")
        self._etag = stored.info.etag
        return stored.data


class FileSource:
    """An open file."""

    def __init__(self, uri: str, descriptor: int) -> None:
        self.uri = uri
        self._descriptor = descriptor

    def read(self, start: int, stop: int) -> bytes:
        """Read a range of the file (see `Source.read`)."""
        try:
            return os.pread(self._descriptor, stop - start, start)
        except OSError as error:
            raise ModelCorrupt(f"{self.uri} cannot be read: {error.strerror}") from error


class VerifiedReader(io.RawIOBase):
    """A raw stream; wrap it in `io.BufferedReader`.

    No byte is handed out before the SHA-256 of its chunk agreed with the manifest. Chunks are fetched and verified
    ahead, by threads, while earlier ones are being unpickled.

    Parameters
    ----------
    source : Source
        Where the bytes come from.
    artifact : Artifact
        What they have to be.
    tee : callable, optional
        Gets every verified chunk, in order.

    Raises (from any read)
    ----------------------
    ModelCorrupt
        The bytes are missing, replaced, too few, too many or altered.
    StoreUnavailable
        Transient; the store's own retries are used up.
    """

    def __init__(self, source: Source, artifact: Artifact, tee: Callable[[bytes], None] | None = None) -> None:
        super().__init__()
        self._source = source
        self._artifact = artifact
        self._tee = tee
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

    def drain(self) -> int:
        """Verify and drop what was not read yet; returns its bytes."""
        left = len(self._view)
        self._view = memoryview(b"")
        return left + sum(len(chunk) for chunk in self._chunks)

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
        count = len(self._artifact.chunks)
        if not count:
            raise ModelCorrupt(f"{self._source.uri} is empty")
        data = self._verified(0)  # alone: it pins the object
        with ThreadPoolExecutor(READ_AHEAD, thread_name_prefix="model-read") as pool:
            ahead: deque[Future[bytes]] = deque()
            try:
                for number in range(count):
                    while len(ahead) < READ_AHEAD and number + len(ahead) + 1 < count:
                        ahead.append(pool.submit(self._verified, number + len(ahead) + 1))
                    if self._tee is not None:
                        self._tee(data)
                    yield data
                    data = b""  # let go before the next is waited for
                    if ahead:
                        data = ahead.popleft().result()
            finally:
                for future in ahead:
                    future.cancel()

    def _verified(self, number: int) -> bytes:
        start = number * self._artifact.chunk_bytes
        data = self._source.read(start, min(start + self._artifact.chunk_bytes, self._artifact.size))
        if hashlib.sha256(data).hexdigest() != self._artifact.chunks[number]:
            raise ModelCorrupt(f"{self._source.uri} differs from its manifest in chunk {number}: refused")
        return data
