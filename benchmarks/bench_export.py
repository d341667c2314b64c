"""Measure the peak private memory of a process that writes the results of a job to a CSV file.

Claim: ``scoreline results JOB --to FILE.csv`` takes at most 300 MiB, however many rows there are. The results are of a
linear regression, with the feature as a kept column. Anonymous memory is sampled every 5 ms.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
from sklearn.linear_model import LinearRegression

from benchmarks.measure import positive, private_bytes, record_figure
from scoreline.testing import eager

ROWS, FILE_ROWS, LIMIT_MIB = 10_000_000, 1_000_000, 300.0


def exported(folder: Path, environ: dict[str, str], rows: int) -> float:
    """Write the results to a file in a process of its own, and return the peak of its memory in MiB."""
    target, peak = folder / "results.csv", 0
    command = [sys.executable, "-m", "scoreline", "results", "job", "--to", str(target)]
    process = subprocess.Popen(command, env=os.environ | environ, cwd=folder, stdout=subprocess.DEVNULL)
    try:
        while process.poll() is None:
            with contextlib.suppress(psutil.NoSuchProcess):
                peak = max(peak, private_bytes(process.pid))
            time.sleep(0.005)
    finally:
        process.kill()
        process.wait()
    if process.returncode:
        raise RuntimeError(f"the command failed with exit code {process.returncode}")
    with target.open("rb") as file:
        written = sum(block.count(b"\n") for block in iter(lambda: file.read(1 << 20), b"")) - 1
    if written != rows:
        raise RuntimeError(f"the file has {written:,} rows, not {rows:,}")
    target.unlink()
    return peak / (1 << 20)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=positive, default=ROWS, help="number of rows")
    parser.add_argument("--runs", type=positive, default=3, help="number of exports")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        environ = {"ENVIRONMENT": "development", "REDIS_URL": "redis://127.0.0.1:9/0", "STORE_DIR": name}
        with eager(folder) as client:
            few = pd.DataFrame({"x": [0.0, 1.0]})
            client.models.publish("line", LinearRegression().fit(few, [1.0, 3.0]), alias="champion")
            for number, start in enumerate(range(0, asked.rows, FILE_ROWS)):
                count = min(FILE_ROWS, asked.rows - start)
                rows = pd.DataFrame({"x": np.random.default_rng(number).normal(size=count)})
                client.put(f"in/{number:03}.parquet", rows)
            client.submit("line@champion", "s3://scoreline/in/", job_id="job", keep=["x"])
            took = [exported(folder, environ, asked.rows) for _ in range(asked.runs)]
    record_figure(f"export_{asked.rows}", f"MiB at the peak of writing {asked.rows:,} rows to CSV", took, LIMIT_MIB)


if __name__ == "__main__":
    main()
