"""Measure the memory and the time of publishing a large forest to the S3 server.

The forest is published from a file by ``scoreline models publish``. No publishing can be faster than the largest of
three limits: hashing the file, unpickling it, and uploading it in parallel parts. Targets: the command takes at most
128 MiB in all, the private memory of the trial process is at most 128 MiB larger than the model, and publishing takes
at most 1.5 times the largest limit. ``--trees`` chooses the size of the forest; 880 trees take 2.4 GB.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import joblib
import psutil

from benchmarks.bench_model_load import TREES, forest
from benchmarks.measure import in_fresh_process, positive, private_bytes, record_figure, table
from scoreline.storage.models.contents import FileOnDisk
from scoreline.storage.models.manager import ModelStorageManager
from scoreline.storage.objects.buckets import Buckets
from scoreline.storage.objects.writer import ObjectWriter

RUNS = 3
MIB = 1 << 20


def limit(mode: str, path: Path) -> dict[str, float]:
    """Hash, unpickle or upload the file once in this process, and return the seconds."""
    import sklearn.ensemble  # noqa: F401  # the import is not the load

    started = time.perf_counter()
    if mode == "hash":
        with path.open("rb") as file:
            hashlib.file_digest(file, "sha256")
    elif mode == "unpickle":
        joblib.load(path)
    else:
        store = Buckets.from_env(os.environ).main
        with ObjectWriter(store, "limit.joblib") as writer:
            FileOnDisk(path).copy_to(writer.write)
            writer.complete()
        seconds = time.perf_counter() - started
        store.delete("limit.joblib")  # the server keeps objects in memory
        return {"seconds": seconds}
    return {"seconds": time.perf_counter() - started}


def publish(path: Path, environ: Mapping[str, str]) -> dict[str, float]:
    """Publish the file by the command line.

    Return the seconds, the peak memory of the command, and that of its trial beyond the model.
    """
    command = [sys.executable, "-m", "scoreline", "models", "publish", "big", "--model", str(path)]
    started = time.perf_counter()
    own = trial = 0
    with subprocess.Popen(command, env=os.environ | dict(environ), stdout=subprocess.DEVNULL) as process:
        while process.poll() is None:
            with contextlib.suppress(psutil.Error, OSError):
                own = max(own, _high_water(process.pid))
                for child in psutil.Process(process.pid).children(recursive=True):
                    trial = max(trial, private_bytes(child.pid))
            time.sleep(0.005)
    if process.returncode:
        raise RuntimeError(f"publishing ended with exit code {process.returncode}")
    seconds = time.perf_counter() - started
    manager = ModelStorageManager.from_env(environ)
    model = manager.registry.manifest(manager.registry.resolve("big")).memory_bytes
    return {"seconds": seconds, "command": own / MIB, "trial": (trial - model) / MIB}


def _high_water(pid: int) -> int:
    """Return the peak resident memory of a process in bytes, as the kernel counts it."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return 1024 * int(next((line.split()[1] for line in lines if line.startswith("VmHWM")), 0))


def main(trees: int, runs: int) -> None:
    """Measure and print."""
    from scoreline.worker.dev.stack import Stack

    path = forest(trees)
    modes = ("hash", "unpickle", "PUT")
    limits: dict[str, list[dict[str, float]]] = {mode: [] for mode in modes}
    found = []
    for _ in range(runs):
        with Stack(Path(".scoreline")) as stack:  # the server keeps objects in memory, so each run has its own
            for mode in modes:
                arguments = ("benchmarks.bench_publish", stack.environ, "--one", mode, str(path))
                limits[mode].append(in_fresh_process(*arguments))
            found.append(publish(path, stack.environ))
    print(f"model: {path.stat().st_size / 1e6:.0f} MB\n")
    seconds = {mode: [run["seconds"] for run in all_runs] for mode, all_runs in limits.items()}
    table({f"{mode} (s)": values for mode, values in seconds.items()} | {"publish (s)": [r["seconds"] for r in found]})
    print()
    longest = [max(run) for run in zip(*seconds.values(), strict=True)]
    ratios = [run["seconds"] / most for run, most in zip(found, longest, strict=True)]
    record_figure("publish", "seconds of publishing / of the slowest of hashing, unpickling and uploading", ratios, 1.5)
    record_figure("publish-command", "MiB of peak memory of the command", [run["command"] for run in found], 128.0)
    above = [run["trial"] for run in found]
    record_figure("publish-trial", "MiB of peak private memory of the trial process beyond the model", above, 128.0)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trees", type=positive, default=TREES, help="trees of the forest (default: %(default)s)")
    parser.add_argument("--runs", type=positive, default=RUNS, help="how often to publish (default: %(default)s)")
    parser.add_argument("--one", nargs=2, metavar=("MODE", "FILE"), help="measure a limit in this process, print JSON")
    asked = parser.parse_args()
    if asked.one:
        print(json.dumps(limit(asked.one[0], Path(asked.one[1]))))
    else:
        main(asked.trees, asked.runs)
