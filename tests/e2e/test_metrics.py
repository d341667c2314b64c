"""Tests that ``scoreline metrics`` counts jobs, rows, parts and loads correctly."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from scoreline.storage import keys
from scoreline.storage.models.manager import ModelStorageManager
from scoreline.storage.models.manifest import Manifest
from scoreline.storage.objects.base import ObjectStore
from scoreline.tasks.client import Client
from scoreline.tasks.dispatch.queue_names import QueueNames
from scoreline.tasks.job.documents import Status
from scoreline.tasks.schedules.scheduler import Scheduler
from scoreline.worker.dev.stack import ROOT, Stack
from scoreline.worker.metrics import Deployment
from tests.conftest import SCORELINE
from tests.support.estimators import Staged
from tests.support.inspecting import ask
from tests.support.waiting import HANG_S, wait_until

Cli = Callable[..., subprocess.CompletedProcess[str]]
Put = Callable[..., str]
Samples = dict[tuple[str, ...], float]


def parsed(text: str) -> Samples:
    """Return the values of metrics by name and labels, and check that every metric is documented."""
    found: Samples = {}
    for family in text_string_to_metric_families(text):
        assert family.documentation.endswith(".")
        assert family.name.startswith("scoreline_")
        for sample in family.samples:
            labels = [f"{name}={value}" for name, value in sorted(sample.labels.items())]
            assert found.setdefault((sample.name, *labels), sample.value) == sample.value
    return found


def scrape(client: Client) -> Samples:
    return parsed(generate_latest(Deployment(client).registry()).decode())


def counters_of(samples: Samples) -> Samples:
    return {key: value for key, value in samples.items() if key[0].endswith(("_total", "_count", "_sum", "_bucket"))}


def total(samples: Samples, name: str) -> float:
    """Sum a metric over all workers."""
    return sum(value for key, value in samples.items() if key[0] == name and key[1].startswith("worker="))


def ended(client: Client, job: Status) -> Status:
    return list(client.watch(job.job_id, timeout_s=HANG_S))[-1]


def wait_until_idle(client: Client) -> None:
    """Wait until the jobs of other tests have ended; a job always has a message in the queue or with a worker."""

    def is_idle() -> bool:
        now = client.queue.backlog()
        return now.unacked == 0 and not any(now.waiting.values())

    wait_until(is_idle, "an empty queue", lambda: str(client.queue.backlog()))


def rows(put_table: Put, key: str, ids: Sequence[int]) -> str:
    frame = pd.DataFrame({"id": ids, "x": np.asarray(ids, dtype=float)})
    return put_table(key, frame, row_group_size=100)


@dataclass(frozen=True)
class Model:
    """A published model that scores nothing until the file `gate` exists, and makes `calls` longer at each call."""

    manifest: Manifest
    gate: Path
    calls: Path


@pytest.fixture
def model(stack: Stack, tmp_path: Path) -> Model:
    """A version for the test alone, which no process has loaded yet."""
    gate, calls = tmp_path / "gate", tmp_path / "calls"
    staged = Staged(refuses_from=298.0, breaks_from=1_000.0, gate=str(gate), calls=str(calls))
    staged.fit(pd.DataFrame({"x": [0.0]}))
    return Model(ModelStorageManager.from_env(stack.environ).publish("measured", staged), gate, calls)


def test_metrics_report_the_schedules_in_force_and_their_faults(client: Client, store: ObjectStore) -> None:
    text = '[nightly]\ncron = "0 2 * * *"\nmodel = "m"\ninput = "s3://scoreline/in/"\n'
    scheduler = Scheduler(client, Path("no-such-file.toml"))
    for schedules, faults in ((text, 0), (text + "[", 1)):
        store.put(keys.SCHEDULES, schedules.encode())
        scheduler.tick()
        found = scrape(client)
        assert (found["scoreline_schedules",], found["scoreline_schedule_faults",]) == (1, faults)
    store.delete(keys.SCHEDULES)
    scheduler.tick()
    assert scrape(client)["scoreline_schedule_faults",] == 0


def test_metrics_count_jobs_rows_parts_and_loads(
    worker: Stack, client: Client, model: Model, put_table: Put, cli: Cli
) -> None:
    # Given the values of the counters before the jobs
    model.gate.touch()
    wait_until_idle(client)
    before = scrape(client)
    # When a job of three parts rejects two rows, and one of the two parts of another job fails
    jobs = [
        client.submit("measured", rows(put_table, f"in/measured/{name}.parquet", ids), part_rows=100)
        for name, ids in {"partial": [*range(300)], "failed": [*range(100), *range(1_000, 1_100)]}.items()
    ]
    partial, failed = (ended(client, job) for job in jobs)
    assert [partial.state, failed.state] == ["partial", "failed"]
    assert (partial.rows, partial.rejected, failed.rows) == (298, 2, 100)
    wait_until_idle(client)  # a job is counted after its outcome is written
    # Then `scoreline metrics` reports exactly these jobs, rows and parts
    counted = client.ledger.counters.read()

    def answered() -> subprocess.CompletedProcess[str] | None:
        said = cli("metrics")
        return None if parsed(said.stdout).get(("scoreline_workers",)) == 0 else said  # a busy worker answers late

    said = wait_until(answered, "an answer of the worker")
    assert (said.returncode, said.stderr) == (0, "")
    after = parsed(said.stdout)
    more = {key: after[key] - before.get(key, 0.0) for key in counters_of(after)}
    assert more["scoreline_rows_scored_total",] == partial.rows + failed.rows
    assert more["scoreline_rows_rejected_total",] == partial.rejected
    assert [more["scoreline_parts_total", f"outcome={outcome}"] for outcome in ("scored", "failed")] == [4, 1]
    assert {key[1]: more[key] for key in more if key[0] == "scoreline_jobs_total"} == {
        "state=succeeded": 0,
        "state=partial": 1,
        "state=failed": 1,
        "state=cancelled": 0,
        "state=blocked": 0,
    }
    # And `scoreline metrics` reports how long parts and loads of models took
    buckets = [more[key] for key in more if key[0] == "scoreline_part_duration_seconds_bucket"]
    assert (len(buckets), buckets[-1], more["scoreline_part_duration_seconds_count",]) == (13, 4, 4)
    assert buckets == sorted(buckets)
    assert 0 < more["scoreline_part_duration_seconds_sum",] < 60
    assert 1 <= more["scoreline_model_load_duration_seconds_count", "model=measured"] <= 2
    assert more["scoreline_model_load_duration_seconds_sum", "model=measured"] > 0
    # And `scoreline metrics` reports the current state of queues, workers and services
    assert total(after, "scoreline_model_cache_bytes") >= model.manifest.memory_bytes > 0
    assert total(after, "scoreline_worker_processes") == 2 * after["scoreline_workers",] > 0
    assert [after["scoreline_queue_messages", f"queue={queue}"] for queue in QueueNames.of("scoreline").read] == [0] * 6
    assert after["scoreline_redis_memory_bytes",] > 100_000
    assert {key[1]: after[key] for key in after if key[0] == "scoreline_up"} == {
        "service=redis": 1,
        "service=bucket": 1,
        "service=broker": 1,
    }
    # And `scoreline metrics` has changed no counter
    assert client.ledger.counters.read() == counted


def test_running_parts_are_visible_to_inspect_and_in_metrics(
    worker: Stack, client: Client, model: Model, store: ObjectStore, put_table: Put
) -> None:
    def under_way() -> tuple[int | None, int]:
        now = client.queue.backlog()
        return now.unacked, now.waiting["scoreline.parts.scoreline"]

    # Given two processes that each score a part, and one part that waits
    wait_until_idle(client)
    job = client.submit("measured", rows(put_table, "in/gated.parquet", range(298)), part_rows=100)
    try:
        wait_until(lambda: model.calls.exists() and model.calls.stat().st_size == 2, "two parts at the gate")
        wait_until(lambda: under_way() == (2, 1), "two parts under way, and one that waits", lambda: str(under_way()))
        # When a user inspects the workers, and Prometheus scrapes the metrics
        at_work = ask(worker, "inspect", "jobs")
        now = scrape(client)
        held = {entry.key for entry in store.list(keys.JOBS_ACTIVE)}
    finally:
        model.gate.touch()
    # Then both show the same parts
    assert [(row["job_id"], row["step"], row["try"], row["redelivered"]) for row in at_work] == [
        (job.job_id, "score_part", 1, False)
    ] * 2
    assert sorted(row["part"] for row in at_work) == [0, 1]
    assert {psutil.Process(row["pid"]).ppid() for row in at_work} == {psutil.Process(at_work[0]["pid"]).ppid()}
    assert len({row["pid"] for row in at_work}) == 2
    assert all(row["seconds"] >= 0 for row in at_work)
    assert now["scoreline_unacked_messages",] == 2
    assert now["scoreline_queue_messages", "queue=scoreline.parts.scoreline"] == 1
    assert now["scoreline_unacked_oldest_seconds",] > 0
    assert now["scoreline_jobs_active",] == len(held) >= 1
    assert ended(client, job).rows == 298


def test_without_workers_and_jobs_their_numbers_are_zero_and_the_last_tick_has_a_time(own: Stack) -> None:
    client = Client.from_env(own.environ)
    client.ledger.note_tick()
    found = scrape(client)
    assert found["scoreline_workers",] == 0
    assert "scoreline_worker_processes" not in {key[0] for key in found}
    assert time.time() - 60 < found["scoreline_clock_last_tick_timestamp_seconds",] <= time.time()
    assert found["scoreline_jobs_active",] == 0


@contextlib.contextmanager
def silent_port() -> Iterator[int]:
    """The port of a server that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
        yield int(listener.getsockname()[1])


def test_a_service_that_is_down_is_reported_and_the_other_metrics_are_served(stack: Stack, cli: Cli) -> None:
    with ThreadPoolExecutor(2) as pool:
        without_redis = pool.submit(cli, "metrics", REDIS_URL="redis://:hush-hush@127.0.0.1:9/0")
        without_bucket = pool.submit(cli, "metrics", R2_ENDPOINT_URL="http://127.0.0.1:9")
    found = parsed(without_redis.result().stdout)
    assert [found["scoreline_up", f"service={name}"] for name in ("redis", "bucket", "broker")] == [0, 1, 0]
    assert "scoreline_jobs_active" in {key[0] for key in found}
    assert not counters_of(found)  # missing, not zero
    assert "metrics.unavailable service=redis" in without_redis.result().stderr
    assert "hush-hush" not in without_redis.result().stderr
    found = parsed(without_bucket.result().stdout)
    assert [found["scoreline_up", f"service={name}"] for name in ("redis", "bucket", "broker")] == [1, 0, 1]
    assert "scoreline_jobs_active" not in {key[0] for key in found}
    assert ("scoreline_rows_scored_total",) in found
    assert [done.result().returncode for done in (without_redis, without_bucket)] == [0, 0]


def test_a_service_that_does_not_answer_is_left_out_after_the_deadline(stack: Stack) -> None:
    code = (
        "from prometheus_client import generate_latest; from scoreline.tasks.client import Client; "
        "from scoreline.worker.metrics import Deployment; "
        "print(generate_latest(Deployment(Client.from_env(), deadline_s=0.5).registry()).decode())"
    )
    with silent_port() as port:
        there = {"REDIS_URL": f"redis://127.0.0.1:{port}/0", "R2_ENDPOINT_URL": f"http://127.0.0.1:{port}"}
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=stack.environ | there,
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=HANG_S,
            check=True,
        )
    assert parsed(done.stdout) == {("scoreline_up", f"service={name}"): 0 for name in ("redis", "bucket", "broker")}


@contextlib.contextmanager
def serving(stack: Stack, *arguments: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run a process that serves metrics, and yield the process and its URL."""
    server = subprocess.Popen(
        [SCORELINE, "metrics", "--serve", "0", *arguments],
        env=stack.environ | {"PATH": "/usr/bin:/bin"},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert server.stderr is not None
    with server, server.stderr:
        try:
            yield server, server.stderr.readline().split()[1]
        finally:
            server.kill()


def port_of(address: str) -> int:
    found = re.fullmatch(r"http://127\.0\.0\.1:(\d+)/metrics", address)
    assert found, address
    return int(found[1])


def test_metrics_are_served_to_several_clients_at_once_until_sigterm(stack: Stack) -> None:
    with serving(stack) as (server, address):

        def get(_: int) -> Any:
            with urllib.request.urlopen(address, timeout=HANG_S) as answer:
                return answer.headers["Content-Type"], parsed(answer.read().decode())

        # When one client opens a connection and sends nothing, and four clients send requests
        port = port_of(address)
        with socket.create_connection(("127.0.0.1", port)), ThreadPoolExecutor(4) as pool:
            answers = list(pool.map(get, range(4)))
        # Then each request is answered
        for kind, samples in answers:
            assert kind.startswith("text/plain; version=")
            assert samples["scoreline_up", "service=redis"] == 1
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(address.replace("/metrics", "/"), timeout=HANG_S)
        # And the server exits cleanly, even in the middle of a response
        with socket.create_connection(("127.0.0.1", port)) as waiting:
            waiting.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
            assert stopped(server, signal.SIGTERM) == (0, "")


def test_control_c_ends_the_server_cleanly(stack: Stack) -> None:
    with serving(stack, "--host", "localhost") as (server, address):
        assert address.startswith("http://localhost:")
        assert stopped(server, signal.SIGINT) == (0, "")


def stopped(server: subprocess.Popen[str], number: signal.Signals) -> tuple[int, str]:
    server.send_signal(number)
    assert server.stderr is not None
    return server.wait(HANG_S), server.stderr.read()


def test_a_port_that_is_in_use_is_an_error_of_one_line(cli: Cli) -> None:
    with silent_port() as port:
        done = cli("metrics", "--serve", str(port))
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert f"cannot listen on 127.0.0.1:{port}" in done.stderr
    assert os.strerror(98) in done.stderr
