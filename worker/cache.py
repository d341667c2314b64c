"""Caches models in the memory of one process. A model is found by its name, version and manifest digest."""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from scoreline.storage.errors import ModelUnloadable
from scoreline.storage.kept_memory import MEMORY
from scoreline.storage.models.bundle import Bundle
from scoreline.storage.models.manager import ModelStorageManager
from scoreline.storage.models.manifest import Manifest, PinnedModel
from scoreline.storage.process_memory import release_memory
from scoreline.tasks.scoring.model_calls import ModelExit, call_model

log = logging.getLogger(__name__)

LONGEST_TURN_S = 10.0
"""Maximum number of seconds in which a model may be loaded in place of one in use, and the latter again."""
_COMPILED_SHARE = 1 / 3
"""Maximum memory of the compiled form of a model, as a share of the model's own memory."""


@dataclass
class _Entry:
    bundle: Bundle
    preloaded: bool = False
    hits: int = 0


class ModelCache:
    """A cache of loaded models (bundles), which evicts the least recently used bundles to make room.

    The cache is thread-safe. If several threads request a bundle, it is loaded once. A cached bundle is returned at
    once, even while another bundle is loaded. The key of the cache consists of name, version and manifest digest. The
    manifest digest covers every byte of the bundle, so the cache never returns a stale bundle. Name and version are
    part of the key because results contain the version. The registry refuses a digest that belongs to another version,
    and the cache must refuse such a digest, too.

    Parameters
    ----------
    models : ModelStorageManager
        The manager that loads bundles.
    max_bytes : int
        Maximum memory of all bundles together. The size of a bundle was measured when the model was published.
    preloaded : iterable of Bundle
        Bundles that the parent process loaded before the fork. This process shares their memory with the parent.
    on_load : callable
        Function that is called with each newly loaded bundle.
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
        """Return a bundle from the cache. Load the bundle first if the cache does not contain it.

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
                self._reserve(pinned, manifest, manifest.memory_bytes)
                MEMORY.release()
                bundle = self._fitting(_load(self._models, manifest, pinned.manifest_sha256))
                self._reserve(pinned, manifest, bundle.memory_bytes)
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

    def has_room_beside(self, pinned: PinnedModel, *in_use: Bundle) -> bool:
        """Return whether `get` can return a bundle without evicting the others, which are in use.

        If the result is true, the bundles in use become the last ones to be evicted. The bundle counts as if it were
        compiled, with the largest compiled form that is possible.
        """
        with self._lock:
            if pinned in self._entries:
                return True
        size = self._largest_bytes(pinned)
        used = {_pin_of(bundle): bundle.memory_bytes for bundle in in_use}
        with self._lock:
            if not used.keys() <= self._entries.keys():  # the memory of one of them is no longer counted
                return False
            for pin in used:
                self._entries.move_to_end(pin)
        return size + sum(used.values()) <= self._max_bytes

    def can_take_turns(self, pinned: PinnedModel, in_use: Bundle) -> bool:
        """Return whether a bundle can soon be loaded in place of another one, which is then loaded again.

        This is expected to take at most `LONGEST_TURN_S`, by the time in which the bundle in use was loaded. A
        preloaded bundle stays, because its memory is shared, and would not be shared if it were loaded again.
        """
        size = self._largest_bytes(pinned)
        with self._lock:
            entry = self._entries.get(_pin_of(in_use))
        if entry is None or entry.preloaded or size > self._max_bytes:
            return False
        return in_use.load_seconds * (1 + size / max(1, in_use.memory_bytes)) <= LONGEST_TURN_S

    def _largest_bytes(self, pinned: PinnedModel) -> float:
        """Return the memory of a bundle with the largest compiled form that is possible."""
        return self._models.registry.manifest(pinned).memory_bytes * (1 + _COMPILED_SHARE)

    def evict_all(self) -> None:
        """Evict every bundle. The memory of a bundle in use is freed at the end of the part that uses it."""
        with self._lock:
            self._entries.clear()
        release_memory()

    def snapshot(self) -> list[dict[str, object]]:
        """Describe every bundle for ``celery inspect models``, in the order of their last use."""
        with self._lock:
            return [
                {
                    "model": entry.bundle.manifest.name,
                    "version": entry.bundle.manifest.version,
                    "bytes": entry.bundle.memory_bytes,
                    "hits": entry.hits,
                    "load_seconds": round(entry.bundle.load_seconds, 3),
                    "preloaded": entry.preloaded,
                    "trees": entry.bundle.compiled.summary(),
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

    def _fitting(self, bundle: Bundle) -> Bundle:
        """Return the bundle, but without its compiled trees if the cache has no room for them."""
        if bundle.memory_bytes <= self._max_bytes:
            return bundle
        log.warning("models.not_compiled", extra={"model": bundle.manifest.ref, "bytes": bundle.compiled.nbytes})
        return replace(bundle, compiled=bundle.compiled.left_out("the model cache has no room for it"))

    def _reserve(self, pinned: PinnedModel, manifest: Manifest, size: int) -> None:
        """Evict old bundles before a new bundle is loaded, until the new bundle fits."""
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
            used += sum(entry.bundle.memory_bytes for entry in self._entries.values())
            while self._entries and used > self._max_bytes:
                _, entry = self._entries.popitem(last=False)
                used -= entry.bundle.memory_bytes
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
