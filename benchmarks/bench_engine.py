"""Measure the overhead of a part. Celery and Valkey are real, but the model does nothing, and each part has one row.

Claims: Redis memory, queue length, and the Redis commands, R2 operations and time per part do not grow with the number
of parts. The store is a directory that counts its operations. The Redis commands are those of ``INFO commandstats``,
without the commands of this script. ``QUICK=1`` skips the run of 100,000 parts.
"""

from __future__ import annotations

import io
import json
import os
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import redis
from sklearn.dummy import DummyRegressor

from benchmarks.counted import read
from benchmarks.measure import RESULTS, no_options
from benchmarks.report import engine
from scoreline.storage import keys
from scoreline.storage.models.manager import ModelStorageManager
from scoreline.storage.objects.base import exists
from scoreline.tasks.client import Client
from scoreline.tasks.dispatch.queue_names import QueueNames
from scoreline.tasks.job.part_sizes import PART_ROWS
from scoreline.worker.dev.stack import Stack

SIZES = (1_000, 10_000) if os.environ.get("QUICK") else (1_000, 10_000, 100_000)
GROUPS_PER_FILE = 1_000
PROCESSES = 2
WINDOW = 8
CLASS_A, CLASS_B = 4.50, 0.36
"""Dollars per million operations, see https://developers.cloudflare.com/r2/pricing/."""
OWN_COMMANDS = {"info", "llen", "config", "ping", "client", "hello"}
LIMITS = {
    "Redis memory over idle, MB": 5.0,
    "longest queue": WINDOW,
    "Redis commands a part": 20.0,
    "R2 writes a part": 1.0,
    "R2 reads a part": 3.0,
}


def main() -> None:
    """Measure and print."""
    no_options(__doc__)
    columns = {parts: measure(parts) for parts in SIZES}
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / "engine-by-parts.json").write_text(json.dumps({"limits": LIMITS, "by parts": columns}, indent=1) + "\n")
    print("\n".join(engine(LIMITS, columns)))
    last = columns[SIZES[-1]]
    print("\n| a billion rows | parts | writes (class A) | reads (class B) | dollars |\n|---|---|---|---|---|")
    for label, rows in (("parts as by default", PART_ROWS), ("parts of 10,000 rows", 10_000)):
        parts = -(-1_000_000_000 // rows)
        writes, reads = parts * last["R2 writes a part"], parts * last["R2 reads a part"]
        dollars = (writes * CLASS_A + reads * CLASS_B) / 1e6
        print(f"| {label} | {parts:,} | {writes:,.0f} | {reads:,.0f} | {dollars:.3f} |")


def measure(parts: int) -> dict[str, float]:
    """Run one job and return its time, memory and operations."""
    with tempfile.TemporaryDirectory(dir=".scoreline") as folder, Stack(Path(".scoreline")) as stack:
        counts = Path(folder, "counts")
        counts.mkdir()
        environ = stack.environ | {"ENVIRONMENT": "development", "STORE_DIR": folder, "COUNT_DIR": str(counts)}
        client = Client.from_env(environ)
        store = client.buckets.main
        model = DummyRegressor().fit(pd.DataFrame({"x": [0.0, 1.0]}), [0.0, 1.0])
        ModelStorageManager.from_env(environ).publish("noop", model)
        for first in range(0, parts, GROUPS_PER_FILE):
            ids = np.arange(first, min(first + GROUPS_PER_FILE, parts))
            sink = io.BytesIO()
            pq.write_table(pa.table({"id": ids, "x": ids.astype(float)}), sink, row_group_size=1)
            store.put(f"in/{first:09}.parquet", sink.getvalue())
        stack.start_worker(PROCESSES, environ, app="benchmarks.counted")
        time.sleep(2)  # wait for the reconciler round that the worker runs when it starts
        with redis.Redis.from_url(environ["REDIS_URL"]) as connection:
            return _run(client, store.uri("in/"), parts, connection, counts)


def _run(client: Client, uri: str, parts: int, connection: redis.Redis, counts: Path) -> dict[str, float]:
    def info(section: str) -> dict[str, Any]:
        return dict(connection.info(section))

    idle = info("memory")["used_memory"]
    before = read(counts)
    connection.config_resetstat()
    started = time.perf_counter()
    job = client.submit("noop", uri, part_rows=1)
    peak = longest = 0
    first_half = 0.0
    while not exists(client.buckets.main, keys.outcome(job.job_id)):
        peak = max(peak, info("memory")["used_memory"])
        longest = max(longest, int(connection.llen(QueueNames.of("scoreline").parts)))
        if not first_half and client.ledger.progress(job.job_id) and 2 * client.status(job.job_id).parts_done >= parts:
            first_half = time.perf_counter() - started
        time.sleep(0.1)
    wall = time.perf_counter() - started
    commands = Counter({name.removeprefix("cmdstat_"): row["calls"] for name, row in info("commandstats").items()})
    ours = sum(calls for name, calls in commands.items() if name.split("|")[0] not in OWN_COMMANDS)
    done = client.status(job.job_id)
    assert (done.state, done.rows, done.parts) == ("succeeded", parts, parts), done
    operations = read(counts)
    operations.subtract(before)
    return {
        "ms a part and process": 1000 * wall * PROCESSES / parts,
        "the same, in the second half of the job": 1000 * (wall - first_half) * PROCESSES / (parts / 2),
        "Redis memory over idle, MB": (peak - idle) / 1e6,
        "longest queue": longest,
        "Redis commands a part": ours / parts,
        "R2 writes a part": (operations["put"] + operations["list"]) / parts,
        "R2 reads a part": (operations["get"] + operations["head"]) / parts,
    }


if __name__ == "__main__":
    main()
