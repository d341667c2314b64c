"""Models of one process: each loaded once, kept by the digest of its manifest."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from scoreline.storage.errors import ModelUnloadable
from scoreline.storage.models.bundle import Bundle
from scoreline.storage.models.manager import ModelStorageManager
from scoreline.storage.models.manifest import Manifest, PinnedModel
from scoreline.storage.models.trial_load import release_memory


@dataclass
class _Entry:
    bundle: Bundle
    preloaded: bool = False
    hits: int = 0


class ModelCache:
    """Least recently used bundles go first, before the one that needs their room is loaded.

    Thread-safe; a bundle is loaded once however many ask for it, and hits do not wait for loads of others. The key is
    the digest of the manifest, which names the digest of every byte: nothing stale can be served.

    Parameters
    ----------
    models : ModelStorageManager
        Where bundles come from.
    max_bytes : int
        Memory to spend, by what each bundle was measured to take.
    preloaded : iterable of Bundle
        Loaded before the fork, their memory shared with the parent.
    on_load : callable
        Is told of each bundle that was loaded here.
    """

    def __init__(
        self,
        models: ModelStorageManager,
        max_bytes: int,
        preloaded: Iterable[Bundle] = (),
        on_load: Callable[[Bundle], None] = lambda bundle: None,
    ) -> None:
        self._models = models
        self._max_bytes = max_bytes
        self._on_load = on_load
        self._entries = OrderedDict((item.manifest_sha256, _Entry(item, preloaded=True)) for item in preloaded)
        self._lock = threading.Lock()
        self._loading: dict[str, threading.Lock] = {}
        self._reserved: dict[str, int] = {}

    def get(self, pinned: PinnedModel) -> Bundle:
        """Return a bundle, loading it where it is not here.

        Raises
        ------
        ModelUnloadable
            It takes more memory than the cache may hold, or `ModelStorageManager.load_pinned` says why.
        """
        key = pinned.manifest_sha256
        with self._lock:
            if (bundle := self._hit(key)) is not None:
                return bundle
            loading = self._loading.setdefault(key, threading.Lock())
        with loading:
            with self._lock:
                if (bundle := self._hit(key)) is not None:
                    return bundle
            manifest = self._models.registry.manifest(pinned)
            try:
                self._reserve(key, manifest)
                bundle = self._models.load_manifest(manifest, key)
                with self._lock:
                    self._entries[key] = _Entry(bundle)
                self._on_load(bundle)
                return bundle
            finally:
                with self._lock:
                    self._reserved.pop(key, None)

    def manifest(self, pinned: PinnedModel) -> Manifest:
        """Return a bundle's manifest without loading the bundle."""
        with self._lock:
            entry = self._entries.get(pinned.manifest_sha256)
        return entry.bundle.manifest if entry else self._models.registry.manifest(pinned)

    def evict_all(self) -> None:
        """Let go of every bundle; one that is scoring goes when it has done."""
        with self._lock:
            self._entries.clear()
        release_memory()

    def snapshot(self) -> list[dict[str, object]]:
        """Return what ``inspect models`` shows, least recently used first."""
        with self._lock:
            return [
                {
                    "model": entry.bundle.manifest.name,
                    "version": entry.bundle.manifest.version,
                    "bytes": entry.bundle.manifest.memory_bytes,
                    "hits": entry.hits,
                    "load_seconds": round(entry.bundle.load_seconds, 3),
                    "preloaded": entry.preloaded,
                }
                for entry in self._entries.values()
            ]

    def _hit(self, key: str) -> Bundle | None:
        entry = self._entries.get(key)
        if entry is None:
            return None
        entry.hits += 1
        self._entries.move_to_end(key)
        return entry.bundle

    def _reserve(self, key: str, manifest: Manifest) -> None:
        """Let old bundles go until the new one fits, so that both are never in memory."""
        size = manifest.memory_bytes
        if size > self._max_bytes:
            raise ModelUnloadable(
                f"{manifest.ref} takes {size / 2**20:,.0f} MiB of memory, a process may keep "
                f"{self._max_bytes / 2**20:,.0f} MiB of models: raise MODEL_CACHE_MB, lower WORKER_CONCURRENCY, "
                "or use a larger machine"
            )
        evicted = False
        with self._lock:
            self._reserved[key] = size
            used = sum(self._reserved.values())
            used += sum(entry.bundle.manifest.memory_bytes for entry in self._entries.values())
            while self._entries and used > self._max_bytes:
                _, entry = self._entries.popitem(last=False)
                used -= entry.bundle.manifest.memory_bytes
                evicted = True
                del entry
        if evicted:
            release_memory()
