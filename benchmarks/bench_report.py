"""Measure the report of a job with 200 features: CPU seconds until the page is made, and its size.

Claim: the page takes at most 5 s of CPU time, with all that is read from the bucket, and has at most 1 MB.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.linear_model import LinearRegression

from benchmarks.measure import positive, record_figure
from scoreline.tasks.quality.report.html import render
from scoreline.testing import EagerClient, eager

MOST_S, MOST_MB = 5.0, 1.0
JOB = "report"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--features", type=positive, default=200, help="features of the model")
    parser.add_argument("--rows", type=positive, default=20_000, help="rows of the input")
    parser.add_argument("--runs", type=positive, default=5, help="reports that are made")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, eager(Path(folder)) as client:
        _score(client, given.features, given.rows)
        seconds, page = [], ""
        for _ in range(given.runs):
            began = time.process_time()
            page = render(client.report(JOB))
            seconds.append(time.process_time() - began)
    pictures, megabytes = page.count('role="img"'), len(page.encode()) / 1e6
    what = f"the report of {given.features} features, {pictures} pictures"
    record_figure("report-seconds", f"CPU seconds until {what}, is made", seconds, MOST_S)
    record_figure("report-size", f"MB of {what}", [megabytes], MOST_MB)


def _score(client: EagerClient, features: int, rows: int) -> None:
    """Run a job whose input has drifted away from the baseline: normal, skewed and whole columns with usual names."""
    chance = np.random.default_rng(1)

    def drawn(shift: float) -> pd.DataFrame:
        columns = [
            chance.normal(shift, 1, rows) if number % 3 == 0 else
            np.exp(chance.normal(8 + shift, 1, rows)) if number % 3 == 1 else
            chance.poisson(3 + shift, rows).astype(float)
            for number in range(features)
        ]  # fmt: skip
        return pd.DataFrame({f"customer_feature_{number:03}": column for number, column in enumerate(columns)})

    train = drawn(0.0)
    model = LinearRegression().fit(train, chance.normal(size=rows))
    client.models.publish("wide", model, baseline=train)
    client.submit("wide", client.put("in/rows.parquet", drawn(0.5)), job_id=JOB)


if __name__ == "__main__":
    main()
