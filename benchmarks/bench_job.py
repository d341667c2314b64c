"""A job through two worker processes, submit to outcome, against the same bundle called in one process without any I/O.

Prints one table: median and spread of several runs, alternating. A ratio below 1 means that two processes make up for
reading, queueing and writing.
"""

from __future__ import annotations

import statistics
import time
from pathlib import Path

import numpy as np

from storage.models.manager import ModelStorageManager
from tasks.client import Client
from worker.dev import demo
from worker.dev.stack import Stack

ROWS = 1_000_000
RUNS = 5


def main() -> None:
    """Measure and print."""
    with Stack(Path(".scoreline")) as stack:
        client = Client.from_env(stack.environ)
        models = ModelStorageManager.from_env(stack.environ)
        _, held_out = demo.train_and_publish(models)
        demo.upload(client.buckets.main, held_out, ROWS)
        stack.start_worker(2)
        bundle = models.load(demo.NAME)
        x = held_out[list(bundle.manifest.feature_names or ())]
        x = x.iloc[np.random.default_rng(0).integers(0, len(x), ROWS)]
        jobs, calls = [], []
        for run in range(RUNS + 1):
            job = client.submit(f"{demo.NAME}@champion", client.buckets.main.uri(demo.INPUT))
            last = list(client.watch(job.job_id))[-1]
            started = time.perf_counter()
            for start in range(0, ROWS, 65_536):
                scaled = bundle.prepare(x[start : start + 65_536])
                bundle.models["model"].predict(scaled)
                bundle.models["model"].predict_proba(scaled)
            if run:  # the first warms up
                jobs.append(last.seconds)
                calls.append(time.perf_counter() - started)
    ratios = [job / call for job, call in zip(jobs, calls, strict=True)]
    print("| | median | min | max |\n|---|---|---|---|")
    for name, values in (("job, 2 processes (s)", jobs), ("one process, no I/O (s)", calls), ("ratio", ratios)):
        print(f"| {name} | {statistics.median(values):.2f} | {min(values):.2f} | {max(values):.2f} |")


if __name__ == "__main__":
    main()
