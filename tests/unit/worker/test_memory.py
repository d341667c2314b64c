"""A worker determines the memory of the machine, and how many processes fit into it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from scoreline.storage.errors import ModelCorrupt
from scoreline.worker.memory import MIB, measure_models, size

GIB = 1024 * MIB


def test_a_small_dyno_has_one_process_and_a_large_machine_has_one_for_each_core() -> None:
    assert size(limit_bytes=512 * MIB, cores=8).processes == 1
    assert size(limit_bytes=GIB, cores=8).processes == 2
    assert size(limit_bytes=64 * GIB, cores=8).processes == 8


def test_a_model_counts_once_for_each_process_and_a_preloaded_one_counts_once() -> None:
    assert size(limit_bytes=4 * GIB, cores=8).processes == 8
    assert size(limit_bytes=4 * GIB, cores=8, model_bytes=GIB).processes == 2
    assert size(limit_bytes=4 * GIB, cores=8, preloaded_bytes=GIB).processes == 8
    assert size(limit_bytes=4 * GIB, cores=8, preloaded_bytes=2 * GIB).processes == 6
    assert size(limit_bytes=4 * GIB, cores=8, cache_bytes=GIB).processes == 2


def test_all_processes_together_stay_within_the_limit() -> None:
    for limit in (GIB, 2 * GIB, 14 * GIB):
        for model in (0, 100 * MIB, 700 * MIB):
            sizing = size(limit_bytes=limit, cores=8, model_bytes=model)
            private = sizing.process_bytes - 230 * MIB
            assert (sizing.short_bytes > 0) == ((limit, model) == (GIB, 700 * MIB))
            assert sizing.short_bytes > 0 or 230 * MIB + sizing.processes * private <= limit
            assert sizing.cache_bytes >= model


def test_the_requested_number_of_processes_is_kept_and_the_missing_memory_reported() -> None:
    sizing = size(limit_bytes=GIB, cores=2, asked=6)
    assert sizing.processes == 6
    assert sizing.short_bytes > 0
    assert size(limit_bytes=GIB, cores=2, asked=2).short_bytes == 0


def test_there_is_always_one_process_even_if_it_does_not_fit() -> None:
    sizing = size(limit_bytes=512 * MIB, cores=2, model_bytes=GIB)
    assert sizing.processes == 1
    assert GIB * 0.9 < sizing.short_bytes < GIB * 1.1
    assert size(limit_bytes=100 * MIB, cores=2).processes == 1


def test_the_cache_has_the_size_that_the_settings_say_or_else_the_remaining_memory() -> None:
    assert size(limit_bytes=64 * GIB, cores=2).cache_bytes == GIB
    assert size(limit_bytes=GIB, cores=2, cache_bytes=7 * MIB).cache_bytes == 7 * MIB
    assert 200 * MIB < size(limit_bytes=GIB, cores=1).cache_bytes < 600 * MIB


def test_a_model_that_cannot_be_measured_does_not_hide_the_others() -> None:
    def show(ref: str) -> SimpleNamespace:
        match ref:
            case "corrupt":
                raise ModelCorrupt("the manifest of corrupt cannot be read")
            case "odd":
                raise TypeError("'>' not supported between 'str' and 'int'")
        return SimpleNamespace(memory_bytes=700)

    registry: Any = SimpleNamespace(show=show, names=lambda: ["corrupt", "odd", "sound"])
    assert measure_models(registry, ()) == (0, 700)
    assert measure_models(registry, ("odd", "sound", "sound")) == (1400, 0)


def test_a_worker_that_cannot_be_sized_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENVIRONMENT", "development")
    from scoreline.worker import celery, control, startup

    monkeypatch.setattr(control, "refuse_changes", lambda: None)
    monkeypatch.setattr("scoreline.worker.consumer.tolerate_foreign_messages", lambda: None)
    monkeypatch.setattr("scoreline.worker.allocator.use_one_heap", lambda environ: None)

    def fail(*_: object) -> None:
        raise TypeError("not a number")

    monkeypatch.setattr(startup, "fit_into_memory", fail)
    with pytest.raises(SystemExit, match="cannot be sized: TypeError: not a number"):
        celery._become_worker(None, {})
