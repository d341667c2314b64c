"""Measure the time between submitting a job and its first scored part, with 1,000 rows and a model in memory.

Claim: the part's object is in the bucket at most 150 ms after the job is submitted.
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np

from benchmarks import work
from benchmarks.measure import no_options, record_figure
from benchmarks.stand import Stand
from scoreline.storage import keys
from scoreline.storage.objects.base import exists
from scoreline.tasks.job.uris import parse_uri

ROWS, RUNS, LIMIT_MS = 1_000, 15, 150.0


def main() -> None:
    """Measure and print."""
    no_options(__doc__)
    random = np.random.default_rng(3)
    table = work.numbers(random, ROWS)
    took = []
    with Stand(Path(".scoreline")) as stand:
        stand.publish("logistic", work.logistic(random))
        stand.warm("logistic", table, work.COLUMNS)
        stand.put("in/small.parquet", table)
        for _ in range(RUNS):
            begun = time.perf_counter()
            job = stand.client.submit("logistic@bench", stand.store.uri("in/small.parquet"), features=work.COLUMNS)
            part = keys.result_part(parse_uri(job.output)[1], 0)
            while not exists(stand.store, part):
                time.sleep(0.001)
            took.append(1e3 * (time.perf_counter() - begun))
            while not stand.client.status(job.job_id).ended:
                time.sleep(0.01)
    record_figure("first_part", "ms from submit to the first scored part", took, LIMIT_MS)


if __name__ == "__main__":
    main()
