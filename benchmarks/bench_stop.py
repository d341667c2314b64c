"""Measure how long a dyno takes to stop while each of its processes scores a part that does not end.

The benchmark sends SIGTERM to every process at once, as Heroku does. Claim: all processes have ended 25 s after
SIGTERM, because Heroku kills a dyno 30 s after SIGTERM. Afterwards, all parts of the worker must be back in the queue.
"""

from __future__ import annotations

import contextlib
import signal
import time
from pathlib import Path

import numpy as np
import psutil

from benchmarks import work
from benchmarks.measure import no_options, record_figure
from benchmarks.stand import Stand
from scoreline.worker.settings import DEFAULT_SOFT_SHUTDOWN_S

PROCESSES, ROWS, RUNS, LIMIT_S, PATIENCE_S = 2, 2_000, 3, 25.0, 120.0
SETTINGS = {"SOFT_SHUTDOWN_SECONDS": str(DEFAULT_SOFT_SHUTDOWN_S)}


def main() -> None:
    """Measure and print."""
    no_options(__doc__)
    record_figure("stop", "s from SIGTERM to the end of a worker's processes", [_stop() for _ in range(RUNS)], LIMIT_S)


def _stop() -> float:
    random = np.random.default_rng(3)
    table = work.numbers(random, PROCESSES * ROWS)
    with Stand(Path(".scoreline"), processes=PROCESSES, settings=SETTINGS) as stand:
        stand.publish("endless", work.Endless().fit(table.select(work.COLUMNS).to_pandas()))
        stand.put("in/rows.parquet", table, row_group_size=ROWS)
        job = stand.client.submit(
            "endless@bench", stand.store.uri("in/rows.parquet"), part_rows=ROWS, features=work.COLUMNS
        )
        wait_until_started(stand, job.job_id)
        processes = [stand.parent(), *stand.pool()]
        begun = time.perf_counter()
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGTERM)
        if psutil.wait_procs(processes, PATIENCE_S)[1]:
            raise RuntimeError(f"a process has not ended {PATIENCE_S:g} s after SIGTERM")
        took = time.perf_counter() - begun
        if stand.held_messages():
            raise RuntimeError("the worker has ended, but its parts are not back in the queue")
        return took


def wait_until_started(stand: Stand, job_id: str) -> None:
    """Wait until each process has begun a part."""
    deadline = time.monotonic() + PATIENCE_S
    while stand.held_messages() < PROCESSES or stand.client.status(job_id).state != "running":
        if time.monotonic() > deadline:
            raise RuntimeError(f"no part has begun after {PATIENCE_S:g} s: {stand.client.status(job_id)}")
        time.sleep(0.05)


if __name__ == "__main__":
    main()
