"""Writes small objects to test how a store behaves, and always removes them."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping
from threading import Event
from typing import TYPE_CHECKING, Any

from scoreline.storage import keys
from scoreline.storage.errors import AccessDenied, PreconditionFailed, ScorelineError, StoreUnavailable
from scoreline.storage.objects.base import OVERWRITE, ObjectInfo, ObjectStore, PutMode

if TYPE_CHECKING:
    from scoreline.storage.objects.r2 import R2Store

DATA = b"0123456789"
OTHER_DATA = b"abc"
METADATA: Mapping[str, str] = {"rows": "10"}
STALE = "0123456789abcdef0123456789abcdef"
"""A well-formed ETag that matches no object."""
_SAME_KEY_S = 1.05
"""Seconds between two writes to the same key. R2 accepts one write per second."""


class Probe:
    """The test objects of one run of the doctor. Each run has its own prefix.

    Parameters
    ----------
    store : ObjectStore
        The store to examine.
    leaving : Event
        Event that is set when the process must end. The probe then stops waiting.
    """

    def __init__(self, store: ObjectStore, leaving: Event) -> None:
        self.store = store
        self.prefix = keys.probe(f"{secrets.token_hex(8)}-")
        self.in_parts = _in_parts(store)
        self._leaving = leaving
        self._begun: list[str] = []
        self._written: dict[str, ObjectInfo] = {}
        self._last = 0.0

    def key(self, name: str) -> str:
        """Return the key of the object called `name`."""
        return self.prefix + name

    def put(
        self, name: str, *, mode: PutMode = OVERWRITE, metadata: Mapping[str, str] | None = None, in_parts: bool = False
    ) -> None:
        """Write an object for the first time."""
        self._written[name] = self._put(name, DATA, mode, metadata, in_parts)
        self._last = time.monotonic()

    def overwrite(self, name: str, *, mode: PutMode, in_parts: bool = False) -> None:
        """Write an object again, more than a second after the last write."""
        if self.in_parts is not None:
            self._leaving.wait(max(0, self._last + _SAME_KEY_S - time.monotonic()))
        self._put(name, OTHER_DATA, mode, None, in_parts)

    def wrote(self, name: str) -> bool:
        """Return whether `put` succeeded."""
        return name in self._written

    def etag(self, name: str) -> str:
        """Return the ETag of an object that `put` has written."""
        return self._written[name].etag

    def accepts(self, attempt: Callable[[], Any]) -> bool:
        """Return True if the store accepts a conditional request, and False if the condition of the request fails."""
        try:
            attempt()
        except PreconditionFailed:
            return False
        return True

    def clean(self) -> list[str]:
        """Remove all objects, and return the keys of objects that cannot be removed."""
        left = []
        unreachable = False
        for key in self._begun:
            try:
                if not unreachable:
                    self.store.delete(key)
                    continue
            except ScorelineError as fault:
                unreachable = isinstance(fault, StoreUnavailable)
            left.append(key)
        return left

    def _put(
        self, name: str, data: bytes, mode: PutMode, metadata: Mapping[str, str] | None, in_parts: bool
    ) -> ObjectInfo:
        store = self.in_parts if in_parts and self.in_parts is not None else self.store
        key = self.key(name)
        if key not in self._begun:
            self._begun.append(key)
        try:
            return store.put(key, data, mode=mode, metadata=metadata)
        except AccessDenied:
            if name not in self._written:  # the object does not exist, so there is nothing to remove
                self._begun.remove(key)
            raise


def _in_parts(store: ObjectStore) -> R2Store | None:
    """Return a store that uploads every object in parts, or None if the store has no multipart uploads."""
    from scoreline.storage.objects.r2 import R2Store  # importing boto3 takes 0.2 s, and not all stores need it

    return store.always_multipart() if isinstance(store, R2Store) else None
