"""The local cache: copies of models on disk. The copies save downloads, and replace R2 while R2 is down.

The cache is useful on machines whose disk survives restarts.
"""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from scoreline.storage.errors import ModelCorrupt
from scoreline.storage.hashing import is_sha256_hex
from scoreline.storage.models.manifest import Artifact

log = logging.getLogger(__name__)

_STALE_S = 3600.0
"""Age in seconds at which a temporary file is deleted. By then its writer must have been killed."""


class LocalCache:
    """Stores artifacts under their SHA-256, and the last known content of manifests, signatures and aliases.

    The files are not trusted: each copy is verified as if it had come over the network. A file is renamed into place
    once it is complete, so that several processes can share the folder. If the disk is full or read-only, a warning is
    logged and the model is loaded from the store.

    Parameters
    ----------
    folder : Path
        Directory of the cache. The directory is created on the first write, and only its owner can read it.
    max_bytes : int
        Maximum total size of the artifacts. The least recently used artifacts are deleted first. An artifact larger
        than `max_bytes` is not cached.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self._artifacts = folder / "artifacts"
        self._documents = folder / "documents"
        self._max_bytes = max_bytes

    def open(self, artifact: Artifact) -> int | None:
        """Return a file descriptor for the copy, or None if there is no copy. The caller must close the descriptor."""
        path = self.path(artifact)
        try:
            descriptor = os.open(path, os.O_RDONLY)
        except OSError:
            return None
        with contextlib.suppress(OSError):
            os.utime(path)  # mark the copy as recently used
        return descriptor

    def path(self, artifact: Artifact) -> Path:
        """Return the path for the copy of an artifact, whether or not the copy exists.

        Raises
        ------
        ModelCorrupt
            The digest of the artifact is not a SHA-256, so the path could point outside of the cache.
        """
        if not is_sha256_hex(artifact.sha256):
            raise ModelCorrupt(f"the digest of {artifact.file} in the manifest is not a SHA-256")
        return self._artifacts / artifact.sha256

    def drop(self, artifact: Artifact) -> None:
        """Delete a copy that turned out to be corrupt."""
        with contextlib.suppress(OSError):
            self.path(artifact).unlink()

    @contextlib.contextmanager
    def writer(self, artifact: Artifact) -> Iterator[CacheWriter | None]:
        """Yield a writer for the verified chunks of an artifact, or None if the artifact is too large for the cache.

        At the end of the block, the copy is stored if there was no error and all bytes were written.
        """
        if artifact.size > self._max_bytes:
            log.warning(
                "models.copy_too_large",
                extra={"file": artifact.file, "bytes": artifact.size, "max_bytes": self._max_bytes},
            )
            yield None
            return
        self._make_room(artifact.size)
        writer = CacheWriter(self.path(artifact), artifact.size)
        try:
            yield writer
            writer.commit()
        finally:
            writer.discard()

    def keep_document(self, key: str, data: bytes) -> None:
        """Store the content of a document that was just read from the store."""
        if self.document(key) != data:
            writer = CacheWriter(self._documents / key, len(data))
            writer(data)
            writer.commit()
            writer.discard()

    def document(self, key: str) -> bytes | None:
        """Return the last known content of a document, or None if it was never read."""
        try:
            return (self._documents / key).read_bytes()
        except OSError:
            return None

    def documents(self, prefix: str) -> list[str]:
        """Return the keys of the cached documents that begin with `prefix`, which must end with a slash."""
        found = (self._documents / prefix).rglob("*")
        return sorted(str(path.relative_to(self._documents)) for path in found if path.is_file())

    def _make_room(self, size: int) -> None:
        copies = []
        with contextlib.suppress(OSError):  # another process may be deleting files at the same time
            for path in self._artifacts.iterdir():
                stat = path.stat()
                if not path.name.startswith("."):
                    copies.append((stat.st_mtime, stat.st_size, path))
                elif time.time() - stat.st_mtime > _STALE_S:
                    path.unlink(missing_ok=True)
        used = sum(item[1] for item in copies)
        for _, bytes_, path in sorted(copies):
            if used + size <= self._max_bytes:
                break
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
            used -= bytes_


class CacheWriter:
    """Writes a file that appears completely or not at all."""

    def __init__(self, path: Path, size: int) -> None:
        self._path = path
        self._left = size
        self._descriptor = -1
        self._temporary = ""
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._descriptor, self._temporary = tempfile.mkstemp(prefix=".", dir=path.parent)
        except OSError as error:
            self._give_up(error)

    def __call__(self, data: bytes) -> None:
        """Append verified bytes."""
        if self._descriptor < 0:
            return
        try:
            with memoryview(data) as view:
                written = 0
                while written < len(view):
                    written += os.write(self._descriptor, view[written:])
            self._left -= len(data)
        except OSError as error:
            self._give_up(error)

    def commit(self) -> None:
        """Rename the file into place if all bytes were written."""
        if self._descriptor >= 0 and self._left == 0:
            try:
                os.replace(self._temporary, self._path)
                self._temporary = ""
            except OSError as error:
                self._give_up(error)

    def discard(self) -> None:
        """Delete the temporary file unless it was committed."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
        if self._temporary:
            with contextlib.suppress(OSError):
                os.unlink(self._temporary)
            self._temporary = ""

    def _give_up(self, error: OSError) -> None:
        log.warning("models.copy_failed", extra={"path": str(self._path), "reason": error.strerror})
        self.discard()
