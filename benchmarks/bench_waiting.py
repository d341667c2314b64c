"""Measure how long records wait while all processes are busy with long parts.

Claims: a job of 5 records that is submitted behind 10 large jobs, whose parts take 20 s each, is answered within 0.5 s
by a worker of two processes, and within 1 s by a worker of one process (medians). Of 20 such jobs, 19 are answered
within twice that time. The same is measured for an application that knows only Celery and sends the records in
`scoreline.score_records`, or a job in `scoreline.submit`: within 1 s, or 2 s for 19 of 20. The model of the large jobs
keeps a processor busy. The store is the embedded S3 server, or a directory with `--directory`.
"""

from __future__ import annotations

import argparse
import io
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from celery import Celery
from sklearn.linear_model import LinearRegression

from benchmarks.busy import Busy
from benchmarks.measure import positive, record_figure
from scoreline.storage.models.manager import ModelStorageManager
from scoreline.tasks.client import Client
from scoreline.tasks.dispatch.queue_names import QueueNames
from scoreline.worker.dev.stack import Stack

JOBS, PART_ROWS, PART_S = 10, 200_000, 20.0
RECORDS = [{"x": float(number)} for number in range(5)]
MOST_S = {2: 0.5, 1: 1.0}
"""Maximum median of the seconds until records are answered, by the number of processes."""
MOST_ELSEWHERE_S = 1.0
"""The same for an application that knows only Celery."""
KINDS = {
    "records": "5 records are answered",
    "message": "5 records in a message of another application are answered",
    "submit": "another application is answered that submits a job",
}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--directory", action="store_true", help="use a directory store instead of the S3 server")
    parser.add_argument(
        "--processes", type=int, nargs="+", choices=sorted(MOST_S), default=sorted(MOST_S, reverse=True)
    )
    parser.add_argument("--jobs", type=positive, default=20, help="jobs of records for each number of processes")
    given = parser.parse_args()
    for processes in given.processes:
        for kind, seconds in measure(processes, given.jobs, directory=given.directory).items():
            most_s = MOST_S[processes] if kind == "records" else MOST_ELSEWHERE_S
            what = f"s until {KINDS[kind]} behind {JOBS} jobs with parts of {PART_S:.0f} s, {processes} "
            what += "process" if processes == 1 else "processes"
            name = f"waiting-{processes}" if kind == "records" else f"waiting-{kind}-{processes}"
            record_figure(name, what, seconds, most_s)
            slowest = sorted(seconds)[int(0.95 * (len(seconds) - 1))]
            record_figure(f"{name}-p95", f"{what}, 95th percentile", [slowest], 2 * most_s)


def measure(processes: int, jobs: int, *, directory: bool) -> dict[str, Sequence[float]]:
    """Return the seconds until each request was answered, by its kind."""
    with tempfile.TemporaryDirectory(dir=".scoreline") as folder, Stack(Path(".scoreline")) as stack:
        environ = dict(stack.environ)
        if directory:
            environ |= {"ENVIRONMENT": "development", "STORE_DIR": folder}
        client = Client.from_env(environ)
        known = pd.DataFrame({"x": [0.0, 1.0]})
        for name, model in (
            ("busy", Busy(PART_S / PART_ROWS).fit(known)),
            ("line", LinearRegression().fit(known, [0.0, 1.0])),
        ):
            ModelStorageManager.from_env(environ).publish(name, model)
        sink = io.BytesIO()
        pq.write_table(pa.table({"x": np.zeros(PART_ROWS)}), sink)
        client.buckets.main.put("in/large.parquet", sink.getvalue())
        stack.start_worker(processes, environ)
        client.submit_records("line", RECORDS).wait(timeout_s=60)
        large = [client.submit("busy", client.buckets.main.uri("in/large.parquet")) for _ in range(JOBS)]
        while sum(client.status(job.job_id).rows > 0 or _begun(client, job.job_id) for job in large) < processes:
            time.sleep(0.05)
        url = environ["REDIS_URL"]
        elsewhere = Celery(broker=url, backend=url, set_as_current=False)
        elsewhere.conf.task_default_queue = QueueNames.of(client.buckets.main.bucket).jobs
        small = client.buckets.main.uri("in/small.csv")
        client.buckets.main.put("in/small.csv", b"x\n1\n")
        asked: dict[str, Callable[[], object]] = {
            "records": lambda: client.submit_records("line", RECORDS).wait(timeout_s=600),
            "message": lambda: elsewhere.send_task(
                "scoreline.score_records", kwargs={"model": "line", "records": RECORDS}
            ).get(timeout=600),
            "submit": lambda: elsewhere.send_task("scoreline.submit", ["line", small]).get(timeout=600),
        }
        seconds: dict[str, list[float]] = {kind: [] for kind in asked}
        for _ in range(jobs):
            for kind, ask in asked.items():
                time.sleep(0.3)
                begun = time.perf_counter()
                ask()
                seconds[kind].append(time.perf_counter() - begun)
        elsewhere.close()
        assert not all(client.status(job.job_id).ended for job in large)
        for job in large:
            client.cancel(job.job_id)
    return {kind: tuple(of_kind) for kind, of_kind in seconds.items()}


def _begun(client: Client, job_id: str) -> bool:
    progress = client.ledger.progress(job_id)
    return progress is not None and progress.rows_under_way > 0


if __name__ == "__main__":
    main()
