"""A store for development that keeps objects as files in a directory. It has the same interface as `R2Store`.

An object is a plain file that any tool can open. The ETag of an object consists of the inode, the modification time and
the size, because renaming the file preserves all three. User metadata is stored in ``.meta/<key>/<etag>.json``, which
is written before the file appears. A file that a user copies into the directory is an object without metadata.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import assert_never

from scoreline.storage.errors import InvalidKey, ObjectNotFound, PreconditionFailed, StoreUnavailable
from scoreline.storage.objects import requests
from scoreline.storage.objects.base import OVERWRITE, IfMatch, ObjectInfo, PutMode, StoredObject, Upload

_META = ".meta"
_TMP = ".tmp"
_NO_METADATA: Mapping[str, str] = {}
_BUFFERS_AT_ONCE = 512
"""Maximum number of buffers to fill with a single call of the system. Linux allows 1,024."""
_MAX_KEY_BYTES = 1024  # the limit of R2, so that every key that is valid here is also valid in R2


class DirectoryStore:
    """A bucket that is a directory.

    Parameters
    ----------
    root : Path
        Directory that contains one subdirectory per bucket. The directory is created on the first write.
    bucket : str
        Name of the bucket.
    """

    rewrite_after_s = 0.0

    def __init__(self, root: Path, bucket: str) -> None:
        self.bucket = bucket
        self._root = (root / bucket).resolve()
        self._prefix = os.path.join(self._root, "")  # a Path cannot end in a separator

    def get(
        self,
        key: str,
        *,
        byte_range: tuple[int, int] | None = None,
        if_match: str | None = None,
        into: Sequence[memoryview] | None = None,
    ) -> StoredObject:
        """Read an object or a range of it (see `ObjectStore.get`)."""
        requests.note("b")
        try:
            with open(self._place(key), "rb") as file:  # creating a Path takes longer than reading a small object
                info = self._info(key, os.fstat(file.fileno()))
                if if_match is not None and info.etag != if_match:
                    raise PreconditionFailed(f"{self.uri(key)} was changed since it was read")
                start, stop = byte_range or (0, info.size)
                if into is not None:
                    wanted = max(0, min(stop, info.size) - start)
                    if not _fill(file.fileno(), start, wanted, into):
                        raise PreconditionFailed(f"{self.uri(key)} was changed while it was read")
                    return StoredObject(info=info, data=b"")
                file.seek(start)
                return StoredObject(info=info, data=file.read(max(0, stop - start)))
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            raise ObjectNotFound(f"no object {self.uri(key)}") from None
        except OSError as error:
            raise StoreUnavailable(f"cannot read {self.uri(key)}: {error.strerror}") from error

    def head(self, key: str) -> ObjectInfo:
        """Return the properties of an object (see `ObjectStore.head`)."""
        requests.note("b")
        path = self._path(key)
        try:
            stat = path.stat()
        except (FileNotFoundError, NotADirectoryError):
            raise ObjectNotFound(f"no object {self.uri(key)}") from None
        if path.is_dir():
            raise ObjectNotFound(f"no object {self.uri(key)}")
        return self._info(key, stat)

    def put(
        self,
        key: str,
        data: bytes,
        *,
        mode: PutMode = OVERWRITE,
        metadata: Mapping[str, str] | None = None,
    ) -> ObjectInfo:
        """Write an object by renaming a finished file into place (see `ObjectStore.put`)."""
        upload = self.open_upload(key, mode=mode, metadata=metadata)
        try:
            upload.send(data)
            return upload.complete()
        finally:
            upload.abort()

    def open_upload(self, key: str, *, mode: PutMode = OVERWRITE, metadata: Mapping[str, str] | None = None) -> Upload:
        """Begin to write a temporary file (see `ObjectStore.open_upload`)."""
        return _FileUpload(self, key, self._path(key), mode, metadata)

    @contextlib.contextmanager
    def _writing(self, key: str) -> Iterator[None]:
        """Convert errors of the file system that occur while an object is written."""
        try:
            yield
        except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
            raise InvalidKey(
                f"cannot write {self.uri(key)}: a directory store cannot hold both an object and objects below its "
                "key: choose another key"
            ) from error
        except OSError as error:
            raise StoreUnavailable(f"cannot write {self.uri(key)}: {error.strerror}") from error

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Yield objects sorted by key (see `ObjectStore.list`)."""
        if any(step in (".", "..") for step in prefix.split("/")):
            raise InvalidKey(f"a directory store cannot list {prefix!r}: no part between slashes may be '.' or '..'")
        below = "/".join(filter(None, prefix.split("/")[:-1]))
        infos = [info for info in self._walk(below) if info.key.startswith(prefix)]
        infos.sort(key=lambda info: info.key.encode())
        for _ in range(max(1, -(-len(infos) // requests.PAGE_KEYS))):
            requests.note("a")
        yield from infos

    def folders(self, prefix: str) -> Sequence[str]:
        """Return the names of the folders below `prefix` (see `ObjectStore.folders`)."""
        requests.note("a")
        try:
            with os.scandir(self._place(prefix.removesuffix("/"))) as found:
                return sorted(entry.name for entry in found if entry.is_dir(follow_symlinks=False))
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise StoreUnavailable(f"cannot list {self.uri(prefix)}: {error.strerror}") from error

    def _walk(self, folder: str) -> Iterator[ObjectInfo]:
        """Yield the objects in a folder and below it. Links to folders are not followed."""
        folders = []
        try:
            with os.scandir(os.path.join(self._root, folder)) as found:
                for entry in found:
                    key = f"{folder}/{entry.name}" if folder else entry.name
                    if entry.is_dir():
                        if not entry.is_symlink() and (folder or entry.name not in (_META, _TMP)):
                            folders.append(key)
                    elif folder or entry.name != ".lock":
                        with contextlib.suppress(FileNotFoundError):
                            stat = entry.stat()
                            size, etag, modified = stat.st_size, _etag(stat), stat.st_mtime
                            yield ObjectInfo(key=key, size=size, etag=etag, metadata=_NO_METADATA, modified=modified)
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as error:
            place = self.uri(f"{folder}/" if folder else "")
            raise StoreUnavailable(f"cannot list {place}: {error.strerror}") from error
        for key in folders:
            yield from self._walk(key)

    def delete(self, key: str) -> None:
        """Delete an object and its metadata (see `ObjectStore.delete`)."""
        path = self._path(key)
        if not self._root.exists():
            return
        with self._locked():
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                path.unlink()
            shutil.rmtree(self._root / _META / key, ignore_errors=True)

    def delete_many(self, keys: Sequence[str]) -> None:
        """Delete objects one after another (see `ObjectStore.delete_many`)."""
        for key in keys:
            self.delete(key)

    def uri(self, key: str) -> str:
        """Return the ``s3://bucket/key`` URI of a key, as in the input of a job."""
        return f"s3://{self.bucket}/{key}"

    def path_of(self, key: str) -> str:
        """Return the path of an object (see `KeepsFiles.path_of`)."""
        return self._place(key)

    def etag_of(self, stat: os.stat_result) -> str:
        """Return the ETag of an open file (see `KeepsFiles.etag_of`)."""
        return _etag(stat)

    def __repr__(self) -> str:
        return f"DirectoryStore({str(self._root)!r})"

    def _path(self, key: str) -> Path:
        return Path(self._place(key))

    def _place(self, key: str) -> str:
        steps = key.split("/")
        if (
            not key
            or len(key.encode()) > _MAX_KEY_BYTES
            or "\0" in key
            or any(step in ("", ".", "..") for step in steps)
            or steps[0] in (_META, _TMP, ".lock")
        ):
            raise InvalidKey(
                f"a directory store cannot hold the key {key!r}: a key has 1 to {_MAX_KEY_BYTES} bytes, and no "
                "part between slashes may be empty, '.' or '..'"
            )
        place = f"{self._prefix}{key}"
        ends = [len(self._prefix) + at for at, char in enumerate(key) if char == "/"]
        if any(os.path.islink(place[:end]) for end in (*ends, None)) and not os.path.realpath(place).startswith(
            self._prefix
        ):
            raise InvalidKey(f"{self.uri(key)} passes through a symbolic link that leads out of the directory store")
        return place

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        with (self._root / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _check(self, key: str, path: Path, mode: PutMode) -> None:
        match mode:
            case "overwrite":
                return
            case "create":
                if path.exists():
                    raise PreconditionFailed(f"{self.uri(key)} already exists")
            case IfMatch(etag):
                if not path.is_file() or _etag(path.stat()) != etag:
                    raise PreconditionFailed(f"{self.uri(key)} was changed or deleted since it was read")
            case _:
                assert_never(mode)

    def _write_metadata(self, key: str, etag: str, metadata: Mapping[str, str] | None) -> None:
        folder = self._root / _META / key
        shutil.rmtree(folder, ignore_errors=True)
        if metadata:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{etag}.json").write_text(json.dumps(dict(metadata)))

    def _info(self, key: str, stat: os.stat_result) -> ObjectInfo:
        etag = _etag(stat)
        try:
            with open(f"{self._prefix}{_META}/{key}/{etag}.json") as file:
                metadata = json.load(file)
        except (FileNotFoundError, NotADirectoryError):
            metadata = {}
        return ObjectInfo(key=key, size=stat.st_size, etag=etag, metadata=metadata)


class _FileUpload:
    """A temporary file that becomes an object when it is completed."""

    def __init__(
        self, store: DirectoryStore, key: str, path: Path, mode: PutMode, metadata: Mapping[str, str] | None
    ) -> None:
        self._store, self._key, self._path, self._mode, self._metadata = store, key, path, mode, metadata
        with store._writing(key):
            (store._root / _TMP).mkdir(parents=True, exist_ok=True)
            descriptor, name = tempfile.mkstemp(dir=store._root / _TMP)
            self._temporary = Path(name)
            self._file = os.fdopen(descriptor, "wb", buffering=0)

    def send(self, part: bytes | bytearray) -> None:
        """Append bytes to the file (see `Upload.send`)."""
        with self._store._writing(self._key), memoryview(part) as view:
            written = 0
            while written < len(view):
                written += self._file.write(view[written:]) or 0

    def complete(self) -> ObjectInfo:
        """Rename the file into place (see `Upload.complete`)."""
        requests.note("a")
        store, key = self._store, self._key
        with store._writing(key):
            self._file.close()
            stat = self._temporary.stat()
            etag = _etag(stat)
            with store._locked():
                store._check(key, self._path, self._mode)
                store._write_metadata(key, etag, self._metadata)
                self._path.parent.mkdir(parents=True, exist_ok=True)
                self._temporary.replace(self._path)
        return ObjectInfo(key=key, size=stat.st_size, etag=etag, metadata=dict(self._metadata or {}))

    def abort(self) -> None:
        """Delete the file, unless it was renamed (see `Upload.abort`)."""
        self._file.close()
        with contextlib.suppress(OSError):
            self._temporary.unlink(missing_ok=True)


def _fill(file: int, start: int, size: int, buffers: Sequence[memoryview]) -> bool:
    """Read bytes of a file into buffers, one after another. Return False if the file ends before all were read."""
    left: list[memoryview] = []
    for buffer in buffers:
        left.append(buffer[:size])
        size -= len(left[-1])
    left = [buffer for buffer in left if len(buffer)]
    while left:
        count = os.preadv(file, left[:_BUFFERS_AT_ONCE], start)
        if not count:
            return False
        start += count
        while left and count >= len(left[0]):
            count -= len(left.pop(0))
        if count:
            left[0] = left[0][count:]
    return True


def _etag(stat: os.stat_result) -> str:
    return f"{stat.st_ino:x}-{stat.st_mtime_ns:x}-{stat.st_size:x}"
