"""Measure what a small part costs, in a job of 1,000 parts of 1,000 rows with a logistic regression and two processes.

Claim: a part takes at most 12 ms of the time of a worker process, including the scoring of its rows. The CPU time of
the worker is shown too, for machines that have other work.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmarks import work
from benchmarks.measure import no_options, record_figure, table
from benchmarks.stand import Stand

PARTS, ROWS, RUNS, PROCESSES, LIMIT_MS = 1_000, 1_000, 3, 2, 12.0


def main() -> None:
    """Measure and print."""
    no_options(__doc__)
    random = np.random.default_rng(3)
    rows = work.numbers(random, PARTS * ROWS)
    seconds: list[float] = []
    cpu: list[float] = []
    with Stand(Path(".scoreline"), processes=PROCESSES) as stand:
        stand.publish("logistic", work.logistic(random))
        stand.warm("logistic", rows, work.COLUMNS)
        stand.put("in/many.parquet", rows, row_group_size=ROWS)
        for _ in range(RUNS):
            before = stand.worker_cpu()
            done = stand.score("logistic", "in/many.parquet", part_rows=ROWS, features=work.COLUMNS)
            cpu.append(stand.worker_cpu() - before)
            seconds.append(done.seconds or 0.0)
    table({"ms of CPU time of the worker for each part": [1e3 * s / PARTS for s in cpu]})
    print()
    record_figure(
        "small_parts",
        "ms of process time for each part of 1,000 rows",
        [1e3 * PROCESSES * s / PARTS for s in seconds],
        LIMIT_MS,
    )


if __name__ == "__main__":
    main()
