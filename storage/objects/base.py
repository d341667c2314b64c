"""The contract that ``tests/integration/storage/objects/test_object_stores.py`` tests every object store against."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from scoreline.storage.errors import ObjectNotFound, PreconditionFailed


@dataclass(frozen=True, kw_only=True)
class ObjectInfo:
    """What a store knows of an object without its bytes."""

    key: str
    size: int
    """Bytes."""
    etag: str
    """Changes whenever the content does; opaque, without quotes."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    """User metadata; empty in listings, which do not carry it."""


@dataclass(frozen=True, kw_only=True)
class StoredObject:
    """Bytes of an object, or of a range of it, with what the store knows of the whole."""

    info: ObjectInfo
    data: bytes


class ObjectStore(Protocol):
    """One bucket.

    Every method raises `StoreUnavailable` (transient) when the store cannot be reached within its own
    retries, and `AccessDenied` when it refuses the credentials.
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
        """Return what the store knows of an object; raises `ObjectNotFound`."""
        ...

    def put(
        self,
        key: str,
        data: bytes,
        *,
        metadata: Mapping[str, str] | None = None,
        create_only: bool = False,
        if_match: str | None = None,
    ) -> ObjectInfo:
        """Write an object, whole or not at all.

        Raises
        ------
        PreconditionFailed
            With `create_only`: the key is taken. With `if_match`: the object is gone or has another ETag.
            A store that retries by itself may answer so to its own earlier success: compare what is stored.
        """
        ...

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Yield the objects whose key begins with `prefix`, in the order of their keys."""
        ...

    def delete(self, key: str) -> None:
        """Remove an object; no error where there is none."""
        ...

    def uri(self, key: str) -> str:
        """Return how a person writes the key, bucket included."""
        ...


def exists(store: ObjectStore, key: str) -> bool:
    """Whether an object has that key."""
    try:
        store.head(key)
    except ObjectNotFound:
        return False
    return True


def create_once(store: ObjectStore, key: str, data: bytes) -> None:
    """Write an object that nobody may change; the same bytes written twice are one object.

    Raises
    ------
    PreconditionFailed
        The key holds other bytes.
    """
    try:
        store.put(key, data, create_only=True)
    except PreconditionFailed:
        if store.get(key).data != data:
            raise
