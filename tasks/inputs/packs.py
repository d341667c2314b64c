"""Writes packs: objects with copies of many small input objects.

A request costs more than the bytes of a small object. The planner has to read each object anyway, so it packs the
bytes, and a part then gets hundreds of objects with one request. A pack is a cache in the folder of the job. If it is
gone, a part reads the objects themselves. The names of packs do not depend on the attempt, so that the packs of a
planner that died are overwritten. The ETags in the plan belong to its own packs.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Mapping
from queue import SimpleQueue

from scoreline.storage import keys
from scoreline.storage.errors import ScorelineError
from scoreline.storage.objects.base import ObjectStore
from scoreline.storage.prefetch import wait_for
from scoreline.storage.tables.base import Listed, Pinned
from scoreline.storage.tables.small_objects import held_bytes
from scoreline.tasks.job.plan import PackPlace

log = logging.getLogger(__name__)

PACKED_BYTES = 256 << 10
"""Maximum size of an object that is packed. A larger one takes longer to copy than to request again."""
LEAST_OBJECTS = 32
"""Minimum number of small objects for which packs are written. A process requests as many at a time."""
PACK_BYTES = 8 << 20
_MOST_BYTES = 1 << 30
"""Maximum size of all packs of a job. One process writes them, and it must not delay the others by minutes."""
_IN_PROGRESS = 2
"""Number of full packs in memory: one is being written, and one waits."""

type _Places = list[tuple[tuple[str, str], int]]
"""Bucket and key of each object in a pack, with its position in the pack."""


class Packer:
    """Copies small objects into the folder of a job, while the caller surveys further objects.

    If a pack cannot be written, the planner continues without further packs.

    Parameters
    ----------
    store : ObjectStore
        The main bucket.
    job_id : str
        The id of the job that reads the objects.
    """

    def __init__(self, store: ObjectStore, job_id: str) -> None:
        self._store = store
        self._job_id = job_id
        self._found: dict[tuple[str, str], PackPlace] = {}
        self._data: list[bytes] = []
        self._places: _Places = []
        self._size = self._total = self._packs = self._pending = 0
        self._failed = False
        self._full: SimpleQueue[tuple[str, list[bytes], _Places] | None] = SimpleQueue()
        self._written: SimpleQueue[tuple[str, str | None, _Places]] = SimpleQueue()
        self._thread = threading.Thread(target=self._write, name="packs", daemon=True)

    def pays(self, objects: Iterable[Pinned]) -> bool:
        """Return whether packs would save requests to a server."""
        return self._store.remote and sum(map(_is_packed, objects)) >= LEAST_OBJECTS

    def add(self, source: Pinned) -> None:
        """Pack an object if it is small and in memory."""
        data = held_bytes(source)
        if data is None or not _is_packed(source) or self._failed or self._total + len(data) > _MOST_BYTES:
            return
        self._places.append(((source.store.bucket, source.key), self._size))
        self._data.append(data)
        self._size += len(data)
        self._total += len(data)
        if self._size >= PACK_BYTES:
            self._flush()

    def finish(self) -> Mapping[tuple[str, str], PackPlace]:
        """Write the last pack. Return the places of all packed objects, by bucket and key."""
        if self._places:
            self._flush()
        while self._pending:
            self._collect()
        return self._found

    def close(self) -> None:
        """End the thread that writes packs, after the pack that it is writing."""
        self._failed = True
        self._full.put(None)
        if self._thread.ident is not None:
            self._thread.join()

    def _flush(self) -> None:
        if self._thread.ident is None:
            self._thread.start()
        while self._pending >= _IN_PROGRESS:
            self._collect()
        self._full.put((keys.pack(self._job_id, self._packs), self._data, self._places))
        self._data, self._places, self._size = [], [], 0
        self._packs += 1
        self._pending += 1

    def _collect(self) -> None:
        key, etag, places = wait_for(self._written, [self._thread])
        self._pending -= 1
        if etag is None:
            self._failed = True
        else:
            self._found.update((name, PackPlace(key=key, etag=etag, offset=offset)) for name, offset in places)

    def _write(self) -> None:
        while (full := self._full.get()) is not None:
            key, data, places = full
            etag = None
            try:
                if not self._failed:
                    etag = self._store.put(key, b"".join(data)).etag
            except ScorelineError:
                log.warning("pack.failed", extra={"job_id": self._job_id, "key": key}, exc_info=True)
            finally:
                del full, data
                self._written.put((key, etag, places))


def _is_packed(listed: Listed) -> bool:
    return 0 < listed.size <= PACKED_BYTES
