"""Measure planning and finalizing a job of 100,000 Parquet files of 10 rows, in a directory.

Claims: planning and finalizing take at most 60 s each, and meanwhile a process takes at most 400 MB of memory.
"""

from __future__ import annotations

import argparse
import io
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pyarrow.parquet as pq

from benchmarks import work
from benchmarks.byhand import forget_peak, peak_mb
from benchmarks.measure import positive, record_figure
from benchmarks.stand import Stand
from scoreline.storage import keys
from scoreline.storage.objects.base import exists

FILES, ROWS, LIMIT_S, LIMIT_MB = 100_000, 10, 60.0, 400.0
_DIFFERENT = 100
"""Number of different files; the others are copies, because encoding 100,000 files would take longer than the job."""
_POLL_S = 0.02


def put_files(folder: Path, files: int) -> None:
    """Write Parquet files into a folder of the directory store."""
    random, bodies = np.random.default_rng(5), []
    for number in range(_DIFFERENT):
        sink = io.BytesIO()
        pq.write_table(work.numbers(random, ROWS, number * ROWS), sink)
        bodies.append(sink.getvalue())
    folder.mkdir(parents=True)
    for number in range(files):
        (folder / f"{number:06}.parquet").write_bytes(bodies[number % _DIFFERENT])


def timed(done: Callable[[], bool], pool: list[psutil.Process]) -> tuple[float, float]:
    """Wait until `done` returns true. Return the elapsed seconds, and the largest memory of a process in MB."""
    for process in pool:
        forget_peak(process.pid)
    begun = time.perf_counter()
    while not done():
        time.sleep(_POLL_S)
    return time.perf_counter() - begun, max(peak_mb(process.pid) for process in pool)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=positive, default=FILES)
    asked = parser.parse_args()
    random = np.random.default_rng(3)
    with Stand(Path(".scoreline")) as stand:
        stand.publish("logistic", work.logistic(random))
        stand.warm("logistic", work.numbers(random, 1_000), work.COLUMNS)
        put_files(Path(stand.environ["STORE_DIR"]) / stand.environ["R2_BUCKET"] / "in", asked.files)
        pool = stand.pool()
        job = stand.client.submit("logistic@bench", stand.store.uri("in/"), features=work.COLUMNS)

        def is_scored() -> bool:
            status = stand.client.status(job.job_id)
            return status.ended or 0 < status.parts <= status.parts_done

        planned = timed(lambda: exists(stand.store, keys.plan(job.job_id)), pool)
        scored = timed(is_scored, pool)
        finalized = timed(lambda: exists(stand.store, keys.outcome(job.job_id)), pool)
        status = stand.client.status(job.job_id)
        if status.state != "succeeded" or status.rows != asked.files * ROWS:
            raise SystemExit(f"{job.job_id}: {status.state} {status.error}, {status.rows} rows")
    record_figure("many_files-plan", f"s to plan {asked.files:,} files of 10 rows", [planned[0]], LIMIT_S)
    record_figure("many_files-plan-memory", "MB of a process meanwhile", [planned[1]], LIMIT_MB)
    record_figure("many_files-score", "s to score them", [scored[0]])
    record_figure("many_files-finalize", "s to finalize them", [finalized[0]], LIMIT_S)
    record_figure("many_files-finalize-memory", "MB of a process meanwhile", [finalized[1]], LIMIT_MB)


if __name__ == "__main__":
    main()
