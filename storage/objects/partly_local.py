"""A store of which some objects are in a local folder, for trials that write nothing to the bucket."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from scoreline.storage.objects.base import OVERWRITE, ObjectInfo, ObjectStore, PutMode, StoredObject, Upload


class PartlyLocal:
    """Wraps a store. Objects whose keys begin with a prefix are in another store; only these can be written.

    Parameters
    ----------
    store : ObjectStore
        The store of all other objects, which is only read.
    local : ObjectStore
        The store of the objects with the prefix.
    """

    def __init__(self, store: ObjectStore, local: ObjectStore, prefix: str) -> None:
        self.bucket = store.bucket
        self.rewrite_after_s = store.rewrite_after_s
        self._store, self._local, self._prefix = store, local, prefix

    def get(
        self,
        key: str,
        *,
        byte_range: tuple[int, int] | None = None,
        if_match: str | None = None,
        into: memoryview | None = None,
    ) -> StoredObject:
        """Read an object or a range of it (see `ObjectStore.get`)."""
        return self._of(key).get(key, byte_range=byte_range, if_match=if_match, into=into)

    def head(self, key: str) -> ObjectInfo:
        """Return the properties of an object (see `ObjectStore.head`)."""
        return self._of(key).head(key)

    def put(
        self,
        key: str,
        data: bytes,
        *,
        mode: PutMode = OVERWRITE,
        metadata: Mapping[str, str] | None = None,
    ) -> ObjectInfo:
        """Write an object with the prefix (see `ObjectStore.put`)."""
        return self._written(key).put(key, data, mode=mode, metadata=metadata)

    def open_upload(self, key: str, *, mode: PutMode = OVERWRITE, metadata: Mapping[str, str] | None = None) -> Upload:
        """Begin to write an object with the prefix (see `ObjectStore.open_upload`)."""
        return self._written(key).open_upload(key, mode=mode, metadata=metadata)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Yield objects of one of the two stores (see `ObjectStore.list`)."""
        return self._of(prefix).list(prefix)

    def folders(self, prefix: str) -> Sequence[str]:
        """Return the folders of one of the two stores (see `ObjectStore.folders`)."""
        return self._of(prefix).folders(prefix)

    def delete(self, key: str) -> None:
        """Delete an object with the prefix (see `ObjectStore.delete`)."""
        self._written(key).delete(key)

    def delete_many(self, keys: Sequence[str]) -> None:
        """Delete objects with the prefix (see `ObjectStore.delete_many`)."""
        for key in keys:
            self.delete(key)

    def uri(self, key: str) -> str:
        """Return the URI of a key (see `ObjectStore.uri`)."""
        return self._store.uri(key)

    def _of(self, key: str) -> ObjectStore:
        return self._local if key.startswith(self._prefix) else self._store

    def _written(self, key: str) -> ObjectStore:
        if not key.startswith(self._prefix):
            raise AssertionError(f"a trial must not write {key}")
        return self._local
