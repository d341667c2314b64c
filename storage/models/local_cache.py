"""Verified local copies of models, for machines whose disk stays: they save transfers and serve when R2 is down."""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from scoreline.storage.models.manifest import Artifact

log = logging.getLogger(__name__)

_STALE_S = 3600.0


class LocalCopies:
    """Artifacts by their SHA-256, and the documents (manifests, signatures, aliases) that were read last.

    Nothing here is trusted: whoever reads a copy verifies it as if it came over the network. Files appear whole, by
    rename, so that processes share the folder. A disk that is full or read-only costs a warning, never a load.

    Parameters
    ----------
    folder : Path
        Made when first written to, readable by its owner alone.
    max_bytes : int
        Of artifacts; those used longest ago go first, and one that is larger alone is not kept.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self._artifacts = folder / "artifacts"
        self._documents = folder / "documents"
        self._max_bytes = max_bytes

    def open(self, artifact: Artifact) -> int | None:
        """Return a descriptor of the copy, to be closed by the caller; None where there is none."""
        path = self._artifacts / artifact.sha256
        try:
            descriptor = os.open(path, os.O_RDONLY)
        except OSError:
            return None
        with contextlib.suppress(OSError):
            os.utime(path)  # used now: others go first
        return descriptor

    def path(self, artifact: Artifact) -> Path:
        """Return where the copy of an artifact is, or would be."""
        return self._artifacts / artifact.sha256

    def drop(self, artifact: Artifact) -> None:
        """Remove a copy that turned out to be corrupt."""
        with contextlib.suppress(OSError):
            self.path(artifact).unlink()

    @contextlib.contextmanager
    def writer(self, artifact: Artifact) -> Iterator[CopyWriter | None]:
        """Yield what takes the verified chunks of an artifact in order; None where it is not to be kept.

        The copy appears when the block ends without an error, and only if all of it was written.
        """
        if artifact.size > self._max_bytes:
            log.warning(
                "models.copy_too_large",
                extra={"file": artifact.file, "bytes": artifact.size, "max_bytes": self._max_bytes},
            )
            yield None
            return
        self._make_room(artifact.size)
        copy = CopyWriter(self.path(artifact), artifact.size)
        try:
            yield copy
            copy.commit()
        finally:
            copy.discard()

    def keep_document(self, key: str, data: bytes) -> None:
        """Remember a document of the store."""
        if self.document(key) != data:
            copy = CopyWriter(self._documents / key, len(data))
            copy(data)
            copy.commit()
            copy.discard()

    def document(self, key: str) -> bytes | None:
        """Return a document as it was read last."""
        try:
            return (self._documents / key).read_bytes()
        except OSError:
            return None

    def documents(self, prefix: str) -> list[str]:
        """Return the keys of known documents that begin with `prefix`, which ends with a slash."""
        found = (self._documents / prefix).rglob("*")
        return sorted(str(path.relative_to(self._documents)) for path in found if path.is_file())

    def _make_room(self, size: int) -> None:
        kept = []
        with contextlib.suppress(OSError):  # another process makes room too
            for path in self._artifacts.iterdir():
                stat = path.stat()
                if not path.name.startswith("."):
                    kept.append((stat.st_mtime, stat.st_size, path))
                elif time.time() - stat.st_mtime > _STALE_S:  # its writer was killed
                    path.unlink(missing_ok=True)
        used = sum(item[1] for item in kept)
        for _, bytes_, path in sorted(kept):
            if used + size <= self._max_bytes:
                break
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
            used -= bytes_


class CopyWriter:
    """A file that appears whole or not at all."""

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
        """Let the file appear, if all of it is there."""
        if self._descriptor >= 0 and self._left == 0:
            try:
                os.replace(self._temporary, self._path)
                self._temporary = ""
            except OSError as error:
                self._give_up(error)

    def discard(self) -> None:
        """Remove what did not appear."""
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
