"""Tests a worker that loads models before it forks, and evicts them on request."""

from __future__ import annotations

from typing import Any

import pandas as pd

from scoreline.storage.models.introspection import library_versions
from scoreline.storage.models.manager import ModelStorageManager
from scoreline.tasks.client import Client
from scoreline.tasks.dispatch.queue_names import QueueNames
from scoreline.worker.dev.stack import Stack
from scoreline.worker.version import __version__
from tests.support.inspecting import ask
from tests.support.waiting import wait_until


def held(stack: Stack, done: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}

    def is_done() -> bool:
        nonlocal found
        found = ask(stack, "inspect", "models")
        return bool(done(found))

    wait_until(is_done, "what the processes hold", lambda: str(found))
    return found


def test_preloaded_models_are_shared_and_can_be_evicted(own: Stack, trained: Any, cells: pd.DataFrame) -> None:
    models, client = ModelStorageManager.from_env(own.environ), Client.from_env(own.environ)
    manifest = models.publish("early", trained[1], trained[0], trained[2], alias="champion")
    for number in range(12):
        client.buckets.main.put(f"in/{number}.parquet", pd.concat([cells] * 2).to_parquet(index=False))
    log = own.folder / "s3.log"

    def gets() -> int:
        return log.read_text().count(f"GET /scoreline/models/early/{manifest.version}/model.joblib")

    def score() -> None:
        job = client.submit("early@champion", client.buckets.main.uri("in/"), part_rows=2 * len(cells))
        assert list(client.watch(job.job_id))[-1].state == "succeeded"

    before = gets()
    own.start_worker(2, {"PRELOAD_MODELS": "early@champion, nowhere@champion", "REMOTE_CONTROL": "true"})
    assert (
        "models.preload_failed model=nowhere@champion error=\"no model 'nowhere'"
        in next(own.folder.glob("worker*.log")).read_text()
    )
    assert gets() == before + 1
    assert client.ledger.counters.read().loads["early"].count == 1

    def both() -> dict[str, Any] | None:
        score()  # run further jobs until each process has scored a part
        found: dict[str, Any] = ask(own, "inspect", "models")
        return found if len(found) == 2 and all(found.values()) else None

    found = wait_until(both, "two processes that have scored")
    assert all(model["preloaded"] and model["hits"] > 0 for models in found.values() for model in models)
    assert gets() == before + 1  # the parent loaded the model once, and no child loaded it again
    (gauges,) = wait_until(lambda: client.queue.ask_workers("gauges"), "an answer").values()
    # the preloaded model and its compiled trees are counted once, because both processes share their memory
    (size,) = {model["bytes"] for models in found.values() for model in models}
    assert manifest.memory_bytes <= size <= manifest.memory_bytes * 4 / 3
    versions = {"scoreline": __version__} | library_versions()
    queue = QueueNames.of("scoreline").jobs
    assert gauges == {"processes": 2, "cache_bytes": size, "queue": queue, "versions": versions}
    assert ask(own, "control", "evict_models") == {"ok": "evicting the models of 2 processes"}
    assert held(own, lambda found: not any(found.values())) == {pid: [] for pid in found}
    score()
    found = held(own, lambda found: any(found.values()))
    assert not any(model["preloaded"] for models in found.values() for model in models)
    assert before + 2 <= gets() <= before + 3
