"""Compare the peak private memory of a worker process in a job of 40 million rows and in a job of 2 million rows.

Claim: the larger of the two peaks is at most 1.05 times the smaller one. The model is a logistic regression. The
anonymous memory of each pool process is sampled every 2 ms. At the end, the pool must still have the same processes.
Each job has a fresh worker, which first scores 2 million rows, so that the pace of the model is known.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path

import pyarrow.parquet as pq

from benchmarks import work
from benchmarks.measure import RESULTS, PeakMemory, positive, record_figure, table
from benchmarks.stand import Stand

ROWS, LIMIT = 2_000_000, 1.05


def peak(folder: Path, times: int) -> float:
    """Score the same rows `times` times, and return the largest memory of a process in MiB."""
    features = work.columns("logistic")[1:]
    with Stand(Path(".scoreline")) as stand:
        stand.publish("logistic", work.load(folder, "logistic"))
        files = work.inputs(folder, "logistic")
        stand.warm("logistic", pq.read_table(files[0]), features)
        for number in range(times):
            for file in files:
                stand.store.put(f"in/{number:02}/{file.name}", file.read_bytes())
        stand.score("logistic", "in/00/", features=features)
        pool = stand.pool()
        with PeakMemory(*(process.pid for process in pool)) as memory:
            done = stand.score("logistic", "in/", features=features)
        if set(stand.pool()) != set(pool):
            raise RuntimeError("a process of the pool was replaced: its memory is not all that was used")
        print(f"{done.rows:,} rows in {done.seconds:.1f} s: {memory.peak / (1 << 20):.0f} MiB", flush=True)
        return memory.peak / (1 << 20)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--times", type=positive, nargs="+", default=[1, 5, 20], help="sizes of jobs in 2 million rows; the first is 1"
    )
    parser.add_argument("--runs", type=positive, default=3, help="jobs of each size, in turns")
    asked = parser.parse_args()
    if len(set(asked.times)) < 2:
        parser.error("--times needs two sizes, to compare them")
    folder = work.prepared(ROWS)
    took: dict[int, list[float]] = {times * ROWS: [] for times in asked.times}
    for _ in range(asked.runs):
        for times in asked.times:
            took[times * ROWS].append(peak(folder, times))
    medians = {rows: statistics.median(found) for rows, found in took.items()}
    RESULTS.mkdir(parents=True, exist_ok=True)
    text = {"what": "private memory (anonymous) of a worker process", "MiB by rows": medians, "runs": took}
    (RESULTS / "memory-by-rows.json").write_text(json.dumps(text, indent=1) + "\n")
    table({f"MiB of private memory (anonymous), {rows:,} rows": found for rows, found in took.items()})
    first, last = min(took), max(took)
    ratios = [more / less for more, less in zip(took[last], took[first], strict=True)]
    print()
    record_figure("memory", f"peak of private memory (anonymous), {last:,} rows / {first:,}", ratios, LIMIT)


if __name__ == "__main__":
    main()
