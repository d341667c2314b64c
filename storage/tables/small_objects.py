"""Read a small object with a single request, even if the reader seeks in it many times."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from scoreline.storage.errors import ObjectNotFound, PreconditionFailed
from scoreline.storage.objects.caching import CachingStore
from scoreline.storage.tables.base import Pinned
from scoreline.storage.tables.ranged import changed

SMALL_BYTES = 1 << 20
"""Maximum size in bytes of an object that is read whole. Up to this size, a second request takes more time than
fetching bytes that the reader may not need."""
OBJECTS_AT_ONCE = 32
"""Number of small objects that a process fetches at a time, which is the size of a store's connection pool. A store
answers after 30 ms, but a process takes only a millisecond for each object, and would wait if it fetched fewer
objects."""
_KEPT_BYTES = 4 << 20


def hold(source: Pinned) -> Pinned:
    """Read an object, and return it with a store that serves all further reads from memory.

    Raises
    ------
    InputChanged
        The object was replaced or deleted.
    """
    store = CachingStore(source.store, (source.key,))
    try:
        store.get(source.key, if_match=source.etag)
    except (PreconditionFailed, ObjectNotFound) as error:
        raise changed(source.uri) from error
    return replace(source, store=store)


def held_bytes(source: Pinned) -> bytes | None:
    """Return the bytes of an object if `hold` has read it into memory; otherwise None."""
    stored = source.store.cached(source.key) if isinstance(source.store, CachingStore) else None
    return None if stored is None or stored.info.etag != source.etag else stored.data


@dataclass
class KeptObjects:
    """Small objects that a planner keeps in memory, up to a total of `_KEPT_BYTES`.

    After the survey, a planner may read an object again to score a sample of its rows.
    """

    _objects: dict[tuple[str, str], Pinned] = field(default_factory=dict, repr=False)
    _bytes: int = 0

    def reserve(self, source: Pinned) -> bool:
        """Reserve memory for an object. Return whether there was enough memory."""
        fits = 0 < source.size <= min(SMALL_BYTES, _KEPT_BYTES - self._bytes)
        self._bytes += source.size if fits else 0
        return fits

    def add(self, held: Pinned) -> None:
        """Keep an object that `hold` has read. Call `reserve` first."""
        self._objects[held.uri, held.etag] = held

    def find(self, source: Pinned) -> Pinned:
        """Return the object in memory if it is kept; otherwise `source`."""
        return self._objects.get((source.uri, source.etag), source)

    def clear(self) -> None:
        """Forget all objects."""
        self._objects.clear()
        self._bytes = 0
