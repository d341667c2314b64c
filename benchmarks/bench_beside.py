"""Measure what a large job loses while small jobs of records are done between its batches.

Claim: 20 jobs of 5 records a second cost a large job at most 5% of its throughput besides their own work. The own work
of both is what a worker needs for each of them alone. All is measured in CPU seconds of the worker, so that other
programs on the machine hardly change the figure: the model of the large job uses a fixed amount of CPU for each row.
The store is the embedded S3 server, or a directory with `--directory`. A run takes about two minutes.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
from sklearn.linear_model import LinearRegression

from benchmarks.busy import Burning
from benchmarks.measure import positive, record_figure
from scoreline.storage.models.manager import ModelStorageManager
from scoreline.tasks.client import Client
from scoreline.worker.dev.stack import Stack

PROCESSES, JOBS_PER_S = 2, 20
ROW_S, PART_ROWS, PARTS = 0.0001, 200_000, 40
RECORDS = [{"x": float(number)} for number in range(5)]
THREADS = 32
MOST = 0.05


@dataclass(frozen=True, kw_only=True)
class Work:
    """What a worker has done in a span of time."""

    cpu_s: float
    rows: int
    """Rows of the large job."""
    jobs: int
    """Jobs of records."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--directory", action="store_true", help="use a directory store instead of the S3 server")
    parser.add_argument("--seconds", type=positive, default=25, help="seconds of each of the three measurements")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=".scoreline") as folder, Stack(Path(".scoreline")) as stack:
        environ = dict(stack.environ)
        if given.directory:
            environ |= {"ENVIRONMENT": "development", "STORE_DIR": folder}
        client = Client.from_env(environ)
        models, known = ModelStorageManager.from_env(environ), pd.DataFrame({"x": [0.0, 1.0]})
        models.publish("burning", Burning(ROW_S).fit(known))
        models.publish("line", LinearRegression().fit(known, [0.0, 1.0]))
        sink = io.BytesIO()
        table = pa.table({"x": np.zeros(PART_ROWS)})
        with pq.ParquetWriter(sink, table.schema) as writer:
            for _ in range(PARTS):
                writer.write_table(table)
        client.buckets.main.put("in/large.parquet", sink.getvalue())
        stack.start_worker(PROCESSES, environ)
        with ThreadPoolExecutor(2 * PROCESSES) as pool:  # each process loads the model
            list(pool.map(lambda _: _score(client), range(6 * PROCESSES)))
        with _records(client) as done:
            small = _measure(client, stack, None, done, given.seconds)
        large = client.submit("burning", client.buckets.main.uri("in/large.parquet"), part_rows=PART_ROWS).job_id
        while _rows(client, large) < PROCESSES * PART_ROWS // 10:
            time.sleep(0.1)
        alone = _measure(client, stack, large, [], given.seconds)
        with _records(client) as done:
            both = _measure(client, stack, large, done, given.seconds)
        client.cancel(large)
    own = both.rows * alone.cpu_s / alone.rows + both.jobs * small.cpu_s / small.jobs
    for name, work in (("records alone", small), ("large job alone", alone), ("both", both)):
        print(f"{name}: {work.cpu_s:.2f} CPU s, {work.rows:,} rows, {work.jobs} jobs of records")
    print(f"CPU ms for a job of records: {1000 * small.cpu_s / small.jobs:.1f} alone", flush=True)
    record_figure(
        "beside",
        f"share of the worker's CPU that {JOBS_PER_S} jobs of records a second cost a large job besides their own work",
        [1 - own / both.cpu_s],
        MOST,
    )


def _measure(client: Client, stack: Stack, large: str | None, done: list[Future[None]], seconds: float) -> Work:
    """Return what the worker does in some seconds."""
    time.sleep(2)
    cpu_s, rows, jobs = _cpu_s(stack), _rows(client, large), _ended(done)
    time.sleep(seconds)
    return Work(cpu_s=_cpu_s(stack) - cpu_s, rows=_rows(client, large) - rows, jobs=_ended(done) - jobs)


@contextlib.contextmanager
def _records(client: Client) -> Iterator[list[Future[None]]]:
    """Submit jobs of records at a steady rate while the block runs. Yield them."""
    found: list[Future[None]] = []
    stop = threading.Event()
    with ThreadPoolExecutor(THREADS, thread_name_prefix="application") as pool:

        def submit() -> None:
            begun = time.monotonic()
            for number in range(1_000_000):
                if stop.wait(max(0.0, begun + number / JOBS_PER_S - time.monotonic())):
                    return
                found.append(pool.submit(_score, client))

        thread = threading.Thread(target=submit, name="clock")
        thread.start()
        try:
            yield found
        finally:
            stop.set()
            thread.join()
    for job in found:
        job.result()


def _score(client: Client) -> None:
    scored = client.submit_records("line", RECORDS).wait(timeout_s=120)
    assert len(list(scored)) == len(RECORDS)


def _ended(jobs: list[Future[None]]) -> int:
    return sum(job.done() for job in tuple(jobs))


def _rows(client: Client, job_id: str | None) -> int:
    """Return the rows that are scored, with those of parts under way."""
    progress = None if job_id is None else client.ledger.progress(job_id)
    return 0 if progress is None else progress.rows + progress.rows_under_way


def _cpu_s(stack: Stack) -> float:
    """Return the CPU seconds of the worker."""
    used = 0.0
    for pid in stack.guard_pids():
        for process in psutil.Process(pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                if "celery" in " ".join(process.cmdline()):
                    used += sum(process.cpu_times()[:2])
    return used


if __name__ == "__main__":
    main()
