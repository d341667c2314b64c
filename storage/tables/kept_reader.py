"""Keeps the reader of a shared row group open between two slices."""

from __future__ import annotations

import threading
from queue import Empty, SimpleQueue

from scoreline.storage.tables.forward import ForwardReader

KEPT_S = 20.0
"""Seconds for which an unused reader is kept. A process that has more parts of the same object to score begins the next
part within a second."""


class KeptReader:
    """Keeps the reader of the last slice open, so that the next slice of the same row group can continue there.

    This class needs no locks (see `scoreline.storage.prefetch.prefetched`), because single operations of a dict are
    atomic.
    """

    def __init__(self, kept_s: float = KEPT_S) -> None:
        self._kept_s = kept_s
        self._readers: dict[int, tuple[ForwardReader, SimpleQueue[None]]] = {}

    def take(self, key: object = None, row: int = 0) -> ForwardReader | None:
        """Return the kept reader if it has this key and can continue at this row. Otherwise, close it."""
        try:
            _, (reader, taken) = self._readers.popitem()
        except KeyError:
            return None
        taken.put(None)
        if reader.key == key and reader.can_continue(row):
            return reader
        reader.close()
        return None

    def keep(self, reader: ForwardReader) -> None:
        """Keep a reader, and close it after some time without use."""
        self.take()
        taken: SimpleQueue[None] = SimpleQueue()
        self._readers[id(reader)] = reader, taken
        threading.Thread(target=self._expire, args=(id(reader), taken), name="kept-reader", daemon=True).start()

    def _expire(self, name: int, taken: SimpleQueue[None]) -> None:
        try:
            taken.get(timeout=self._kept_s)
        except Empty:
            reader, _ = self._readers.pop(name, (None, None))
            if reader is not None:
                reader.close()
