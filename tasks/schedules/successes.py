"""Finds the latest slot of each schedule whose job succeeded, without reading a state twice."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime

from scoreline.storage import keys
from scoreline.storage.errors import DocumentCorrupt, ObjectNotFound
from scoreline.storage.objects.base import ObjectStore
from scoreline.tasks.job.documents import COMPLETE, decoding
from scoreline.tasks.schedules.schedule import State


class Successes:
    """The latest successes, which are remembered until the state of a schedule changes."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[str, float | None]] = {}
        """The ETag of a schedule's state and its latest success, by name."""

    def of(self, main: ObjectStore, schedules: Collection[str]) -> dict[str, float]:
        """Return the latest slot whose job succeeded or was partial, in seconds since 1970, for each schedule.

        Schedules without such a slot are left out. This takes one listing, and one GET for each state that has changed.
        """
        if not schedules:
            return {}
        etags = {info.key: info.etag for info in main.list(keys.SCHEDULE_STATES)}
        found = {name: self._latest(main, name, etags.get(keys.schedule_state(name))) for name in schedules}
        return {name: slot for name, slot in found.items() if slot is not None}

    def _latest(self, main: ObjectStore, name: str, etag: str | None) -> float | None:
        if etag is None:
            return None
        known = self._known.get(name)
        if known is None or known[0] != etag:
            known = self._known[name] = (etag, _read(main, name))
        return known[1]


def _read(main: ObjectStore, name: str) -> float | None:
    key = keys.schedule_state(name)
    try:
        with decoding(main, key):
            state = State.from_json(main.get(key).data)
    except (ObjectNotFound, DocumentCorrupt):  # the tick logs what is wrong
        return None
    slots = [datetime.fromisoformat(past.slot).timestamp() for past in state.history if past.state in COMPLETE]
    return max(slots, default=None)
