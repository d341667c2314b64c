"""A store whose reads may have to wait, for work that passes the processor on to others from time to time."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from scoreline.storage.objects.base import ObjectStore, StoredObject
from scoreline.storage.objects.forwarding import ForwardingStore


class GatedStore(ForwardingStore):
    """Wraps a store, and calls a function before each read.

    Parameters
    ----------
    store : ObjectStore
        The store that contains the objects.
    gate : callable
        Returns as soon as the caller may read.
    """

    def __init__(self, store: ObjectStore, gate: Callable[[], None]) -> None:
        super().__init__(store)
        self._gate = gate

    def get(
        self,
        key: str,
        *,
        byte_range: tuple[int, int] | None = None,
        if_match: str | None = None,
        into: Sequence[memoryview] | None = None,
    ) -> StoredObject:
        """Wait, then read an object or a range of it (see `ObjectStore.get`)."""
        self._gate()
        return super().get(key, byte_range=byte_range, if_match=if_match, into=into)
