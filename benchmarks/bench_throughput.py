"""Scoring two million rows in two processes: Scoreline against a loop by hand, and against the peers.

Contenders take turns on the same files and models, several rounds; ratios are of the same round. Their results have to
be equal. Writes a table, JSON and a picture into ``benchmarks/results/``.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks import work
from benchmarks.machine import described

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
DATA = ROOT / ".cache" / "bench"
RESULTS = HERE / "results"
PEERS = DATA / "venv" / "bin" / "python"
OURS = ("limit", "scoreline", "scoreline_s3", "script", "futures")
THEIRS = ("daskdistributed", "raydata", "spark")
TOLERANCE = 1e-12
"""Of probabilities: linear algebra rounds by how many rows are computed at once."""
LIMITS = {
    ("scoreline", "limit"): {"forest": 1.10, "boosting": 1.10, "logistic": 1.5, "text": None},
    ("scoreline", "daskdistributed"): {"forest": 0.75, "boosting": 0.75, "logistic": 0.4, "text": 0.75},
    ("scoreline", "raydata"): dict.fromkeys(work.MODELS, 0.4),
    ("scoreline", "spark"): dict.fromkeys(work.MODELS, 0.4),
}
"""At most, by who is compared with whom, and by model."""
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def turn(name: str, folder: Path, models: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Run a contender once; yields what it tells of each model, with ``whole``: start, warming up and work."""
    python = str(PEERS) if name in THEIRS else sys.executable
    environ = os.environ | dict.fromkeys(THREADS, "1") | {"PYTHONPATH": str(ROOT), "RAY_TMPDIR": "/tmp"}
    for model in models:  # a process of its own for each, so that none profits from what another left
        begun = time.perf_counter()
        done = subprocess.run(
            [python, "-m", f"benchmarks.contenders.{name}", str(folder), model],
            env=environ, capture_output=True, text=True, check=False, cwd=ROOT,
        )  # fmt: skip
        if done.returncode:
            raise SystemExit(f"{name} failed with {model}:\n{done.stderr[-4000:]}")
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
    folder = DATA / f"data-{asked.rows}"
    work.prepare(folder, asked.rows)
    took: dict[str, dict[str, list[dict[str, Any]]]] = {model: {} for model in asked.models}
    for number in range(asked.rounds):
        for name in asked.contenders:
            for told in turn(name, folder, asked.models):
                took[told["model"]].setdefault(name, []).append(told)
                print(f"round {number + 1} {name:16} {told['model']:9} {told['work']:7.2f} s", file=sys.stderr)
    apart: dict[str, dict[str, float]] = {model: {} for model in asked.models}
    if "script" in asked.contenders:
        for model in asked.models:
            apart[model] = {name: difference(folder, name, model) for name in asked.contenders if name != "script"}
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "throughput.json").write_text(
        json.dumps({"rows": asked.rows, "machine": described(), "seconds": took, "largest difference": apart}, indent=1)
    )
    text = report(took, asked.rows)
    (RESULTS / "throughput.md").write_text(text)
    print(text)


def report(took: Mapping[str, Mapping[str, Sequence[Mapping[str, Any]]]], rows: int) -> str:
    """Tables of seconds and of ratios."""
    lines = [f"{described()}; {rows:,} rows of 20 float64 columns ({rows // 4:,} texts), 2 processes.", ""]
    for model, by_name in took.items():
        lines += [
            f"### {model}",
            "",
            "| | work, s | spread | whole, s | rows/s | work / limit |",
            "|---|---|---|---|---|---|",
        ]
        limit = [told["work"] for told in by_name.get("limit", ())]
        for name, runs in by_name.items():
            seconds, whole = [told["work"] for told in runs], [told["whole"] for told in runs]
            median = statistics.median(seconds)
            count = rows // 4 if model == "text" else rows
            against = f"{statistics.median(s / m for s, m in zip(seconds, limit, strict=True)):.2f}" if limit else ""
            lines.append(
                f"| {name} | {median:.2f} | {min(seconds):.2f} to {max(seconds):.2f} | {statistics.median(whole):.1f} "
                f"| {count / median:,.0f} | {against} |"
            )
        lines.append("")
    lines += ["| ratio of work, median (spread) | model | at most | got | |", "|---|---|---|---|---|"]
    for (name, other), limits in LIMITS.items():
        for model, most in limits.items():
            if not {name, other} <= set(took.get(model, {})):
                continue
            both = zip(took[model][name], took[model][other], strict=True)
            ratios = [one["work"] / two["work"] for one, two in both]
            got = statistics.median(ratios)
            told = "" if most is None else "reached" if got <= most else f"missed by {got / most - 1:.0%}"
            spread = f"{got:.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
            lines.append(f"| {name} / {other} | {model} | {most or ''} | {spread} | {told} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
