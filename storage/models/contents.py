"""The bytes of a file to publish, wherever they are: in memory, on disk, in a bucket, or within a Python object.

Every class here passes the bytes on in pieces, so that a large file is never in memory as a whole.
"""

from __future__ import annotations

import contextlib
import io
import os
import stat
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from scoreline.storage.errors import InvalidRequest, PreconditionFailed
from scoreline.storage.objects.base import ObjectInfo, ObjectStore

_PIECE_BYTES = 4 << 20
_AHEAD = 3
"""Number of pieces of an object that are fetched ahead."""


class Content(Protocol):
    """The bytes of a file to publish. They can be read several times."""

    def copy_to(self, write: Callable[[bytes], object]) -> None:
        """Pass all bytes to `write`, in pieces.

        Raises
        ------
        InvalidRequest
            The bytes changed while they were read.
        """
        ...

    @property
    def size(self) -> int | None:
        """Number of bytes; None if it is not known in advance."""
        ...

    @property
    def recorded_sha256(self) -> str | None:
        """SHA-256 that is recorded with the bytes; None if there is none."""
        ...


@dataclass(frozen=True)
class InMemory:
    """Bytes that are in memory."""

    data: bytes = field(repr=False)
    recorded_sha256: None = None

    @property
    def size(self) -> int:
        """Number of bytes."""
        return len(self.data)

    def copy_to(self, write: Callable[[bytes], object]) -> None:
        """Pass the bytes on (see `Content.copy_to`)."""
        for start in range(0, len(self.data), _PIECE_BYTES):
            write(self.data[start : start + _PIECE_BYTES])


@dataclass(frozen=True)
class FileOnDisk:
    """A regular file on disk."""

    path: Path
    recorded_sha256: None = None

    @property
    def size(self) -> int:
        """Size of the file in bytes."""
        with _reading(self.path):
            return self.path.stat().st_size

    def copy_to(self, write: Callable[[bytes], object]) -> None:
        """Read the file (see `Content.copy_to`). A change is noticed by the size and the modification time."""
        with _reading(self.path):
            file = self.path.open("rb", buffering=0)
        with file:
            before, copied = os.fstat(file.fileno()), 0
            while piece := _read_piece(file, self.path):
                write(piece)
                copied += len(piece)
            after = os.fstat(file.fileno())
        if copied != before.st_size or before.st_mtime_ns != after.st_mtime_ns:
            raise InvalidRequest(
                f"{self.path} was changed while it was read, so nothing was published: publish it again when whatever "
                "writes it has finished"
            )


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn an error of the operating system in the block into `InvalidRequest`, which names the file."""
    try:
        yield
    except OSError as error:
        raise InvalidRequest(f"cannot read {path}: {error.strerror or error}") from error


def _read_piece(file: io.FileIO, path: Path) -> bytes:
    with _reading(path):
        return file.read(_PIECE_BYTES)


def open_file(path: Path) -> Content:
    """Return the content of a file. What can be read only once, such as a pipe, is read into memory.

    Raises
    ------
    OSError
        The file cannot be read.
    """
    with path.open("rb") as file:
        if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            return FileOnDisk(path)
        return InMemory(file.read())


@dataclass(frozen=True)
class StoredFile:
    """An object in a bucket."""

    store: ObjectStore
    info: ObjectInfo

    @property
    def size(self) -> int:
        """Size of the object in bytes."""
        return self.info.size

    @property
    def recorded_sha256(self) -> str | None:
        """The digest that `ModelStorageManager.save` recorded."""
        return self.info.metadata.get("sha256")

    @property
    def uri(self) -> str:
        """``s3://bucket/key``."""
        return self.store.uri(self.info.key)

    def copy_to(self, write: Callable[[bytes], object]) -> None:
        """Read the object with several requests at a time (see `Content.copy_to`)."""
        for piece in self._pieces():
            write(piece)

    def _pieces(self) -> Iterator[bytes]:
        ahead = deque[Future[bytes]]()
        with ThreadPoolExecutor(_AHEAD, thread_name_prefix="publish-read") as pool:
            try:
                for start in range(0, self.size, _PIECE_BYTES):
                    if len(ahead) == _AHEAD:
                        yield ahead.popleft().result()
                    ahead.append(pool.submit(self._read, start))
                while ahead:
                    yield ahead.popleft().result()
            finally:
                for future in ahead:
                    future.cancel()

    def _read(self, start: int) -> bytes:
        stop = min(start + _PIECE_BYTES, self.size)
        try:
            return self.store.get(self.info.key, byte_range=(start, stop), if_match=self.info.etag).data
        except PreconditionFailed as error:
            raise InvalidRequest(
                f"{self.uri} was replaced while it was read, so nothing was published: publish it again"
            ) from error


@dataclass(frozen=True)
class Pickled:
    """A Python object, which joblib encodes while its bytes are passed on.

    The bytes are not compressed, so that only the network limits the speed of loading.
    """

    obj: Any
    size: None = None
    recorded_sha256: None = None

    def copy_to(self, write: Callable[[bytes], object]) -> None:
        """Encode the object (see `Content.copy_to`)."""
        import joblib  # the command line publishes files, and saves the memory of NumPy

        joblib.dump(self.obj, _PieceFile(write))


class _PieceFile(io.RawIOBase):
    """A file that passes on what is written to it. It knows its position, by which joblib aligns arrays."""

    def __init__(self, write: Callable[[bytes], object]) -> None:
        self._write = write
        self._position = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        with memoryview(data) as view:
            size = view.nbytes
            self._write(bytes(data) if not isinstance(data, bytes) else data)
        self._position += size
        return size

    def tell(self) -> int:
        return self._position
