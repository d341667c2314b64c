"""Cuts the bytes of an artifact into chunks, and hashes them while they pass by."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Self

from scoreline.storage.hashing import sha256_hex
from scoreline.storage.models.manifest import CHUNK_BYTES, Artifact, Role


class ChunkDigests:
    """Describes an artifact from its bytes, which come in pieces of any size.

    The digest of the whole is computed in a second thread, because it takes as long as the digests of the chunks.

    Parameters
    ----------
    receive : callable, optional
        Receives the number, the digest and the bytes of each chunk, in order.
    """

    def __init__(self, receive: Callable[[int, str, bytes], object] | None = None) -> None:
        self._receive = receive
        self._whole = hashlib.sha256()
        self._chunks: list[str] = []
        self._size = 0
        self._pieces: list[bytes] = []
        self._held = 0
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="digest")
        self._hashing: Future[None] | None = None

    def write(self, data: bytes) -> None:
        """Append bytes."""
        start = 0
        while start < len(data):
            piece = data[start : start + CHUNK_BYTES - self._held]
            self._pieces.append(piece)
            self._held += len(piece)
            start += len(piece)
            if self._held == CHUNK_BYTES:
                self._end_chunk()

    def artifact(self, role: Role, name: str) -> Artifact:
        """Return the description of all bytes so far, which are the whole artifact."""
        if self._held:
            self._end_chunk()
        if self._hashing is not None:
            self._hashing.result()
        return Artifact(
            role=role,
            name=name,
            file=artifact_file(name),
            size=self._size,
            sha256=self._whole.hexdigest(),
            chunk_bytes=CHUNK_BYTES,
            chunks=tuple(self._chunks),
        )

    def _end_chunk(self) -> None:
        chunk = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
        self._pieces, self._held = [], 0
        if self._hashing is not None:
            self._hashing.result()
        self._hashing = self._pool.submit(self._whole.update, chunk)
        digest = sha256_hex(chunk)
        self._chunks.append(digest)
        self._size += len(chunk)
        if self._receive is not None:
            self._receive(len(self._chunks) - 1, digest, chunk)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown()


def artifact_file(name: str) -> str:
    """Return the file name of an artifact.

    >>> artifact_file("forest")
    'forest.joblib'
    """
    return f"{name}.joblib"
