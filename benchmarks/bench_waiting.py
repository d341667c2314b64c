"""Measure how long records wait while all processes are busy with long parts.

Claims: a job of 5 records that is submitted behind 10 large jobs, whose parts take 20 s each, is answered within 0.5 s
by a worker of two processes, and within 1 s by a worker of one process (medians). Of 20 such jobs, 19 are answered
within twice that time. The model of the large jobs keeps a processor busy. The store is the embedded S3 server, or a
directory with `--directory`.
"""

from __future__ import annotations

import argparse
import io
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from sklearn.linear_model import LinearRegression

from benchmarks.busy import Busy
from benchmarks.measure import positive, record_figure
from scoreline.storage.models.manager import ModelStorageManager
from scoreline.tasks.client import Client
from scoreline.worker.dev.stack import Stack

JOBS, PART_ROWS, PART_S = 10, 200_000, 20.0
RECORDS = [{"x": float(number)} for number in range(5)]
MOST_S = {2: 0.5, 1: 1.0}
"""Maximum median of the seconds until records are answered, by the number of processes."""


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
        seconds = measure(processes, given.jobs, directory=given.directory)
        what = f"s until 5 records are answered behind {JOBS} jobs with parts of {PART_S:.0f} s, {processes} "
        what += "process" if processes == 1 else "processes"
        record_figure(f"waiting-{processes}", what, seconds, MOST_S[processes])
        slowest = sorted(seconds)[int(0.95 * (len(seconds) - 1))]
        record_figure(f"waiting-{processes}-p95", f"{what}, 95th percentile", [slowest], 2 * MOST_S[processes])


def measure(processes: int, jobs: int, *, directory: bool) -> Sequence[float]:
    """Return the seconds until each job of records was answered."""
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
        seconds = []
        for _ in range(jobs):
            time.sleep(0.3)
            begun = time.perf_counter()
            client.submit_records("line", RECORDS).wait(timeout_s=600)
            seconds.append(time.perf_counter() - begun)
        assert not all(client.status(job.job_id).ended for job in large)
        for job in large:
            client.cancel(job.job_id)
    return seconds


def _begun(client: Client, job_id: str) -> bool:
    progress = client.ledger.progress(job_id)
    return progress is not None and progress.rows_under_way > 0


if __name__ == "__main__":
    main()
