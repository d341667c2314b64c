"""Compare jobs with and without a profile, and merge the profiles of ten thousand parts.

Claims: with a profile, a job takes at most 1.03 times the CPU time for a forest and for boosting, and 1.10 times for a
logistic regression, each of 20 columns. Merging 10,000 parts of 20 columns takes at most 20 s and 40 MiB.

Jobs run in this process on objects in a folder, with and without a profile in turn. The CPU time of a whole job counts:
planning, reading, scoring, writing and finalizing.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import tracemalloc
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

from benchmarks.measure import positive, record_figure
from scoreline.tasks.quality.profiles import footers
from scoreline.tasks.quality.profiles.counting import profile_of
from scoreline.tasks.steps.footer_metadata import FooterReader
from scoreline.tasks.steps.parquet_buffer import ResultsBuffer
from scoreline.testing import EagerClient, eager

ROWS, COLUMNS, RUNS = 1_000_000, 20, 5
PARTS, MERGED_ROWS = 10_000, 20_000
NAMES = [f"x{number}" for number in range(COLUMNS)]
MODELS: dict[str, tuple[Callable[[], Any], float]] = {
    "forest": (lambda: RandomForestClassifier(100, max_depth=10, random_state=0), 1.03),
    "boosting": (lambda: HistGradientBoostingClassifier(random_state=0), 1.03),
    "logistic": (lambda: LogisticRegression(), 1.10),
}


def rows_of(count: int, seed: int) -> pd.DataFrame:
    """Return rows of random numbers."""
    return pd.DataFrame(np.random.default_rng(seed).normal(size=(count, COLUMNS)), columns=NAMES)


def cpu_of_job(client: EagerClient, name: str, profile: str, number: int) -> float:
    """Return the CPU seconds of a job."""
    begun = time.process_time()
    client.submit(name, "s3://scoreline/in/", job_id=f"{name}-{profile}-{number}", profile=profile)
    return time.process_time() - begun


def measure_jobs(only: str, rows: int, runs: int) -> None:
    """Measure each model, with and without a profile in turn."""
    train = rows_of(20_000, 1)
    target = train["x0"] + train["x1"] * train["x2"] > 0
    with tempfile.TemporaryDirectory() as folder, eager(folder) as client:
        for number in range(4):
            client.put(f"in/{number}.parquet", rows_of(rows // 4, 10 + number).assign(id=range(rows // 4)))
        for name, (make, limit) in MODELS.items():
            if only not in name:
                continue
            client.models.publish(name, make().fit(train, target))
            cpu_of_job(client, name, "on", -1)
            ratios = []
            for number in range(runs):
                without = cpu_of_job(client, name, "off", number)
                ratios.append(cpu_of_job(client, name, "on", number) / without)
            about = f"CPU of a job with a profile / without: {name}, {rows:,} rows ({without:.2f} s)"
            record_figure(f"profile_{name}_{rows}", about, ratios, limit)


def measure_merge(parts: int) -> None:
    """Merge the profiles of many parts, whose objects are read from a folder."""
    texts = []
    for number in range(20):
        rows = rows_of(MERGED_ROWS, number)
        scores = pa.table({"prediction": rows["x0"] > 0, "proba_0": rows["x1"].abs(), "proba_1": rows["x2"].abs()})
        texts.append(footers.pack(profile_of(rows, scores)))
    print(f"| footer of 20 columns and 3 scores | {len(texts[0]):,} bytes | | |")
    with tempfile.TemporaryDirectory() as folder, eager(folder) as client:
        store = client.buckets.main
        for number, text in enumerate(texts):
            results = ResultsBuffer(pa.schema([("prediction", pa.int64())]), {})
            results.add(pa.table({"prediction": [1]}))
            store.put(f"part-{number}.parquet", results.finish({footers.KEY: text}))
        sizes = [store.head(f"part-{number}.parquet").size for number in range(20)]

        def merge(count: int) -> None:
            added, reader = footers.ProfileSum(), FooterReader(store)
            for number in range(count):
                place = number % 20
                added.add(reader.read(f"part-{place}.parquet", sizes[place])[footers.KEY])
            added.profile()

        merge(40)
        begun = time.process_time()
        merge(parts)
        record_figure("profile_merge_s", f"CPU seconds of merging {parts:,} parts", [time.process_time() - begun], 20.0)
        tracemalloc.start()
        merge(500)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        record_figure("profile_merge_mib", "MiB of merging", [peak / 2**20], 40.0)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=positive, default=RUNS)
    parser.add_argument("--rows", type=positive, default=ROWS)
    parser.add_argument("--parts", type=positive, default=PARTS)
    parser.add_argument("--only", default="", help="only models with this in their names, or merge")
    asked = parser.parse_args()
    warnings.simplefilter("ignore")
    with threadpool_limits(1):
        measure_jobs(asked.only, asked.rows, asked.runs)
        if asked.only in "merge":
            measure_merge(asked.parts)


if __name__ == "__main__":
    main()
