"""Compare Scoreline with a handwritten loop and with the peers: two million rows in two processes.

The contenders take turns on the same files and models for several rounds, and ratios are computed within a round. All
contenders must have equal results. The figures are written as a table and as JSON to `benchmarks.measure.RESULTS`.
"""

from __future__ import annotations

import argparse
import itertools
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks import report, work
from benchmarks.machine import described
from benchmarks.measure import RESULTS, positive
from benchmarks.turn import OURS, PEERS, THEIRS, turn

TOLERANCE = 1e-12
"""Allowed difference of probabilities. Rounding in linear algebra depends on the number of rows computed at once."""
Took = dict[str, dict[str, list[dict[str, Any]]]]


def left_out(names: Sequence[str]) -> dict[str, str]:
    """Return the contenders that cannot run on this machine, with the reason."""
    no_java = "spark" in names and shutil.which("java") is None
    return {"spark": "there is no Java"} if no_java else {}


def result(folder: Path, name: str, model: str) -> pa.Table:
    """Read the results of a contender, sorted by id."""
    files = sorted((folder / "out" / name / model).rglob("*.parquet"))
    table = pa.concat_tables([pq.ParquetFile(file).read(columns=list(work.RESULT)) for file in files])
    return table.sort_by("id")


def difference(folder: Path, name: str, model: str, other_name: str = "script") -> float:
    """Return the largest difference between the probabilities of two contenders. Exit if results are not equal."""
    one, other = result(folder, other_name, model), result(folder, name, model)
    for column in ("id", "prediction"):
        if not np.array_equal(one[column].to_numpy(), other[column].to_numpy()):
            raise SystemExit(f"{name} differs in {column!r} of {model}")
    apart = max(float(np.abs(one[c].to_numpy() - other[c].to_numpy()).max()) for c in ("proba_0", "proba_1"))
    if apart > TOLERANCE:
        raise SystemExit(f"{name} differs by {apart} in the probabilities of {model}")
    return apart


def measured(names: list[str], folder: Path, models: Sequence[str], rounds: int) -> tuple[Took, dict[str, str]]:
    """Run all contenders in turns. Return the complete runs by model and name, and why peers failed."""
    took: Took = {model: {} for model in models}
    failed: dict[str, str] = {}
    for number, place in itertools.product(range(rounds), range(len(names))):
        name = names[(place + number) % len(names)]  # each round begins with a different contender
        if name in failed:
            continue
        try:
            for model in models:  # each model has its own process, so that no model profits from another model's caches
                result = turn(name, folder, model)
                took[model].setdefault(name, []).append(result)
                print(f"round {number + 1} {name:16} {model:9} {result['work']:7.2f} s", file=sys.stderr)
        except RuntimeError as error:
            if name in OURS:
                sys.exit(f"{name} failed with {error}")
            print(f"{name} is left out: {error}", file=sys.stderr)
            failed[name] = f"failed with {error}"
            for by_name in took.values():
                by_name.pop(name, None)
    return took, failed


def main() -> None:
    """Measure, compare, and write; exit with 1 if a peer failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=positive, default=3, help="number of rounds")
    parser.add_argument(
        "--rows", type=work.rows, default=work.ROWS, help="rows of numbers, or four times those of texts"
    )
    parser.add_argument("--models", nargs="+", choices=work.MODELS, default=list(work.MODELS))
    parser.add_argument("--contenders", nargs="+", choices=OURS + THEIRS, default=list(OURS + THEIRS))
    asked = parser.parse_args()
    if not PEERS.exists() and set(asked.contenders) & set(THEIRS):
        parser.error("the peers are not installed: `make bench` does so")
    missing = left_out(asked.contenders)
    folder = work.prepared(asked.rows)
    names = [name for name in asked.contenders if name not in missing]
    took, failed = measured(names, folder, asked.models, asked.rounds)
    apart: dict[str, dict[str, float]] = {model: {} for model in asked.models}
    if "script" in names:
        for model in asked.models:
            apart[model] = {name: difference(folder, name, model) for name in took[model] if name != "script"}
    RESULTS.mkdir(parents=True, exist_ok=True)
    result = {
        "rows": asked.rows,
        "machine": described(),
        "seconds": took,
        "left out": missing | failed,
        "largest difference": apart,
    }
    (RESULTS / "throughput.json").write_text(json.dumps(result, indent=1) + "\n")
    text = report.throughput(result)
    (RESULTS / "throughput.md").write_text(text)
    print(text)
    if failed:
        sys.exit(1)


if __name__ == "__main__":
    main()
