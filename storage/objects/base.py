"""The interface of object stores. ``tests/integration/storage/objects/test_object_stores.py`` tests every store."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, Protocol, runtime_checkable

from scoreline.storage.errors import ObjectNotFound, PreconditionFailed


@dataclass(frozen=True, kw_only=True, slots=True)
class ObjectInfo:
    """The properties of an object, without its bytes."""

    key: str
    size: int
    """Size in bytes."""
    etag: str
    """Opaque identifier, without quotation marks. The identifier changes whenever the content changes."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    """User metadata. Always empty in listings."""
    modified: float = 0.0
    """Time of the last write in seconds since 1970. Only listings contain this time."""


@dataclass(frozen=True, kw_only=True)
class StoredObject:
    """The bytes of an object, or of a range of the object, and the properties of the whole object."""

    info: ObjectInfo
    data: bytes


@dataclass(frozen=True)
class IfMatch:
    """Write only if the object still exists and has this ETag. This is a compare-and-swap."""

    etag: str


type PutMode = Literal["overwrite", "create"] | IfMatch
"""Condition for a write: always write, only if the key is free, or only if the object has not changed."""
OVERWRITE: Final = "overwrite"
CREATE: Final = "create"


def if_unchanged(etag: str | None) -> PutMode:
    """Return the mode that writes only if the object has not changed since it was read.

    Parameters
    ----------
    etag : str or None
        ETag that the object had when it was read, or None if there was no object.

    >>> if_unchanged("1f-2"), if_unchanged(None)
    (IfMatch(etag='1f-2'), 'create')
    """
    return CREATE if etag is None else IfMatch(etag)


class Upload(Protocol):
    """An object that is being written in parts."""

    def send(self, part: bytes | bytearray) -> None:
        """Send the next part, perhaps in the background. Do not change the part afterwards.

        All parts except the last must have the same size, which is at least 5 MiB. An error may be raised for an
        earlier part.
        """
        ...

    def complete(self) -> ObjectInfo:
        """Make the object appear as a whole, and return its properties. Errors are those of `ObjectStore.put`."""
        ...

    def abort(self) -> None:
        """Discard what was sent. If the upload is completed, do nothing."""
        ...


class ObjectStore(Protocol):
    """One bucket.

    Every method raises `StoreUnavailable` (transient) if a request still fails after all retries. Every method also
    raises `AccessDenied` if the store refuses the credentials, and `BucketNotFound` if the bucket does not exist.
    """

    bucket: str
    rewrite_after_s: float
    """Seconds after which an object may be written again; a write that comes earlier takes at least as long."""

    def get(
        self,
        key: str,
        *,
        byte_range: tuple[int, int] | None = None,
        if_match: str | None = None,
        into: Sequence[memoryview] | None = None,
    ) -> StoredObject:
        """Read an object. With a `byte_range` of ``(start, stop)``, read only the bytes ``start <= i < stop``.

        Parameters
        ----------
        into : sequence of memoryview, optional
            Buffers to read the bytes into, one after another. Together they are at least as long as the range. If
            buffers are given, `StoredObject.data` stays empty.

        Raises
        ------
        ObjectNotFound
            No object has that key.
        PreconditionFailed
            The object's ETag is not `if_match`.
        """
        ...

    def head(self, key: str) -> ObjectInfo:
        """Return the properties of an object, or raise `ObjectNotFound`."""
        ...

    def put(
        self,
        key: str,
        data: bytes,
        *,
        mode: PutMode = OVERWRITE,
        metadata: Mapping[str, str] | None = None,
    ) -> ObjectInfo:
        """Write an object, either completely or not at all.

        Raises
        ------
        PreconditionFailed
            The mode is `CREATE` and the key is already in use, or the mode is `IfMatch` and the object was deleted or
            has a different ETag. If the response to a successful write is lost, the store repeats the write, and this
            error may follow. The caller must therefore compare its data with the stored object.
        """
        ...

    def open_upload(self, key: str, *, mode: PutMode = OVERWRITE, metadata: Mapping[str, str] | None = None) -> Upload:
        """Begin to write an object in parts. The object appears when the upload is completed.

        `mode` must not be an `IfMatch`. Errors are those of `put`.
        """
        ...

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Yield the objects whose keys begin with `prefix`, in the order of the store.

        R2, S3 and directory stores list objects in order of their keys. Some other servers sort by folder, and list
        ``a/z`` before ``a-b``. A caller that needs the objects in order of their keys must therefore sort them.
        """
        ...

    def folders(self, prefix: str) -> Sequence[str]:
        """Return the names of the folders directly below `prefix`, sorted. `prefix` ends with ``/``.

        This takes one request for every 1,000 folders, however many objects the folders contain. A directory store may
        return folders that are empty.
        """
        ...

    def delete(self, key: str) -> None:
        """Delete an object. If the object does not exist, do nothing."""
        ...

    def delete_many(self, keys: Sequence[str]) -> None:
        """Delete objects, many with each request if the store can. Keys without an object are ignored.

        The objects disappear in any order. If an error is raised, some of the objects may be deleted; the call may be
        repeated.
        """
        ...

    def uri(self, key: str) -> str:
        """Return the ``s3://bucket/key`` URI of a key."""
        ...


@runtime_checkable
class PresignsReads(Protocol):
    """A store that other programs may read, without credentials, at an address which this process signs."""

    uses_https: bool
    """Whether the address begins with ``https://``."""

    def presign_read(self, key: str, *, seconds: int, disposition: str) -> str:
        """Return an address from which an object can be read for some seconds. No request is sent.

        Parameters
        ----------
        disposition : str
            The header ``Content-Disposition`` of the answer. Its type is always ``application/octet-stream``, so that
            no browser shows the object as a page.
        """
        ...


@runtime_checkable
class KeepsFiles(Protocol):
    """A store whose objects are files of this machine, which can be read without requests."""

    def path_of(self, key: str) -> str:
        """Return the path of the file that has the bytes of an object, whether or not the object exists."""
        ...

    def etag_of(self, stat: os.stat_result) -> str:
        """Return the ETag of the object in an open file. If the file is written to, the ETag changes."""
        ...


def exists(store: ObjectStore, key: str) -> bool:
    """Return whether an object has the given key."""
    try:
        store.head(key)
    except ObjectNotFound:
        return False
    return True


def create_once(store: ObjectStore, key: str, data: bytes) -> None:
    """Write an object that never changes. Writing the same bytes again has no effect.

    Raises
    ------
    PreconditionFailed
        There is already an object with this key and different bytes.
    """
    try:
        store.put(key, data, mode=CREATE)
    except PreconditionFailed:
        if store.get(key).data != data:
            raise
