"""Measure the time of a hit in the model cache, and the memory of a preloaded model in each of four pool processes.

The private memory of a process is its USS after it has scored with the model, minus its USS with a model that has a
hundredth of the trees. For comparison, each process of a second pool loads the model itself.
Target: the private memory of each process is at most 20% of the model's size.
"""

from __future__ import annotations

import io
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.bench_model_load import TREES, train
from benchmarks.measure import no_options, record_figure
from scoreline.storage.models.manager import ModelStorageManager
from scoreline.tasks.client import Client
from scoreline.worker.cache import ModelCache
from scoreline.worker.dev.stack import ROOT, Stack

PROCESSES = 4
JOBS = 12
ROWS = 5_000  # few rows, because scoring many would leave memory in the heap that hides the memory of the model
RUNS = 5


def holders(stack: Stack) -> dict[str, list[dict[str, int]]]:
    """Return the models that each process has in memory, by pid, for the processes that have scored."""
    command = [sys.executable, "-m", "celery", "-A", "scoreline", "inspect", "models", "--json"]
    done = subprocess.run(command, env=stack.environ, cwd=ROOT, capture_output=True, text=True, check=True)
    (found,) = json.loads(done.stdout).values()
    return {pid: held for pid, held in found.items() if held and held[0]["hits"]}


def private_after_scoring(stack: Stack, client: Client, ref: str, preload: bool) -> list[float]:
    """Start a worker, score with `ref` in each of its processes, and return the USS of each in MiB."""
    worker = stack.start_worker(PROCESSES, {"PRELOAD_MODELS": ref if preload else ""})
    try:
        while True:
            uri, features = client.buckets.main.uri("in/0.parquet"), [f"f{n}" for n in range(20)]
            jobs = [client.submit(ref, uri, features=features) for _ in range(JOBS)]
            assert {list(client.watch(job.job_id))[-1].state for job in jobs} == {"succeeded"}
            found = holders(stack)
            if len(found) == PROCESSES:
                return [psutil.Process(int(pid)).memory_full_info().uss / 2**20 for pid in found]
    finally:
        stack.stop(worker)


def main() -> None:
    """Measure and print."""
    no_options(__doc__)
    with Stack(Path(".scoreline")) as stack:
        client, models = Client.from_env(stack.environ), ModelStorageManager.from_env(stack.environ)
        forest = train()
        manifest = models.publish("big", forest)
        forest.set_params(n_estimators=TREES // 100)
        forest.estimators_ = forest.estimators_[: TREES // 100]
        small = models.publish("small", forest)
        rng = np.random.default_rng(1)
        sink = io.BytesIO()
        pq.write_table(pa.table({f"f{n}": rng.normal(size=ROWS) for n in range(20)}), sink)
        client.buckets.main.put("in/0.parquet", sink.getvalue())
        size = (manifest.memory_bytes - small.memory_bytes) / 2**20
        rows: dict[str, list[float]] = {"preloaded": [], "loaded by each": []}
        for name, preload in (("preloaded", True), ("loaded by each", False)):
            base = statistics.median(private_after_scoring(stack, client, small.ref, preload))
            rows[name] = [
                100 * (uss - base) / size for uss in private_after_scoring(stack, client, manifest.ref, preload)
            ]
        print(f"model: {size:.0f} MiB in memory, {PROCESSES} processes; private memory of a process in % of that\n")
        for name, found in rows.items():
            what = f"private memory of each of {PROCESSES} processes, % of the model, {name}"
            record_figure(f"model_cache-{name.split()[0]}", what, found, 20.0 if name == "preloaded" else None)

        cache = ModelCache(models, 1 << 30)
        pinned = models.registry.resolve(manifest.ref)
        cache.get(pinned)
        before = (stack.folder / "s3.log").stat().st_size
        hits = []
        for _ in range(RUNS):
            started = time.perf_counter()
            for _ in range(100_000):
                cache.get(pinned)
            hits.append((time.perf_counter() - started) * 10)
        requests = (stack.folder / "s3.log").read_bytes()[before:].count(b"HTTP/1.1")
        print(f"\n{100_000 * RUNS:,} warm hits, {requests} requests to the store\n")
        record_figure("model_cache-hit", "us to look up a model that is in memory", hits)


if __name__ == "__main__":
    main()
