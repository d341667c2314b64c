"""Measure how long a small job waits behind a large one: how many parts of the large job are scored meanwhile.

Claim: a job of 10 parts that is submitted during a job of 10,000 parts waits only for parts of the larger job that are
already in the queue, not for all of its parts. Parts have one row and the model does nothing; there are two worker
processes and a directory store.
"""

from __future__ import annotations

import io
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from sklearn.dummy import DummyRegressor

from benchmarks.measure import no_options, record_figure
from scoreline.storage.models.manager import ModelStorageManager
from scoreline.tasks.client import Client
from scoreline.worker.dev.stack import Stack

LARGE, SMALL, RUNS = 10_000, 10, 5


def main() -> None:
    """Measure and print."""
    no_options(__doc__)
    with tempfile.TemporaryDirectory(dir=".scoreline") as folder, Stack(Path(".scoreline")) as stack:
        environ = stack.environ | {"ENVIRONMENT": "development", "STORE_DIR": folder}
        client = Client.from_env(environ)
        model = DummyRegressor().fit(pd.DataFrame({"x": [0.0, 1.0]}), [0.0, 1.0])
        ModelStorageManager.from_env(environ).publish("noop", model)
        for name, rows in (("large", LARGE), ("small", SMALL)):
            sink = io.BytesIO()
            pq.write_table(pa.table({"x": np.zeros(rows)}), sink, row_group_size=1)
            client.buckets.main.put(f"in/{name}.parquet", sink.getvalue())
        stack.start_worker(2, environ)
        large = client.submit("noop", client.buckets.main.uri("in/large.parquet"), part_rows=1)
        while client.status(large.job_id).parts_done < 500:
            time.sleep(0.05)
        parts, seconds = [], []
        for _ in range(RUNS):
            before, started = client.status(large.job_id).parts_done, time.perf_counter()
            small = client.submit("noop", client.buckets.main.uri("in/small.parquet"), part_rows=1)
            while not client.status(small.job_id).ended:
                time.sleep(0.01)
            seconds.append(time.perf_counter() - started)
            parts.append(float(client.status(large.job_id).parts_done - before))
        assert not client.status(large.job_id).ended
        client.cancel(large.job_id)
    record_figure("fairness", f"parts of a job of {LARGE:,} that are scored while a job of {SMALL} runs", parts)
    record_figure(
        "fairness-seconds", f"s from submit to outcome of a job of {SMALL} parts behind a job of {LARGE:,}", seconds
    )


if __name__ == "__main__":
    main()
