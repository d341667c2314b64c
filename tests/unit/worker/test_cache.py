from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
from sklearn.linear_model import LinearRegression

from scoreline.storage import keys
from scoreline.storage.errors import ModelCorrupt, ModelUnloadable
from scoreline.storage.kept_memory import MEMORY
from scoreline.storage.models.bundle import Bundle
from scoreline.storage.models.compiled.compiled_estimators import CompiledEstimators
from scoreline.storage.models.manifest import PinnedModel
from scoreline.testing import eager
from scoreline.worker.cache import LONGEST_TURN_S, ModelCache
from scoreline.worker.shared_memory import Board
from tests.support.waiting import HANG_S


class Models:
    """A fake of the model manager; a model's name contains its size in bytes, and the size of its compiled trees."""

    def __init__(self) -> None:
        self.loads: list[str] = []
        self.gates: dict[str, threading.Event] = {}
        self.registry = SimpleNamespace(manifest=self.manifest)

    def manifest(self, pinned: PinnedModel) -> Any:
        return SimpleNamespace(
            name=pinned.name,
            version=pinned.version,
            ref=pinned.ref,
            memory_bytes=int(pinned.name.split("-")[1].split("+")[0]),
        )

    def load_manifest(self, manifest: Any, manifest_sha256: str) -> Any:
        self.loads.append(manifest.name)
        if manifest.name in self.gates:
            assert self.gates[manifest.name].wait(HANG_S)
        _, _, compiled = manifest.name.partition("+")
        estimators = CompiledEstimators(nbytes=int(compiled or 0))
        found: Any = Bundle(models={}, manifest=manifest, manifest_sha256=manifest_sha256, compiled=estimators)
        return found


def pin(name: str, sha256: str = "") -> PinnedModel:
    return PinnedModel(name=name, version="v", manifest_sha256=sha256 or name)


def held(cache: ModelCache) -> list[object]:
    return [item["model"] for item in cache.snapshot()]


@pytest.fixture
def models() -> Models:
    return Models()


def test_a_preloaded_model_is_found_and_not_loaded_again(models: Models) -> None:
    bundle = ModelCache(models, 100).get(pin("a-40"))  # type: ignore[arg-type]
    child = ModelCache(models, 100, [bundle])  # type: ignore[arg-type]
    assert child.get(pin("a-40")) is bundle
    assert models.loads == ["a-40"]


def test_unused_memory_is_released_before_a_model_is_loaded(models: Models) -> None:
    MEMORY.array(1 << 20)
    assert MEMORY.unused_bytes
    ModelCache(models, 100).get(pin("a-40"))  # type: ignore[arg-type]
    assert MEMORY.unused_bytes == 0


def test_the_least_recently_used_model_is_evicted_first(models: Models) -> None:
    cache = ModelCache(models, 100)  # type: ignore[arg-type]
    for name in ("a-40", "b-40", "a-40", "c-40"):
        cache.get(pin(name))
    assert held(cache) == ["a-40", "c-40"]
    assert models.loads == ["a-40", "b-40", "c-40"]
    cache.get(pin("d-90"))
    assert held(cache) == ["d-90"]


def test_a_model_larger_than_the_cache_is_refused_and_evicts_nothing(models: Models) -> None:
    cache = ModelCache(models, 100)  # type: ignore[arg-type]
    cache.get(pin("a-40"))
    with pytest.raises(ModelUnloadable, match="raise MODEL_CACHE_MB"):
        cache.get(pin("big-101"))
    assert held(cache) == ["a-40"]


def test_compiled_trees_count_towards_the_size_of_a_model(models: Models) -> None:
    cache = ModelCache(models, 100)  # type: ignore[arg-type]
    cache.get(pin("a-40"))
    cache.get(pin("b-40+10"))
    assert [item["bytes"] for item in cache.snapshot()] == [40, 50]
    cache.get(pin("c-40+25"))  # b is evicted, too, because the compiled trees of b and c count
    assert held(cache) == ["c-40+25"]


def test_a_model_that_fits_only_without_its_compiled_trees_is_used_without_them(models: Models) -> None:
    cache = ModelCache(models, 100)  # type: ignore[arg-type]
    assert not cache.get(pin("a-90+20")).compiled.nbytes
    assert [item["bytes"] for item in cache.snapshot()] == [90]


def test_models_with_different_digests_are_different_entries(models: Models) -> None:
    cache = ModelCache(models, 100)  # type: ignore[arg-type]
    cache.get(pin("a-40", "one"))
    cache.get(pin("a-40", "two"))
    assert models.loads == ["a-40", "a-40"]


def test_a_version_with_the_digest_of_another_one_does_not_get_its_bundle(models: Models) -> None:
    # Given a model version in the cache of a worker, loaded or preloaded
    one = pin("a-40", "digest")
    preloaded = models.load_manifest(models.manifest(one), "digest")
    for cache in (ModelCache(models, 100), ModelCache(models, 100, [preloaded])):  # type: ignore[arg-type]
        assert cache.get(one).manifest.ref == one.ref
        # When a job pins other versions with the same digest
        for other in (pin("b-40", "digest"), PinnedModel(name="a-40", version="w", manifest_sha256="digest")):
            # Then the job gets the bundle or the error of the version that it pins
            assert cache.manifest(other).ref == other.ref
            assert cache.get(other).manifest.ref == other.ref


def test_a_version_whose_manifest_is_a_copy_is_refused_though_the_original_is_in_memory(tmp_path: Path) -> None:
    with eager(tmp_path) as client:
        x = pd.DataFrame({"x": [0.0, 1.0]})
        for slope in (1.0, 2.0):
            client.models.publish("line", LinearRegression().fit(x, [0.0, slope]))
        copied, original = (client.registry.resolve(f"line@{name}") for name in client.models.list()["line"])
        cache = ModelCache(client.models, 1 << 30)
        assert cache.get(original).manifest.version == original.version
        store = client.buckets.main
        data = store.get(keys.manifest("line", original.version)).data
        store.put(keys.manifest("line", copied.version), data)
        forged = PinnedModel(name="line", version=copied.version, manifest_sha256=original.manifest_sha256)
        for ask in (cache.get, cache.manifest):
            with pytest.raises(ModelCorrupt, match=f"manifest of {forged.ref} names {original.ref}: was it copied"):
                ask(forged)


def test_a_model_is_loaded_once_for_many_threads_and_hits_do_not_wait_for_it(models: Models) -> None:
    cache = ModelCache(models, 100)  # type: ignore[arg-type]
    cache.get(pin("warm-10"))
    models.gates["slow-40"] = threading.Event()
    with ThreadPoolExecutor(4) as pool:
        waiting = [pool.submit(cache.get, pin("slow-40")) for _ in range(4)]
        while "slow-40" not in models.loads:
            time.sleep(0.01)
        cache.get(pin("warm-10"))  # the test hangs if a cache hit waits for the load of another model
        models.gates["slow-40"].set()
        assert len({id(future.result()) for future in waiting}) == 1
    assert models.loads == ["warm-10", "slow-40"]


def test_two_concurrent_loads_together_stay_within_the_limit(models: Models) -> None:
    cache = ModelCache(models, 100)  # type: ignore[arg-type]
    cache.get(pin("old-50"))
    models.gates = {"a-45": threading.Event(), "b-45": threading.Event()}
    with ThreadPoolExecutor(2) as pool:
        both = [pool.submit(cache.get, pin(name)) for name in models.gates]
        while len(models.loads) < 3:
            time.sleep(0.01)
        assert held(cache) == []  # the old model was evicted before the two loads
        for gate in models.gates.values():
            gate.set()
        for future in both:
            future.result()
    assert sorted(map(str, held(cache))) == ["a-45", "b-45"]


def test_a_model_whose_load_failed_is_loaded_again(models: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = ModelCache(models, 100)  # type: ignore[arg-type]
    with monkeypatch.context() as patch:
        patch.setattr(models, "load_manifest", lambda *_: (_ for _ in ()).throw(ModelUnloadable("no")))
        with pytest.raises(ModelUnloadable):
            cache.get(pin("a-90"))
    assert cache.get(pin("a-90")) is cache.get(pin("a-90"))


def test_evict_all_empties_the_cache(models: Models) -> None:
    cache = ModelCache(models, 100)  # type: ignore[arg-type]
    cache.get(pin("a-40"))
    cache.evict_all()
    assert held(cache) == []


def test_a_request_for_eviction_reaches_every_process_that_shares_the_board() -> None:
    board = Board(2)
    board.write(1, 77, [{"model": "a"}])
    board.request_eviction()
    assert (board.evictions_requested(), board.read()) == (1, {77: [{"model": "a"}]})


def test_a_model_in_use_is_evicted_last_if_another_one_fits_beside_it(models: Models) -> None:
    cache = ModelCache(models, 100)  # type: ignore[arg-type]
    in_use = cache.get(pin("a-40"))
    cache.get(pin("b-50"))
    assert cache.has_room_beside(pin("b-50"), in_use)
    assert not cache.has_room_beside(pin("c-46+15"), in_use)  # with its compiled form, it takes up to 61
    assert cache.has_room_beside(pin("c-45+15"), in_use)
    cache.get(pin("c-45+15"))
    assert held(cache) == ["a-40", "c-45+15"]
    cache.evict_all()
    assert not cache.has_room_beside(pin("d-10"), in_use)  # the memory of the model in use is not counted any more


def test_all_models_in_use_count_when_another_one_is_to_be_loaded_beside_them(models: Models) -> None:
    cache = ModelCache(models, 100)  # type: ignore[arg-type]
    first, second = cache.get(pin("a-40")), cache.get(pin("b-30"))
    assert cache.has_room_beside(pin("c-20"), first, second)
    assert not cache.has_room_beside(pin("c-40"), first, second)
    assert cache.has_room_beside(pin("c-40"), first)


def test_a_small_model_can_take_turns_with_one_that_was_loaded_quickly(models: Models) -> None:
    cache = ModelCache(models, 100)  # type: ignore[arg-type]
    in_use = cache.get(pin("a-80"))
    in_use = replace(in_use, load_seconds=0.6 * LONGEST_TURN_S)
    assert cache.can_take_turns(pin("b-30"), in_use)
    assert not cache.can_take_turns(pin("b-70"), in_use)  # it takes as long as the model in use, nearly
    assert not cache.can_take_turns(pin("b-101"), in_use)
    cache.evict_all()
    assert not cache.can_take_turns(pin("b-30"), in_use)


def test_a_preloaded_model_takes_no_turns(models: Models) -> None:
    shared = ModelCache(models, 100).get(pin("a-80"))  # type: ignore[arg-type]
    cache = ModelCache(models, 100, [shared])  # type: ignore[arg-type]
    assert not cache.can_take_turns(pin("b-30"), shared)
