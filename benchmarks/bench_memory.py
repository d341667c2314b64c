"""Peak memory of a worker process, 40 million rows against 2 million, scaler and logistic regression.

Claim: at most 1.05 times. Private memory (anonymous) of each process of the pool, sampled every 5 ms; a fresh worker
for each job, and a job of 2 million rows before it, so that the pace is known in each case.
"""

from __future__ import annotations

import argparse
import json
import threading
from pathlib import Path

import psutil
import pyarrow.parquet as pq

from benchmarks import work
from benchmarks.measure import RESULTS, private_bytes, told
from benchmarks.stand import Stand

ROWS, LIMIT = 2_000_000, 1.05


def peak(folder: Path, times: int) -> float:
    """Return the highest memory of a process, in MiB, while `times` the rows are scored."""
    features = work.columns("logistic")[1:]
    with Stand(Path(".scoreline")) as stand:
        stand.publish("logistic", work.load(folder, "logistic"))
        files = work.inputs(folder, "logistic")
        stand.warm("logistic", pq.read_table(files[0]), features)
        for number in range(times):
            for file in files:
                stand.store.put(f"in/{number:02}/{file.name}", file.read_bytes())
        stand.score("logistic", "in/00/", features=features)
        pids, over, most = [item.pid for item in stand.pool()], threading.Event(), 0

        def sample() -> None:
            nonlocal most
            while not over.wait(0.005):
                for pid in pids:
                    try:
                        most = max(most, private_bytes(pid))
                    except psutil.NoSuchProcess:
                        continue

        thread = threading.Thread(target=sample)
        thread.start()
        try:
            done = stand.score("logistic", "in/", features=features)
        finally:
            over.set()
            thread.join()
        print(f"{done.rows:,} rows in {done.seconds:.1f} s: {most / (1 << 20):.0f} MiB", flush=True)
        return most / (1 << 20)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, nargs="+", default=[1, 5, 20], help="times 2 million rows, the first is 1")
    asked = parser.parse_args()
    folder = work.prepared(ROWS)
    took = {times * ROWS: peak(folder, times) for times in asked.times}
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "memory-by-rows.json").write_text(json.dumps({"MiB by rows": took}, indent=1) + "\n")
    rows = list(took)
    told("memory", f"peak of {rows[-1]:,} rows / {rows[0]:,}", [took[rows[-1]] / took[rows[0]]], LIMIT)


if __name__ == "__main__":
    main()
