"""Compare jobs with a loop by hand on inputs as people have them: large row groups, wide tables, small files, texts.

Both have two warm processes, and take turns on the same objects; ratios are computed within a round. Requests and bytes
are counted in another run, at a server that counts them. The results of a job are compared with those
of the loop once. Claims: the ratios of `benchmarks.shapes.SHAPES`, and its limits of memory.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.byhand import Loop, forget_peak, peak_mb
from benchmarks.machine import described
from benchmarks.measure import RESULTS, positive, verdict
from benchmarks.shapes import MODELS, SHAPES, Shape, fitted, made
from benchmarks.slow_store import SlowStore
from benchmarks.stand import Stand
from scoreline.storage import keys
from scoreline.tasks.job.uris import parse_uri

STORES = ("directory", "s3", "slow")
_COUNTED = "counted"
"""A server that counts requests, and delays none."""
_FOR_MEMORY = (("s3", "linear"),)
"""What is run of a shape that has only a limit of memory."""
_HEAD = (
    *("shape", "model", "store", "job, s", "by hand, s", "CPU, s", "CPU by hand, s", "job / by hand", "at most", ""),
    *("parts", "requests", "MB read", "MB of a process", ""),
)


class Contest:
    """A stand with its loop by hand, both on the same store."""

    def __init__(self, stand: Stand, loop: Loop, server: SlowStore | None) -> None:
        self._stand = stand
        self._loop = loop
        self._server = server

    def bring(self, name: str, model: str, share: float) -> list[str]:
        """Publish a model, put the objects of a shape into the store, and return their keys."""
        shape = SHAPES[name]
        self._fitted = fitted(shape, model)
        self._stand.publish(f"{name}-{model}".replace(".", "-"), self._fitted)
        found = []
        for file in sorted(made(name, share).iterdir()):
            found.append(f"in/{name}/{file.name}")
            self._stand.store.put(found[-1], file.read_bytes())
        return found

    def by_hand(self, name: str, found: list[str]) -> dict[str, float]:
        """Score by hand."""
        shape = SHAPES[name]
        with self._counted() as counts:
            before = self._loop.cpu()
            took = self._loop.score(found, shape.kind, shape.names, shape.dtype, self._fitted)
        return {"work": took, "cpu": self._loop.cpu() - before} | counts

    def job(self, name: str, model: str) -> dict[str, Any]:
        """Score by a job, and say what it took by stage."""
        shape, pool = SHAPES[name], self._stand.pool()
        for process in pool:
            forget_peak(process.pid)
        used = sum(sum(process.cpu_times()[:2]) for process in pool)
        with self._counted() as counts:
            begun = time.perf_counter()
            done = self._stand.score(
                f"{name}-{model}".replace(".", "-"), f"in/{name}/", features=shape.names, keep="id", method="predict"
            )
            took = time.perf_counter() - begun
        self._output = parse_uri(done.output)[1]
        manifest = json.loads(self._stand.store.get(keys.results_manifest(self._output)).data)
        return {
            "work": took,
            "cpu": sum(sum(process.cpu_times()[:2]) for process in pool) - used,
            "parts": len(manifest["parts"]),
            "stages": manifest["seconds"],
            "memory_mb": max(peak_mb(process.pid) for process in pool),
        } | counts

    def check(self, rows: int) -> None:
        """Compare the results of the last job with those of the loop by hand."""
        store = self._stand.store
        ours = _read(store, [info.key for info in store.list(f"{self._output}part-")])
        theirs = _read(store, [info.key for info in store.list("byhand/")])
        if ours.num_rows != rows or not ours.equals(theirs):
            raise SystemExit(f"the results differ: {ours.num_rows:,} of {rows:,} rows, or other values")

    @contextlib.contextmanager
    def _counted(self) -> Iterator[dict[str, float]]:
        counts: dict[str, float] = {}
        server = self._server
        before = (server.requests, server.sent) if server else (0, 0)
        yield counts
        if server:
            counts |= {"requests": server.requests - before[0], "mb_read": (server.sent - before[1]) / 1e6}


@contextlib.contextmanager
def contest(store: str) -> Iterator[Contest]:
    """Start a stand and a loop by hand."""
    with contextlib.ExitStack() as stack:
        stand = Stand(Path(".scoreline"), directory=store == "directory")
        server = None
        if store in ("slow", _COUNTED):
            server = stack.enter_context(_distant(stand, slow=store == "slow"))
        stack.enter_context(stand)
        loop = stack.enter_context(Loop(stand.environ))
        yield Contest(stand, loop, server)


@contextlib.contextmanager
def _distant(stand: Stand, *, slow: bool) -> Iterator[SlowStore]:
    with SlowStore(delay_s=0.03 if slow else 0.0, rate=60e6 if slow else 0.0) as server:
        stand.distant = server
        yield server


def _read(store: Any, found: list[str]) -> pa.Table:
    tables = [pq.read_table(pa.BufferReader(store.get(key).data), columns=["id", "prediction"]) for key in found]
    return pa.concat_tables(tables).sort_by("id").combine_chunks()


def measured(name: str, model: str, store: str, rounds: int, share: float) -> dict[str, Any]:
    """Let both score in turns, after a rehearsal of each."""
    with contest(store) as contenders:
        found = contenders.bring(name, model, share)
        contenders.by_hand(name, found)
        contenders.job(name, model)
        contenders.check(SHAPES[name].scaled(share).rows)
        runs: dict[str, list[dict[str, Any]]] = {"job": [], "byhand": []}
        for _ in range(rounds):
            runs["byhand"].append(contenders.by_hand(name, found))
            runs["job"].append(contenders.job(name, model))
            print(f"{name} {model} {store}: {_told(runs)}", file=sys.stderr)
    if store == "s3":
        with contest(_COUNTED) as contenders:
            contenders.bring(name, model, share)
            contenders.job(name, model)  # loads the model, and shows its pace
            counted = contenders.job(name, model)
        runs["job"][-1] |= {key: counted[key] for key in ("requests", "mb_read")}
    return runs


def _told(runs: Mapping[str, list[dict[str, Any]]]) -> str:
    ours, theirs = runs["job"][-1], runs["byhand"][-1]
    more = "".join(f", {key} {ours[key]:.0f}" for key in ("parts", "memory_mb", "requests", "mb_read") if key in ours)
    stages = " ".join(f"{stage} {seconds:.2f}" for stage, seconds in ours["stages"].items())
    return (
        f"job {ours['work']:.2f} s (CPU {ours['cpu']:.2f}), by hand {theirs['work']:.2f} s (CPU {theirs['cpu']:.2f})"
        f"{more}; {stages}"
    )


def _row(name: str, model: str, store: str, runs: Mapping[str, list[dict[str, Any]]], shape: Shape) -> str:
    ours, theirs = runs["job"], runs["byhand"]
    ratios = [one["work"] / other["work"] for one, other in zip(ours, theirs, strict=True)]
    limit, ratio = shape.limits.get((store, model)), statistics.median(ratios)
    memory = max(run["memory_mb"] for run in ours)
    times = [statistics.median(run[of] for run in found) for of in ("work", "cpu") for found in (ours, theirs)]
    counts = [f"{ours[-1][key]:,.0f}" if key in ours[-1] else "" for key in ("parts", "requests", "mb_read")]
    cells = [name, model, store, *(f"{seconds:.2f}" for seconds in times)]
    cells += [f"{ratio:.2f} ({min(ratios):.2f} to {max(ratios):.2f})", f"{limit or ''}"]
    cells += [verdict(ratio, limit) if limit else "", *counts, f"{memory:.0f}", verdict(memory, shape.memory_mb)]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--stores", nargs="+", choices=STORES, default=list(STORES))
    parser.add_argument("--rounds", type=positive, default=3, help="turns of each contender")
    parser.add_argument("--share", type=float, default=1.0, help="share of the rows, for a first look")
    parser.add_argument("--all", action="store_true", help="also what has no limit")
    asked = parser.parse_args()
    lines = [f"| {' | '.join(_HEAD)} |", "|---" * len(_HEAD) + "|"]
    took: dict[str, Any] = {}
    for name in asked.shapes:
        shape = SHAPES[name]
        for store in asked.stores:
            for model in asked.models:
                if (
                    asked.all
                    or (store, model) in shape.limits
                    or (not shape.limits and (store, model) == ("s3", "linear"))
                ):
                    runs = measured(name, model, store, asked.rounds, asked.share)
                    took[f"{name} {model} {store}"] = runs
                    lines.append(_row(name, model, store, runs, shape))
    text = "\n".join(["# Shapes of inputs", "", f"{described()}.", "", *lines, ""])
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / "shapes.json").write_text(json.dumps(took, indent=1) + "\n")
    (RESULTS / "shapes.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
