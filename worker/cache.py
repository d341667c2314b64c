"""Models of one process: each loaded once, kept by the digest of its manifest."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass

from storage.models.bundle import Bundle, load_bundle
from storage.models.manifest import Manifest, PinnedModel
from storage.models.registry import ModelRegistry
from storage.objects.base import ObjectStore

DEFAULT_MAX_BYTES = 1 << 30


@dataclass
class _Entry:
    bundle: Bundle
    hits: int = 0


class ModelCache:
    """Least recently used bundles go first; the one asked for last always stays.

    Parameters
    ----------
    store : ObjectStore
        The bucket of the models.
    max_bytes : int
        Bytes of artifacts to keep.
    """

    def __init__(self, store: ObjectStore, max_bytes: int = DEFAULT_MAX_BYTES) -> None:
        self._store = store
        self._registry = ModelRegistry(store)
        self._max_bytes = max_bytes
        self._entries: OrderedDict[str, _Entry] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, pinned: PinnedModel) -> Bundle:
        """Return a bundle, loading it where it is not here; one load at a time."""
        with self._lock:
            entry = self._entries.get(pinned.manifest_sha256)
            if entry is not None:
                entry.hits += 1
                self._entries.move_to_end(pinned.manifest_sha256)
                return entry.bundle
            manifest = self._registry.manifest(pinned)
            self._make_room(manifest.size)
            bundle = load_bundle(self._store, manifest, pinned.manifest_sha256)
            self._entries[pinned.manifest_sha256] = _Entry(bundle)
            return bundle

    def manifest(self, pinned: PinnedModel) -> Manifest:
        """Return a bundle's manifest without loading the bundle."""
        return self._registry.manifest(pinned)

    def snapshot(self) -> list[dict[str, object]]:
        """Return what ``inspect models`` shows, least recently used first."""
        with self._lock:
            return [
                {
                    "model": entry.bundle.manifest.name,
                    "version": entry.bundle.manifest.version,
                    "bytes": entry.bundle.manifest.size,
                    "hits": entry.hits,
                    "load_seconds": round(entry.bundle.load_seconds, 3),
                }
                for entry in self._entries.values()
            ]

    def _make_room(self, size: int) -> None:
        """Let go of old bundles before the new one is loaded, so that both are never in memory."""
        used = sum(entry.bundle.manifest.size for entry in self._entries.values())
        while self._entries and used + size > self._max_bytes:
            _, entry = self._entries.popitem(last=False)
            used -= entry.bundle.manifest.size
