"""The main process of a worker prepares what its children share."""

from __future__ import annotations

import gc

import pytest
from celery.utils.dispatch import Signal

from scoreline.worker import startup
from scoreline.worker.celery import app


def test_garbage_collection_leaves_out_what_existed_before_the_pool_forks(monkeypatch: pytest.MonkeyPatch) -> None:
    before_fork, calls = Signal(), list[str]()
    for name in ("worker_init", "worker_process_init", "worker_process_shutdown", "task_prerun", "task_postrun"):
        monkeypatch.setattr(startup, name, Signal())
    monkeypatch.setattr(startup, "worker_ready", Signal())
    monkeypatch.setattr(startup, "celeryd_after_setup", before_fork)
    monkeypatch.setattr("scoreline.worker.telemetry.connect", lambda: None)
    for name in ("_read_all_queues", "_log_sizing", "_open_pool_files", "_preload"):
        monkeypatch.setattr(startup, name, lambda name=name, **_: calls.append(name))
    monkeypatch.setattr(gc, "collect", lambda: calls.append("collect"))
    monkeypatch.setattr(gc, "freeze", lambda: calls.append("freeze"))
    startup.connect(app)
    before_fork.send(sender="worker")
    assert calls == ["_read_all_queues", "_log_sizing", "_open_pool_files", "_preload", "collect", "freeze"]
