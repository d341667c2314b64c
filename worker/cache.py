"""Keeps the models of one process in memory. Each is loaded once, and found by its version and manifest's digest."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from scoreline.storage.errors import ModelUnloadable
from scoreline.storage.models.bundle import Bundle
from scoreline.storage.models.manager import ModelStorageManager
from scoreline.storage.models.manifest import Manifest, PinnedModel
from scoreline.storage.process_memory import release_memory
from scoreline.tasks.scoring.model_calls import ModelExit, call_model


@dataclass
class _Entry:
    bundle: Bundle
    preloaded: bool = False
    hits: int = 0


class ModelCache:
    """A cache of bundles. It evicts the least recently used ones if it needs their memory to load another.

    It is thread-safe: a bundle is loaded once, however many threads request it, and a hit never waits while another
    bundle is loaded. The key is the whole pin. The digest of the manifest covers every byte, so a stale bundle cannot
    be returned. Name and version belong to the key because results name the version that was pinned. The registry
    refuses a pin that combines a version with the digest of another one. Such a pin must not find the bundle of the
    other version here.

    Parameters
    ----------
    models : ModelStorageManager
        Loads the bundles.
    max_bytes : int
        Maximum memory of all bundles together. The size of each bundle was measured when it was published.
    preloaded : iterable of Bundle
        Bundles that were loaded before the fork; the process shares their memory with its parent.
    on_load : callable
        Called with each bundle after this cache has loaded it.
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
        self._entries = OrderedDict((_pin_of(item), _Entry(item, preloaded=True)) for item in preloaded)
        self._lock = threading.Lock()
        self._loading: dict[PinnedModel, threading.Lock] = {}
        self._reserved: dict[PinnedModel, int] = {}

    def get(self, pinned: PinnedModel) -> Bundle:
        """Return a bundle, and load it first if it is not in the cache.

        Raises
        ------
        ModelUnloadable
            The bundle needs more memory than the cache may use, or cannot be loaded for another reason (see
            `ModelStorageManager.load_pinned`).
        """
        with self._lock:
            if (bundle := self._hit(pinned)) is not None:
                return bundle
            loading = self._loading.setdefault(pinned, threading.Lock())
        with loading:
            with self._lock:
                if (bundle := self._hit(pinned)) is not None:
                    return bundle
            manifest = self._models.registry.manifest(pinned)
            try:
                self._reserve(pinned, manifest)
                bundle = _load(self._models, manifest, pinned.manifest_sha256)
                with self._lock:
                    self._entries[pinned] = _Entry(bundle)
                self._on_load(bundle)
                return bundle
            finally:
                with self._lock:
                    self._reserved.pop(pinned, None)

    def manifest(self, pinned: PinnedModel) -> Manifest:
        """Return a bundle's manifest without loading the bundle."""
        with self._lock:
            entry = self._entries.get(pinned)
        return entry.bundle.manifest if entry else self._models.registry.manifest(pinned)

    def evict_all(self) -> None:
        """Drop every bundle. The memory of a bundle in use is freed when the part that uses it has been scored."""
        with self._lock:
            self._entries.clear()
        release_memory()

    def snapshot(self) -> list[dict[str, object]]:
        """Describe every bundle for ``celery inspect models``, the least recently used one first."""
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

    def _hit(self, pinned: PinnedModel) -> Bundle | None:
        entry = self._entries.get(pinned)
        if entry is None:
            return None
        entry.hits += 1
        self._entries.move_to_end(pinned)
        return entry.bundle

    def _reserve(self, pinned: PinnedModel, manifest: Manifest) -> None:
        """Evict bundles until the new one fits, before it is loaded, so that they are never in memory together."""
        size = manifest.memory_bytes
        if size > self._max_bytes:
            raise ModelUnloadable(
                f"{manifest.ref} needs {size / 2**20:,.0f} MiB of memory, but a process may use only "
                f"{self._max_bytes / 2**20:,.0f} MiB for models: raise MODEL_CACHE_MB, lower WORKER_CONCURRENCY, "
                "or use a larger machine"
            )
        evicted = False
        with self._lock:
            self._reserved[pinned] = size
            used = sum(self._reserved.values())
            used += sum(entry.bundle.manifest.memory_bytes for entry in self._entries.values())
            while self._entries and used > self._max_bytes:
                _, entry = self._entries.popitem(last=False)
                used -= entry.bundle.manifest.memory_bytes
                evicted = True
                del entry
        if evicted:
            release_memory()


def _pin_of(bundle: Bundle) -> PinnedModel:
    manifest = bundle.manifest
    return PinnedModel(name=manifest.name, version=manifest.version, manifest_sha256=bundle.manifest_sha256)


def _load(models: ModelStorageManager, manifest: Manifest, manifest_sha256: str) -> Bundle:
    try:
        return call_model(lambda: models.load_manifest(manifest, manifest_sha256))
    except ModelExit as error:
        raise ModelUnloadable(f"{manifest.ref} cannot be loaded: {error}") from error
