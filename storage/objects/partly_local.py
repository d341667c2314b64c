"""A store of which some objects are in a local folder, for trials that write nothing to the bucket."""

from __future__ import annotations

from collections.abc import Sequence

from scoreline.storage.objects.base import ObjectStore
from scoreline.storage.objects.forwarding import ForwardingStore


class PartlyLocal(ForwardingStore):
    """Wraps a store. Objects whose keys begin with a prefix are in another store; only these can be written.

    Parameters
    ----------
    store : ObjectStore
        The store of all other objects, which is only read.
    local : ObjectStore
        The store of the objects with the prefix.
    """

    def __init__(self, store: ObjectStore, local: ObjectStore, prefix: str) -> None:
        super().__init__(store)
        self._local, self._prefix = local, prefix

    def delete_many(self, keys: Sequence[str]) -> None:
        """Delete objects with the prefix (see `ObjectStore.delete_many`)."""
        for key in keys:
            self.delete(key)

    def _read(self, key: str) -> ObjectStore:
        return self._local if key.startswith(self._prefix) else self._store

    def _written(self, key: str) -> ObjectStore:
        if not key.startswith(self._prefix):
            raise AssertionError(f"a trial must not write {key}")
        return self._local
