"""A store that need not be asked twice for what cannot change: for a task that writes objects and reads them back."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping

from scoreline.storage.errors import PreconditionFailed
from scoreline.storage.objects.base import CREATE, OVERWRITE, ObjectInfo, ObjectStore, PutMode, StoredObject


class RememberingStore:
    """Keeps some objects in memory once it has written them or read them whole, for as long as it lives.

    Parameters
    ----------
    store : ObjectStore
        Where they are.
    fixed : container of str
        Keys of the objects that never change once they are there. It may grow.
    """

    def __init__(self, store: ObjectStore, fixed: Container[str]) -> None:
        self.bucket = store.bucket
        self._store = store
        self._fixed = fixed
        self._kept: dict[str, StoredObject] = {}

    def get(self, key: str, *, byte_range: tuple[int, int] | None = None, if_match: str | None = None) -> StoredObject:
        """Read an object or a range of it (see `ObjectStore.get`)."""
        kept = self._kept.get(key)
        if kept is None:
            got = self._store.get(key, byte_range=byte_range, if_match=if_match)
            if len(got.data) == got.info.size:
                self._keep(got)
            return got
        if if_match not in (None, kept.info.etag):
            raise PreconditionFailed(f"{self.uri(key)} changed since it was last seen")
        start, stop = byte_range or (0, kept.info.size)
        return StoredObject(info=kept.info, data=kept.data[start:stop])

    def head(self, key: str) -> ObjectInfo:
        """Return what is known of an object (see `ObjectStore.head`)."""
        kept = self._kept.get(key)
        return kept.info if kept else self._store.head(key)

    def put(
        self,
        key: str,
        data: bytes,
        *,
        mode: PutMode = OVERWRITE,
        metadata: Mapping[str, str] | None = None,
    ) -> ObjectInfo:
        """Write an object (see `ObjectStore.put`)."""
        self._kept.pop(key, None)
        info = self._store.put(key, data, mode=mode, metadata=metadata)
        if mode == CREATE:
            self._keep(StoredObject(info=info, data=data))
        return info

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Yield objects, always as the store has them (see `ObjectStore.list`)."""
        return self._store.list(prefix)

    def delete(self, key: str) -> None:
        """Remove an object (see `ObjectStore.delete`)."""
        self._kept.pop(key, None)
        self._store.delete(key)

    def uri(self, key: str) -> str:
        """Return how a person writes the key."""
        return self._store.uri(key)

    def _keep(self, found: StoredObject) -> None:
        if found.info.key in self._fixed:
            self._kept[found.info.key] = found
