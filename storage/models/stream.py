"""A stream over the bytes of an artifact. Every chunk is verified before any of its bytes can be read."""

from __future__ import annotations

import io
import os
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Protocol, Self

from scoreline.storage.errors import ModelCorrupt, ObjectNotFound, PreconditionFailed
from scoreline.storage.hashing import sha256_hex
from scoreline.storage.models.manifest import Artifact
from scoreline.storage.objects.base import ObjectStore

READ_AHEAD = 4
"""Number of chunks that are fetched ahead. With chunks of 4 MiB, the buffer uses about 20 MiB for a model of any
size."""

_MANY_BYTES = 1 << 16
"""Number of bytes from which on copying takes longer than calling NumPy."""


class Source(Protocol):
    """A source for the bytes of an artifact."""

    uri: str

    def read(self, start: int, stop: int) -> bytes:
        """Return the bytes ``start <= i < stop``, unverified.

        The first call finishes before any other call begins. Later calls come from several threads in parallel.

        Raises
        ------
        ModelCorrupt
            The stored bytes are not those of the artifact.
        """
        ...


class ObjectSource:
    """Reads from an object. The first read pins the ETag of the object, and all later reads require it."""

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
            raise ModelCorrupt(f"{self.uri} is missing, but its manifest exists: publish the model again") from error
        except PreconditionFailed as error:
            raise ModelCorrupt(f"{self.uri} was replaced or truncated while it was read") from error
        if stored.info.size != self._size:
            raise ModelCorrupt(
                f"{self.uri} has {stored.info.size} bytes, but its manifest says {self._size}: publish the model again"
            )
        self._etag = stored.info.etag
        return stored.data


def check_stored(store: ObjectStore, key: str, artifact: Artifact, tee: Callable[[bytes], None] | None = None) -> None:
    """Compare every byte of a stored artifact with its description.

    Parameters
    ----------
    tee : callable, optional
        Receives every verified chunk, in order.

    Raises
    ------
    ModelCorrupt
        The artifact is missing, or differs from the description.
    """
    with VerifiedReader(ObjectSource(store, key, artifact.size), artifact, tee) as raw:
        raw.drain()


class FileSource:
    """Reads from an open file."""

    def __init__(self, uri: str, descriptor: int) -> None:
        self.uri = uri
        self._descriptor = descriptor

    def read(self, start: int, stop: int) -> bytes:
        """Read a range of the file (see `Source.read`)."""
        try:
            return os.pread(self._descriptor, stop - start, start)
        except OSError as error:
            raise ModelCorrupt(f"{self.uri} cannot be read: {error.strerror}") from error


def _copy(source: memoryview, target: memoryview) -> None:
    """Copy bytes. Threads of this process may go on while many bytes are copied."""
    if len(source) < _MANY_BYTES:
        target[:] = source
        return
    import numpy as np  # only models that are loaded are copied; the command line reads them without NumPy

    np.copyto(np.frombuffer(target, np.uint8), np.frombuffer(source, np.uint8))  # without the interpreter's lock


class VerifiedReader(io.RawIOBase):
    """A raw stream that returns only verified bytes. Wrap the stream in an `io.BufferedReader`.

    A byte is returned only if the SHA-256 of its chunk matches the manifest. Threads fetch and verify the next chunks
    while earlier chunks are unpickled.

    Parameters
    ----------
    source : Source
        Source of the bytes.
    artifact : Artifact
        The artifact that the bytes must match.
    tee : callable, optional
        Receives every verified chunk, in order.

    Raises (from any read)
    ----------------------
    ModelCorrupt
        The artifact is missing, was replaced or altered, or has the wrong size.
    StoreUnavailable
        The store still fails after its own retries. The error is transient.
    """

    def __init__(self, source: Source, artifact: Artifact, tee: Callable[[bytes], None] | None = None) -> None:
        super().__init__()
        self._source = source
        self._artifact = artifact
        self._tee = tee
        self._chunks = self._verified_chunks()
        self._view = memoryview(b"")

    def readable(self) -> bool:
        """Return True, because the stream can be read."""
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # typeshed's Buffer is wider
        """Copy verified bytes into `buffer` and return their number, or 0 at the end of the stream."""
        if not self._view:
            self._view = memoryview(next(self._chunks, b""))
        count = min(len(buffer), len(self._view))
        _copy(self._view[:count], memoryview(buffer)[:count])
        self._view = self._view[count:]
        return count

    def drain(self) -> int:
        """Verify and discard all bytes that have not been read yet, and return their number."""
        left = len(self._view)
        self._view = memoryview(b"")
        return left + sum(len(chunk) for chunk in self._chunks)

    def close(self) -> None:
        """Cancel the prefetch of chunks."""
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
            raise ModelCorrupt(f"{self._source.uri} is empty: publish the model again")
        data = self._verified(0)  # read the first chunk before all others, because this pins the object
        with ThreadPoolExecutor(READ_AHEAD, thread_name_prefix="model-read") as pool:
            ahead: deque[Future[bytes]] = deque()
            try:
                for number in range(count):
                    while len(ahead) < READ_AHEAD and number + len(ahead) + 1 < count:
                        ahead.append(pool.submit(self._verified, number + len(ahead) + 1))
                    if self._tee is not None:
                        self._tee(data)
                    yield data
                    data = b""  # free the memory before the wait for the next chunk
                    if ahead:
                        data = ahead.popleft().result()
            finally:
                for future in ahead:
                    future.cancel()

    def _verified(self, number: int) -> bytes:
        start = number * self._artifact.chunk_bytes
        data = self._source.read(start, min(start + self._artifact.chunk_bytes, self._artifact.size))
        if sha256_hex(data) != self._artifact.chunks[number]:
            raise ModelCorrupt(
                f"chunk {number} of {self._source.uri} differs from its manifest: publish the model again"
            )
        return data
