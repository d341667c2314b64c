"""Scoring two million rows in two processes: Scoreline against a loop by hand, and against the peers.

Contenders take turns on the same files and models, several rounds; ratios are of the same round. Their results have to
be equal. Writes a table, JSON and a picture into ``benchmarks/results/``.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks import report, work
from benchmarks.machine import described
from benchmarks.measure import RESULTS

ROOT = Path(__file__).resolve().parents[1]
PEERS = work.DATA / "venv" / "bin" / "python"
OURS = ("limit", "scoreline", "scoreline_s3", "script", "futures")
THEIRS = ("daskdistributed", "raydata", "spark")
TOLERANCE = 1e-12
"""Of probabilities: linear algebra rounds by how many rows are computed at once."""
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def turn(name: str, folder: Path, models: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Run a contender once; yields what it tells of each model, with ``whole``: start, warming up and work."""
    python = str(PEERS) if name in THEIRS else sys.executable
    environ = os.environ | dict.fromkeys(THREADS, "1") | {"PYTHONPATH": str(ROOT), "RAY_TMPDIR": str(work.DATA / "ray")}
    for model in models:  # a process of its own for each, so that none profits from what another left
        begun = time.perf_counter()
        done = subprocess.run(
            [python, "-m", f"benchmarks.contenders.{name}", str(folder), model],
            env=environ, capture_output=True, text=True, check=False, cwd=ROOT,
        )  # fmt: skip
        if done.returncode:
            raise RuntimeError(f"{name} failed with {model}:\n{done.stderr[-4000:]}")
        told = next(line for line in reversed(done.stdout.splitlines()) if line.startswith("{"))
        yield json.loads(told) | {"whole": time.perf_counter() - begun}


def result(folder: Path, name: str, model: str) -> pa.Table:
    """Read what a contender wrote, in the order of ids."""
    files = sorted((folder / "out" / name / model).rglob("*.parquet"))
    table = pa.concat_tables([pq.ParquetFile(file).read(columns=list(work.RESULT)) for file in files])
    return table.sort_by("id")


def difference(folder: Path, name: str, model: str) -> float:
    """Return the largest difference of a probability from what the script says; raises where anything else differs."""
    one, other = result(folder, "script", model), result(folder, name, model)
    for column in ("id", "prediction"):
        if not np.array_equal(one[column].to_numpy(), other[column].to_numpy()):
            raise SystemExit(f"{name} differs in {column!r} of {model}")
    apart = max(float(np.abs(one[c].to_numpy() - other[c].to_numpy()).max()) for c in ("proba_0", "proba_1"))
    if apart > TOLERANCE:
        raise SystemExit(f"{name} differs by {apart} in the probabilities of {model}")
    return apart


def main() -> None:
    """Measure, compare, and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=work.ROWS)
    parser.add_argument("--models", nargs="+", choices=work.MODELS, default=list(work.MODELS))
    parser.add_argument("--contenders", nargs="+", choices=OURS + THEIRS, default=list(OURS + THEIRS))
    asked = parser.parse_args()
    if not PEERS.exists() and set(asked.contenders) & set(THEIRS):
        parser.error("the peers are not installed: `make bench` does so")
    if "spark" in asked.contenders and shutil.which("java") is None:
        print("spark is left out: there is no Java", file=sys.stderr)
        asked.contenders.remove("spark")
    folder = work.prepared(asked.rows)
    took: dict[str, dict[str, list[dict[str, Any]]]] = {model: {} for model in asked.models}
    for number in range(asked.rounds):
        for name in list(asked.contenders):
            try:
                for told in turn(name, folder, asked.models):
                    took[told["model"]].setdefault(name, []).append(told)
                    print(f"round {number + 1} {name:16} {told['model']:9} {told['work']:7.2f} s", file=sys.stderr)
            except RuntimeError as error:
                if name in OURS:
                    raise
                print(f"{name} is left out: {error}", file=sys.stderr)
                asked.contenders.remove(name)
                for by_name in took.values():
                    by_name.pop(name, None)
    apart: dict[str, dict[str, float]] = {model: {} for model in asked.models}
    if "script" in asked.contenders:
        for model in asked.models:
            apart[model] = {name: difference(folder, name, model) for name in asked.contenders if name != "script"}
    RESULTS.mkdir(exist_ok=True)
    told = {"rows": asked.rows, "machine": described(), "seconds": took, "largest difference": apart}
    (RESULTS / "throughput.json").write_text(json.dumps(told, indent=1) + "\n")
    text = report.throughput(told)
    (RESULTS / "throughput.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
