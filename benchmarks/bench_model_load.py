"""Compare a cold, verified load of a forest of more than 300 MB from the S3 server with the fastest possible load.

Every load runs in a fresh process, a fork of one that has imported the packages, and the contenders alternate. No load
can be faster than two limits: parallel GETs of the same object without verifying or unpickling, and `joblib.load` from
memory. The peer is a naive load: `get_object().read()`, then `joblib.load`. Target: a load, with compiling the forest,
takes at most 1.6 times the larger limit, and its peak memory is at most 64 MiB above the memory of the loaded model and
its compiled form. The forest is fitted once, and kept as a file.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import io
import json
import multiprocessing
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import joblib

from benchmarks import work
from benchmarks.measure import PeakMemory, in_fresh_process, positive, private_bytes, record_figure, table
from scoreline.storage import keys
from scoreline.storage.models.contents import FileOnDisk
from scoreline.storage.models.manager import ModelStorageManager
from scoreline.storage.models.manifest import CHUNK_BYTES
from scoreline.storage.models.stream import READ_AHEAD
from scoreline.storage.models.trial_load import NewArtifact
from scoreline.storage.objects.buckets import Buckets
from scoreline.storage.objects.r2 import R2Store
from scoreline.storage.process_memory import release_memory

RUNS = 5
TREES = 130
MODES = ("raw", "joblib", "scoreline", "naive")


def train() -> Any:
    """Fit a forest with fully grown trees on noise, so that it is as large as a forest fitted on many real rows."""
    import numpy as np
    from sklearn.ensemble import RandomForestRegressor

    rng = np.random.default_rng(0)
    x = rng.normal(size=(30_000, 20))
    return RandomForestRegressor(TREES, random_state=0, n_jobs=2).fit(x, rng.normal(size=30_000))


def forest(trees: int) -> Path:
    """Return a file with a forest of this many trees, which is made once."""
    path = work.DATA / f"forest-{trees}.joblib"
    if not path.exists():
        work.DATA.mkdir(parents=True, exist_ok=True)
        fitted = train() if trees == TREES else joblib.load(forest(TREES))
        first = fitted.estimators_
        fitted.estimators_ = [copy.deepcopy(first[number % TREES]) for number in range(trees)]
        joblib.dump(fitted, path.with_suffix(".new"))
        path.with_suffix(".new").rename(path)
    return path


def measured(mode: str, ref: str) -> dict[str, float]:
    """Load the model once in this process; return the seconds, and the peak and the final memory in MiB.

    The CPU time shows what a load costs on a machine that has other work.
    """
    models = ModelStorageManager.from_env()
    manifest = models.show(ref)
    store = Buckets.from_env(os.environ).main
    (artifact,) = manifest.artifacts
    key = keys.artifact(manifest.name, manifest.version, artifact.file)
    source = io.BytesIO(store.get(key).data) if mode == "joblib" else None
    release_memory()
    with PeakMemory() as memory:
        started, cpu = time.perf_counter(), time.process_time()
        if mode == "scoreline":
            kept: object = models.load(ref)
        elif mode == "raw":
            with ThreadPoolExecutor(READ_AHEAD) as pool:
                starts = range(0, artifact.size, CHUNK_BYTES)
                kept = sum(
                    pool.map(lambda start: len(store.get(key, byte_range=(start, start + CHUNK_BYTES)).data), starts)
                )
        elif mode == "joblib":
            kept = joblib.load(source)
        else:
            assert isinstance(store, R2Store)
            kept = joblib.load(io.BytesIO(store.client.get_object(Bucket=store.bucket, Key=key)["Body"].read()))
        seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    release_memory()
    own = private_bytes() - memory.before
    del kept
    return {"seconds": seconds, "cpu": cpu, "peak": (memory.peak - memory.before) / 2**20, "own": own / 2**20}


def measured_in_turn(modes: Sequence[str], ref: str) -> dict[str, dict[str, float]]:
    """Load the model once in each way, each in a new fork of this process, so that packages are imported only once."""
    import sklearn.ensemble  # noqa: F401  # the import is not the load

    with contextlib.suppress(ImportError):  # there may be no extension
        import scoreline.storage.models.compiled.compiling  # noqa: F401

    with multiprocessing.get_context("fork").Pool(1, maxtasksperchild=1) as pool:
        return {mode: pool.apply(measured, (mode, ref)) for mode in modes}


def main(runs: int) -> None:
    """Measure and print."""
    from scoreline.worker.dev.stack import Stack

    file = NewArtifact(role="model", name="model", data=FileOnDisk(forest(TREES)))
    found: dict[str, list[dict[str, float]]] = {mode: [] for mode in MODES}
    with Stack(Path(".scoreline")) as stack:
        manifest = ModelStorageManager.from_env(stack.environ).publish_files("big", [file])
        for _ in range(runs):
            answer = in_fresh_process("benchmarks.bench_model_load", stack.environ, "--load", manifest.ref)
            for mode, loaded in answer.items():
                found[mode].append(loaded)
    print(
        f"model: {manifest.size / 1e6:.0f} MB in the bucket, measured {manifest.memory_bytes / 1e6:.0f} MB in memory\n"
    )
    seconds = {mode: [run["seconds"] for run in all_runs] for mode, all_runs in found.items()}
    limits = [max(pair) for pair in zip(seconds["raw"], seconds["joblib"], strict=True)]
    table(
        {
            "raw parallel GET (s)": seconds["raw"],
            "joblib.load from memory (s)": seconds["joblib"],
            "scoreline, cold (s)": seconds["scoreline"],
            "naive (s)": seconds["naive"],
            "joblib.load from memory (CPU s)": [run["cpu"] for run in found["joblib"]],
            "scoreline, cold (CPU s)": [run["cpu"] for run in found["scoreline"]],
            "naive / larger limit": [s / m for s, m in zip(seconds["naive"], limits, strict=True)],
            "naive, peak above the model (MiB)": [run["peak"] - run["own"] for run in found["naive"]],
        }
    )
    print()
    ratios = [s / m for s, m in zip(seconds["scoreline"], limits, strict=True)]
    record_figure(
        "model_load", "seconds of a cold, verified load / of the slower of fetching and unpickling", ratios, 1.6
    )
    above = [run["peak"] - run["own"] for run in found["scoreline"]]
    record_figure("model_load-memory", "MiB of peak memory beyond the model itself while it loads", above, 64.0)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--load", metavar="MODEL", help="load once in each way, and print JSON")
    parser.add_argument("--runs", type=positive, default=RUNS, help="loads of each kind (default: %(default)s)")
    asked = parser.parse_args()
    if asked.load:
        print(json.dumps(measured_in_turn(MODES, asked.load)))
    else:
        main(asked.runs)
