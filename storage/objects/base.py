"""The contract that ``tests/integration/storage/objects/test_object_stores.py`` tests every object store against."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, Protocol

from scoreline.storage.errors import ObjectNotFound, PreconditionFailed


@dataclass(frozen=True, kw_only=True)
class ObjectInfo:
    """What a store knows about an object, without its bytes."""

    key: str
    size: int
    """Size in bytes."""
    etag: str
    """Opaque identifier, without quotes, that changes whenever the content does."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    """User metadata; empty in listings, which do not include it."""


@dataclass(frozen=True, kw_only=True)
class StoredObject:
    """The bytes of an object or of a range of it, and what the store knows about the whole object."""

    info: ObjectInfo
    data: bytes


@dataclass(frozen=True)
class IfMatch:
    """Write only if the object is still there with this ETag: a compare-and-swap."""

    etag: str


type PutMode = Literal["overwrite", "create"] | IfMatch
"""When a write takes effect: always, only if the key is free, or only if the object has not changed."""
OVERWRITE: Final = "overwrite"
CREATE: Final = "create"


def if_unchanged(etag: str | None) -> PutMode:
    """Return the mode that writes only if the object is still as it was read.

    Parameters
    ----------
    etag : str or None
        ETag of the object as it was read; None if there was no object.

    >>> if_unchanged("1f-2"), if_unchanged(None)
    (IfMatch(etag='1f-2'), 'create')
    """
    return CREATE if etag is None else IfMatch(etag)


class ObjectStore(Protocol):
    """One bucket.

    Every method raises `StoreUnavailable` (transient) if the store's own retries are used up, `AccessDenied` if the
    store refuses the credentials, and `BucketNotFound` if the store says that there is no such bucket.
    """

    bucket: str

    def get(self, key: str, *, byte_range: tuple[int, int] | None = None, if_match: str | None = None) -> StoredObject:
        """Read an object, or the bytes ``start <= i < stop`` of it.

        Raises
        ------
        ObjectNotFound
            No object has that key.
        PreconditionFailed
            The object's ETag is not `if_match`.
        """
        ...

    def head(self, key: str) -> ObjectInfo:
        """Return what the store knows about an object; raises `ObjectNotFound`."""
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
            With `CREATE`, the key is taken. With `IfMatch`, the object is gone or has another ETag. A store that
            retries on its own may raise this for its own earlier success: compare with what is stored.
        """
        ...

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Yield the objects whose keys begin with `prefix`, sorted by key."""
        ...

    def delete(self, key: str) -> None:
        """Delete an object; deleting one that does not exist is not an error."""
        ...

    def uri(self, key: str) -> str:
        """Return the URI that users write for a key, including the bucket."""
        ...


def exists(store: ObjectStore, key: str) -> bool:
    """Return whether an object has the given key."""
    try:
        store.head(key)
    except ObjectNotFound:
        return False
    return True


def create_once(store: ObjectStore, key: str, data: bytes) -> None:
    """Write an object that never changes; writing the same bytes again does nothing.

    Raises
    ------
    PreconditionFailed
        The key is taken by an object with other bytes.
    """
    try:
        store.put(key, data, mode=CREATE)
    except PreconditionFailed:
        if store.get(key).data != data:
            raise
