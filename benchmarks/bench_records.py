"""Measure small jobs of records: requests to the store, seconds until the answer, and jobs a second.

Claims, for jobs of one row: a worker needs at most 8 requests to the store, of which at most 2 are sent one after
another before the answer. On an idle system, an application waits 60 ms (median) with the embedded S3 server, and
250 ms if each read takes 30 ms and each write 80 ms. A worker of two processes answers 60 jobs a second of an
application with 32 threads.
"""

from __future__ import annotations

import argparse
import contextlib
import resource
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd
import psutil
from sklearn.linear_model import LinearRegression

from benchmarks.measure import positive, record_figure
from benchmarks.slow_store import Request, SlowStore
from scoreline.storage.models.manager import ModelStorageManager
from scoreline.tasks.client import Client
from scoreline.worker.dev.stack import Stack

READ_S, WRITE_S = 0.03, 0.08
THREADS, PROCESSES = 32, 2
MOST_REQUESTS, MOST_BEFORE = 8, 2
MOST_S = {"embedded": 0.060, "slow": 0.250}
LEAST_PER_S = 60
ROW = [{"x": 1.0}]
_APPLICATION, _WORKER = "application", "worker"
_WARM = 12
"""Number of jobs before the measurement, so that each process has loaded the model."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=positive, default=40, help="jobs that are submitted one after another")
    parser.add_argument("--many", type=positive, default=600, help="jobs that are submitted by many threads")
    given = parser.parse_args()
    with SlowStore(delay_s=READ_S, write_delay_s=WRITE_S) as slow, _running(slow) as (client, _):
        seconds = _one_by_one(client, given.jobs)
        name = f"s until the answer, each read {READ_S:.2f} s and each write {WRITE_S:.2f} s"
        record_figure("records-slow", name, seconds, MOST_S["slow"])
        everything, before, own = _requests(client, slow)
        record_figure("records-requests", "requests of the worker for a job of one row", [everything], MOST_REQUESTS)
        record_figure("records-before", "requests one after another before the answer", [before], MOST_BEFORE)
        print(f"requests of the application: {own}")
    with _running(None) as (client, stack):
        record_figure(
            "records-idle", "s until the answer, S3 server", _one_by_one(client, given.jobs), MOST_S["embedded"]
        )
        before_s = _cpu_s(stack)
        rate = _many(client, given.many)
        used = {name: 1000 * (after - before_s[name]) / given.many for name, after in _cpu_s(stack).items()}
        record_figure("records-rate", f"jobs a second, {THREADS} threads, {PROCESSES} processes", [rate], -LEAST_PER_S)
        print("CPU ms a job: " + ", ".join(f"{name} {ms:.1f}" for name, ms in used.items()))


@contextlib.contextmanager
def _running(slow: SlowStore | None) -> Iterator[tuple[Client, Stack]]:
    """Run a worker, and yield a client that has its answers ready."""
    with tempfile.TemporaryDirectory(dir=".scoreline"), Stack(Path(".scoreline")) as stack:
        if slow is not None:
            stack.environ |= {"R2_ENDPOINT_URL": slow.endpoint, "R2_ACCESS_KEY_ID": _WORKER}
        ModelStorageManager.from_env(stack.environ).publish(
            "line", LinearRegression().fit(pd.DataFrame({"x": [0.0, 1.0]}), [0.0, 1.0]), alias="champion"
        )
        stack.start_worker(PROCESSES)
        client = Client.from_env(stack.environ | ({"R2_ACCESS_KEY_ID": _APPLICATION} if slow is not None else {}))
        with ThreadPoolExecutor(2 * PROCESSES) as pool:
            list(pool.map(lambda _: _score(client), range(_WARM)))
        yield client, stack


def _score(client: Client) -> float:
    begun = time.perf_counter()
    (scored,) = client.submit_records("line@champion", ROW).wait(timeout_s=60)
    assert abs(scored["prediction"] - 1.0) < 1e-9
    return time.perf_counter() - begun


def _one_by_one(client: Client, jobs: int) -> Sequence[float]:
    """Return the seconds until each of some jobs was answered, with a pause after each job."""
    seconds = []
    for _ in range(jobs):
        time.sleep(0.4 if jobs else 0)
        seconds.append(_score(client))
    return seconds


def _many(client: Client, jobs: int) -> float:
    """Return the jobs a second that many threads get answered."""
    begun = time.perf_counter()
    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(lambda _: _score(client), range(jobs)))
    return jobs / (time.perf_counter() - begun)


def _requests(client: Client, slow: SlowStore) -> tuple[int, int, int]:
    """Return counts for a job: a worker's requests, those in sequence before the answer, and the application's."""
    time.sleep(2)
    known = len(slow.log())
    _score(client)
    answered = time.monotonic()
    time.sleep(2)
    new = slow.log()[known:]
    mine = [seen for seen in new if seen.who == _WORKER]
    for seen in new:
        print(
            f"{seen.begun - new[0].begun:6.3f} {seen.ended - new[0].begun:6.3f} {seen.who:11} {seen.method} {seen.name}"
        )
    return len(mine), _longest_chain([seen for seen in mine if seen.ended < answered]), len(new) - len(mine)


def _longest_chain(seen: Sequence[Request]) -> int:
    """Return the maximum number of requests each of which began after the one before it had ended."""
    count, end = 0, float("-inf")
    for request in sorted(seen, key=lambda request: request.ended):
        if request.begun >= end:
            count, end = count + 1, request.ended
    return count


def _cpu_s(stack: Stack) -> Mapping[str, float]:
    """Return the CPU seconds of the application, and of the services by name."""
    found = {"application": sum(resource.getrusage(resource.RUSAGE_SELF)[:2])}
    for pid in stack.guard_pids():
        for process in psutil.Process(pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                line = " ".join(process.cmdline())
                name = next((name for name in ("celery", "valkey", "dev.s3") if name in line), "other")
                found[name] = found.get(name, 0.0) + sum(process.cpu_times()[:2])
    return found


if __name__ == "__main__":
    main()
