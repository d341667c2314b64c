"""A store that caches immutable objects in memory. Tasks that read objects again after writing them use this store."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence

from scoreline.storage.errors import PreconditionFailed
from scoreline.storage.objects.base import CREATE, OVERWRITE, ObjectInfo, ObjectStore, PutMode, StoredObject, Upload
from scoreline.storage.objects.forwarding import ForwardingStore


class CachingStore(ForwardingStore):
    """Wraps a store and caches immutable objects in memory. The cache lasts as long as this instance.

    An object is cached when it is created or read completely through this instance.

    Parameters
    ----------
    store : ObjectStore
        The store that contains the objects.
    immutable : container of str
        Keys of the objects that never change after they are created. Keys may be added to the container later.
    """

    def __init__(self, store: ObjectStore, immutable: Container[str]) -> None:
        super().__init__(store)
        self._immutable = immutable
        self._cached: dict[str, StoredObject] = {}

    def get(
        self,
        key: str,
        *,
        byte_range: tuple[int, int] | None = None,
        if_match: str | None = None,
        into: Sequence[memoryview] | None = None,
    ) -> StoredObject:
        """Read an object or a range of it (see `ObjectStore.get`)."""
        cached = self._cached.get(key)
        if cached is None:
            stored = self._store.get(key, byte_range=byte_range, if_match=if_match, into=into)
            if into is None and len(stored.data) == stored.info.size:
                self._cache(stored)
            return stored
        if if_match not in (None, cached.info.etag):
            raise PreconditionFailed(f"{self.uri(key)} was changed since it was read")
        start, stop = byte_range or (0, cached.info.size)
        data = cached.data[start:stop]
        left = memoryview(data)
        for buffer in into or ():
            buffer[: len(left)] = left[: len(buffer)]
            left = left[len(buffer) :]
        return StoredObject(info=cached.info, data=data if into is None else b"")

    def head(self, key: str) -> ObjectInfo:
        """Return the properties of an object (see `ObjectStore.head`)."""
        cached = self._cached.get(key)
        return cached.info if cached else self._store.head(key)

    def put(
        self,
        key: str,
        data: bytes,
        *,
        mode: PutMode = OVERWRITE,
        metadata: Mapping[str, str] | None = None,
    ) -> ObjectInfo:
        """Write an object (see `ObjectStore.put`)."""
        self._cached.pop(key, None)
        info = self._store.put(key, data, mode=mode, metadata=metadata)
        if mode == CREATE:
            self._cache(StoredObject(info=info, data=data))
        return info

    def open_upload(self, key: str, *, mode: PutMode = OVERWRITE, metadata: Mapping[str, str] | None = None) -> Upload:
        """Begin to write an object in parts, which is not cached (see `ObjectStore.open_upload`)."""
        self._cached.pop(key, None)
        return self._store.open_upload(key, mode=mode, metadata=metadata)

    def delete(self, key: str) -> None:
        """Delete an object (see `ObjectStore.delete`)."""
        self._cached.pop(key, None)
        self._store.delete(key)

    def delete_many(self, keys: Sequence[str]) -> None:
        """Delete objects, also from the cache (see `ObjectStore.delete_many`)."""
        for key in keys:
            self._cached.pop(key, None)
        self._store.delete_many(keys)

    def remember(self, stored: StoredObject) -> None:
        """Cache an object that is known without having been read. Its key must be immutable."""
        self._cache(stored)

    def cached(self, key: str) -> StoredObject | None:
        """Return the cached object with the given key; None if it is not cached."""
        return self._cached.get(key)

    def _cache(self, stored: StoredObject) -> None:
        if stored.info.key in self._immutable:
            self._cached[stored.info.key] = stored
