"""A store that passes every call on to another one. Stores that change some of the calls derive from it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from scoreline.storage.objects.base import OVERWRITE, ObjectInfo, ObjectStore, PutMode, StoredObject, Upload


class ForwardingStore:
    """Wraps a store. Every method does what that of `ObjectStore` does.

    Parameters
    ----------
    store : ObjectStore
        The store that contains the objects.
    """

    def __init__(self, store: ObjectStore) -> None:
        self.bucket = store.bucket
        self.rewrite_after_s = store.rewrite_after_s
        self._store = store

    def get(
        self,
        key: str,
        *,
        byte_range: tuple[int, int] | None = None,
        if_match: str | None = None,
        into: Sequence[memoryview] | None = None,
    ) -> StoredObject:
        """Read an object or a range of it (see `ObjectStore.get`)."""
        return self._read(key).get(key, byte_range=byte_range, if_match=if_match, into=into)

    def head(self, key: str) -> ObjectInfo:
        """Return the properties of an object (see `ObjectStore.head`)."""
        return self._read(key).head(key)

    def put(
        self,
        key: str,
        data: bytes,
        *,
        mode: PutMode = OVERWRITE,
        metadata: Mapping[str, str] | None = None,
    ) -> ObjectInfo:
        """Write an object (see `ObjectStore.put`)."""
        return self._written(key).put(key, data, mode=mode, metadata=metadata)

    def open_upload(self, key: str, *, mode: PutMode = OVERWRITE, metadata: Mapping[str, str] | None = None) -> Upload:
        """Begin to write an object in parts (see `ObjectStore.open_upload`)."""
        return self._written(key).open_upload(key, mode=mode, metadata=metadata)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Yield the objects below a prefix (see `ObjectStore.list`)."""
        return self._read(prefix).list(prefix)

    def folders(self, prefix: str) -> Sequence[str]:
        """Return the folders below a prefix (see `ObjectStore.folders`)."""
        return self._read(prefix).folders(prefix)

    def delete(self, key: str) -> None:
        """Delete an object (see `ObjectStore.delete`)."""
        self._written(key).delete(key)

    def delete_many(self, keys: Sequence[str]) -> None:
        """Delete objects (see `ObjectStore.delete_many`)."""
        self._store.delete_many(keys)

    def uri(self, key: str) -> str:
        """Return the URI of a key (see `ObjectStore.uri`)."""
        return self._store.uri(key)

    @property
    def behind(self) -> ObjectStore:
        """The wrapped store."""
        return self._store

    def _read(self, key: str) -> ObjectStore:
        """Return the store that has the objects with a key or prefix."""
        return self._store

    def _written(self, key: str) -> ObjectStore:
        """Return the store to which an object is written."""
        return self._read(key)
