"""Small objects that are written to see what a store does, and removed whatever happens."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping
from threading import Event
from typing import TYPE_CHECKING, Any

from scoreline.storage import keys
from scoreline.storage.errors import AccessDenied, PreconditionFailed, ScorelineError, StoreUnavailable
from scoreline.storage.objects.base import ObjectInfo, ObjectStore

if TYPE_CHECKING:
    from scoreline.storage.objects.r2 import (
        R2Store,
    )  # boto3 takes 0.2 s to import

DATA = b"0123456789"
OTHER_DATA = b"abc"
METADATA: Mapping[str, str] = {"rows": "10"}
STALE = "0123456789abcdef0123456789abcdef"
"""An ETag of the right form that no object has."""
_SAME_KEY_S = 1.05
"""R2 takes one write a second to a key."""


class Probe:
    """Objects of one examination, under names that no other has.

    Parameters
    ----------
    store : ObjectStore
        What is tried.
    leaving : Event
        Set when there is no time to wait for anything.
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
        """Return the key of an object."""
        return self.prefix + name

    def put(self, name: str, *, in_parts: bool = False, **how: Any) -> None:
        """Write an object for the first time."""
        self._written[name] = self._put(name, DATA, in_parts, how)
        self._last = time.monotonic()

    def overwrite(self, name: str, *, in_parts: bool = False, **how: Any) -> None:
        """Write an object again, once a second has passed since the last was written."""
        if self.in_parts is not None:
            self._leaving.wait(max(0, self._last + _SAME_KEY_S - time.monotonic()))
        self._put(name, OTHER_DATA, in_parts, how)

    def wrote(self, name: str) -> bool:
        """Whether an object could be written."""
        return name in self._written

    def etag(self, name: str) -> str:
        """Return the ETag of an object as it was first written."""
        return self._written[name].etag

    def accepts(self, attempt: Callable[[], Any]) -> bool:
        """Whether the store does something, rather than say that a condition does not hold."""
        try:
            attempt()
        except PreconditionFailed:
            return False
        return True

    def clean(self) -> list[str]:
        """Remove everything; returns the keys that cannot be removed."""
        left = []
        away = False
        for key in self._begun:
            try:
                if not away:
                    self.store.delete(key)
                    continue
            except ScorelineError as fault:
                away = isinstance(fault, StoreUnavailable)
            left.append(key)
        return left

    def _put(self, name: str, data: bytes, in_parts: bool, how: Mapping[str, Any]) -> ObjectInfo:
        store = self.in_parts if in_parts and self.in_parts is not None else self.store
        key = self.key(name)
        if key not in self._begun:
            self._begun.append(key)
        try:
            return store.put(key, data, **how)
        except AccessDenied:
            if name not in self._written:  # nothing is there that would have to be removed
                self._begun.remove(key)
            raise


def _in_parts(store: ObjectStore) -> R2Store | None:
    """Return the store as it writes large objects; None where it writes all of them alike."""
    from scoreline.storage.objects.r2 import (
        R2Store,
    )  # boto3 takes 0.2 s to import

    return store.in_parts() if isinstance(store, R2Store) else None
