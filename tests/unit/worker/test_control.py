"""A worker answers inspection commands over the broker, but refuses commands that would change its state."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from celery.worker import state as working
from celery.worker.control import Panel

from scoreline.storage.errors import InvalidSettings
from scoreline.worker import control
from scoreline.worker.settings import WorkerSettings

QUESTIONS = {"active", "active_queues", "conf", "jobs", "models", "gauges", "ping", "registered", "reserved", "stats"}


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The control commands of a worker that refuses changes."""
    monkeypatch.setattr(Panel, "data", dict(Panel.data))
    control.refuse_changes()
    return Panel.data


def test_a_command_that_changes_something_is_refused_without_a_look_at_the_worker(commands: dict[str, Any]) -> None:
    changing = {name for name, command in Panel.meta.items() if command.type == "control"}
    assert {"pool_shrink", "add_consumer", "cancel_consumer", "shutdown", "revoke", "evict_models"} <= changing
    for name in changing:
        assert "REMOTE_CONTROL=true" in commands[name](None, n=1, queue="x", task_id="y")["error"], name


def test_a_command_that_inspects_goes_on_working(commands: dict[str, Any]) -> None:
    assert {name for name in QUESTIONS if commands[name].__name__ == "_refuse"} == set()
    assert commands["dump_active"] is commands["active"]
    assert commands["ping"](SimpleNamespace()) == {"ok": "pong"}
    # And if a later release of Celery adds a command, this test fails, so that the command is reviewed
    known = {name for name, fun in commands.items() if fun.__name__ != "_refuse"}
    assert "objgraph" not in known  # it writes a file


def test_a_greeting_cannot_make_a_worker_drop_tasks(commands: dict[str, Any]) -> None:
    state = SimpleNamespace(hostname="w", app=SimpleNamespace(clock=SimpleNamespace(forward=lambda: 1)))
    assert "clock" in commands["hello"](state, from_node="other", revoked=["task-of-a-part"])
    assert "task-of-a-part" not in working.revoked


@pytest.mark.parametrize(
    ("pool", "processes"),
    [
        ({"processes": [7, 8], "max-concurrency": 2}, 2),
        ({"processes": [], "max-concurrency": 2}, 0),
        ({"max-concurrency": 3}, 3),
    ],
)
def test_a_pool_without_processes_counts_as_none(pool: dict[str, Any], processes: int) -> None:
    app = SimpleNamespace(conf=SimpleNamespace(task_default_queue="scoreline.jobs.b"))
    state = SimpleNamespace(app=app, consumer=SimpleNamespace(pool=SimpleNamespace(info=pool)))
    assert control.gauges(state)["processes"] == processes


def test_only_a_setting_turns_remote_control_on() -> None:
    assert not WorkerSettings.from_env({}).remote_control
    assert WorkerSettings.from_env({"REMOTE_CONTROL": "true"}).remote_control
    with pytest.raises(InvalidSettings, match="REMOTE_CONTROL"):
        WorkerSettings.from_env({"REMOTE_CONTROL": "perhaps"})
