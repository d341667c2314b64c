"""Read a small object with a single request, even if the reader seeks in it many times."""

from __future__ import annotations

import contextlib
import enum
import threading
from collections.abc import Collection, Iterable
from dataclasses import replace
from queue import Empty, SimpleQueue

from scoreline.storage.errors import ObjectNotFound, PreconditionFailed
from scoreline.storage.objects.base import ObjectInfo, StoredObject
from scoreline.storage.objects.caching import CachingStore
from scoreline.storage.tables.base import SMALL_BYTES, Listed, Pinned, Survey
from scoreline.storage.tables.ranged import RangedFile, changed
from scoreline.storage.tables.spool import RECORD_BYTES, Spool, Spooled
from scoreline.storage.tables.spooled_blocks import SpooledBlocks
from scoreline.storage.tables.survey_orders import SurveyOrders

OBJECTS_AT_ONCE = 64
"""Number of small objects that a process fetches at a time, which is the size of a store's connection pool. A store
answers after 30 ms, but a process takes only half a millisecond for each object, and would wait if it fetched fewer
objects."""
_KEPT_BYTES = 4 << 20
"""Maximum size of the objects that a planner keeps in memory to sample their rows."""
_KEPT_FOR_PARTS_BYTES = 64 << 20
_OVERHEAD_BYTES = 2 << 10
"""Maximum size of the objects that a planner keeps for parts of the job, if all objects of the job are small, and the
memory that each object takes besides its bytes."""
KEPT_S = 20.0
"""Seconds for which unused objects are kept for parts, as readers are. A process that has more parts of the job to
score begins the next part within a second."""


def hold(source: Pinned, data: bytes | None = None) -> Pinned:
    """Read an object, and return it with a store that serves all further reads from memory.

    Parameters
    ----------
    data : bytes, optional
        The bytes of the object, if they are known. By default, they are fetched.

    Raises
    ------
    InputChanged
        The object was replaced or deleted.
    """
    store = CachingStore(source.store, (source.key,))
    if data is not None:
        store.remember(StoredObject(info=ObjectInfo(key=source.key, size=len(data), etag=source.etag), data=data))
        return replace(source, store=store)
    try:
        store.get(source.key, if_match=source.etag)
    except (PreconditionFailed, ObjectNotFound) as error:
        raise changed(source.uri) from error
    return replace(source, store=store)


def held_bytes(source: Pinned) -> bytes | None:
    """Return the bytes of an object if `hold` has read it into memory; otherwise None."""
    stored = source.store.cached(source.key) if isinstance(source.store, CachingStore) else None
    return None if stored is None or stored.info.etag != source.etag else stored.data


class Kept(enum.Flag):
    """Where `KeptObjects` keeps an object."""

    NOWHERE = 0
    IN_MEMORY = enum.auto()
    IN_SPOOL = enum.auto()


class KeptObjects:
    """Small objects that a process has read to plan a job, so that no process of its worker need fetch them again.

    After the survey, a planner may read an object again to score a sample of its rows. Parts that processes of the
    worker score next read it, too, from the spool of the worker. Without a spool, the planner keeps objects in its
    memory for its own parts. An object is handed on only to a part that reads all of its rows. Of an object in several
    parts, all parts therefore find the same version in the store, or fail.

    This class needs no locks (see `scoreline.storage.prefetch.prefetched`), because single operations of a dict are
    atomic.

    Parameters
    ----------
    for_parts : bool
        Whether parts of the job may follow in this process. If not, only objects for the sample are kept.
    kept_s : float
        Seconds for which unused objects are kept in memory for parts.
    spool : Spool, optional
        The spool of the worker.
    orders : SurveyOrders, optional
        The orders with which a planner asks other processes of the worker for help.
    """

    def __init__(
        self,
        *,
        for_parts: bool = False,
        kept_s: float = KEPT_S,
        spool: Spool | None = None,
        orders: SurveyOrders | None = None,
    ) -> None:
        self.orders = orders
        self._for_parts = for_parts
        self._kept_s = kept_s
        self._spool = spool
        self._is_spooling = False
        self._blocks = None if spool is None else SpooledBlocks(spool)
        self._most_bytes = _KEPT_BYTES
        self._objects: dict[tuple[str, str], tuple[Pinned, int]] = {}
        self._bytes = 0
        self._used: SimpleQueue[bool] | None = None

    def begin(self, objects: Collection[Listed]) -> None:
        """Forget all objects, before the objects of another job are surveyed.

        If all of them are small, more of them are kept, because no large object will need the memory. A single object
        makes up a single part, or is not handed on, and so it does not replace the objects in the spool.
        """
        self.clear()
        all_small = self._for_parts and all(source.size <= SMALL_BYTES for source in objects)
        self._is_spooling = all_small and self._spool is not None and len(objects) > 1
        self._most_bytes = _KEPT_FOR_PARTS_BYTES if all_small and not self._is_spooling else _KEPT_BYTES
        if self._is_spooling and self._spool is not None:
            self._spool.begin(sum(source.size + RECORD_BYTES for source in objects))

    def reserve(self, source: Listed) -> Kept:
        """Reserve memory and space in the spool for an object. Return where there was enough; `Kept.NOWHERE` if not."""
        kept = Kept.NOWHERE
        if self._is_spooling and self._spool is not None and 0 < source.size <= SMALL_BYTES:
            kept |= Kept.IN_SPOOL if self._spool.reserve(source.size) else Kept.NOWHERE
        is_early = self._bytes + source.size <= _KEPT_BYTES
        largest = SMALL_BYTES if is_early else RangedFile.WHOLE_BYTES  # of larger ones, planning reads only the footer
        taken = self._bytes + source.size + _OVERHEAD_BYTES
        if 0 < source.size <= largest and (is_early or taken <= self._most_bytes):
            self._bytes = taken
            kept |= Kept.IN_MEMORY
        return kept

    def add(self, held: Pinned, survey: Survey, kept: Kept) -> None:
        """Keep an object that `hold` has read, where `reserve` found enough."""
        if Kept.IN_MEMORY in kept:
            self._objects[held.uri, held.etag] = held, sum(span.rows for span in survey.spans)
        if Kept.IN_SPOOL in kept and self._blocks is not None and (data := held_bytes(held)) is not None:
            self._blocks.add(held, data, survey)

    def find(self, source: Pinned) -> Pinned:
        """Return the object in memory if it is kept; otherwise `source`."""
        found, _ = self._objects.get((source.uri, source.etag), (source, 0))
        return found

    def hand_on(self) -> None:
        """Keep the objects for parts of the job, until they are unused for some time."""
        if self._is_spooling and self._spool is not None and self._blocks is not None:
            self._blocks.flush()
            self._spool.publish()
            self._is_spooling = False  # the spool now deletes the objects itself
            self._forget()
            return
        if not self._for_parts or not self._objects:
            self.clear()
            return
        used = self._used = SimpleQueue()
        threading.Thread(target=self._expire, args=(used,), name="kept-objects", daemon=True).start()

    def take(self, objects: Iterable[tuple[Pinned, int]]) -> list[tuple[Pinned, Spooled | None]]:
        """Return the objects for a part, from memory if they are kept there, and then no longer keep them.

        If none of the objects is kept in memory, all that are kept there are forgotten, because the part is of another
        job or has objects that were not kept.

        Parameters
        ----------
        objects : iterable of tuple of Pinned and int
            The objects, and how many rows of each the part reads.

        Returns
        -------
        list of tuple of Pinned and Spooled
            The objects, each with its place in the spool, if it is there.
        """
        wanted = list(objects)
        taken: list[tuple[Pinned, Spooled | None]] = []
        found = False
        spooled = self._spool.find(wanted) if self._spool is not None else [None] * len(wanted)
        for (source, rows), item in zip(wanted, spooled, strict=True):
            name = source.uri, source.etag
            held, whole = self._objects.get(name, (source, -1))
            if whole == rows:
                self._objects.pop(name, None)
                found = True
                source = held
            taken.append((source, item))
        used = self._used
        if not found:
            self._forget()
        elif used is not None:
            used.put(True)
        return taken

    def clear(self) -> None:
        """Forget all objects that this process has kept."""
        self._forget()
        if self._is_spooling and self._spool is not None:
            self._spool.clear()
        self._is_spooling = False

    def _forget(self) -> None:
        """Forget the objects in memory."""
        if self._blocks is not None:
            self._blocks.clear()
        self._objects.clear()
        self._bytes = 0
        used, self._used = self._used, None
        if used is not None:
            used.put(False)

    def _expire(self, used: SimpleQueue[bool]) -> None:
        with contextlib.suppress(Empty):
            while used.get(timeout=self._kept_s):
                pass
            return
        if self._used is used:
            self._forget()
