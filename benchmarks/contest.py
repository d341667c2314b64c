"""Runs Scoreline and a handwritten loop on the same store, so that they can be measured in turns."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.byhand import CONNECTIONS, Loop, forget_peak, peak_mb, ways
from benchmarks.counting_relay import CountingRelay
from benchmarks.shapes import SHAPES, fitted, made
from benchmarks.slow_store import SlowStore
from benchmarks.stand import Stand
from benchmarks.traffic import Traffic, layout_of, traffic
from scoreline.storage import keys
from scoreline.tasks.job.uris import parse_uri

STORES = ("directory", "s3", "slow")
_REHEARSALS = 2
"""Number of rehearsals. One rehearsal is not enough, because a process that gets no part does not load the model."""
_PUTS = 16
"""Number of objects that are uploaded at a time. Uploaded one after another, thousands of objects would take minutes in
a slow store."""
Run = dict[str, Any]


class Contest:
    """Scoreline (a `Stand`) and a handwritten loop, which use the same store."""

    def __init__(self, stand: Stand, loop: Loop | None, relay: CountingRelay | None) -> None:
        self._stand = stand
        self._loop = loop
        self._relay = relay

    def bring(self, name: str, model: str, share: float) -> None:
        """Publish a model, and put the objects of a typical input into the store."""
        self._name, self._model = name, f"{name}-{model}".replace(".", "-")
        self._shape = SHAPES[name].scaled(share)
        self._fitted = fitted(self._shape, model)
        self._stand.publish(self._model, self._fitted)
        folder = made(name, share)
        self.layout = layout_of(folder)
        files = sorted(folder.iterdir())
        self._found = [f"in/{name}/{file.name}" for file in files]
        with ThreadPoolExecutor(_PUTS) as pool:
            list(pool.map(lambda key, file: self._stand.store.put(key, file.read_bytes()), self._found, files))

    def rehearse(self, way: str | None = None) -> str:
        """Let job and loop score twice, compare their results, and return the fastest way to divide the loop's work.

        If an input has only a limit of memory, the loop does not score it, and the answer is an empty text. The two
        processes of the loop would each fetch and decode 3 GB, which takes more memory than the machine has.
        """
        if not self._shape.limits:
            self.job()
            return ""
        groups = len(next(iter(self.layout.groups.values()), ()))
        possible = [way] if way else ways(self._shape.kind, len(self._found), groups)
        if self._model.endswith("forest"):
            possible = possible[:1]  # with a slow model, one process alone would take twice as long
        took = {each: min(self.by_hand(each)["work"] for _ in range(_REHEARSALS)) for each in possible}
        best = min(took, key=lambda each: took[each])
        if len(took) > 1:
            said = ", ".join(f"{each} {seconds:.2f} s" for each, seconds in took.items())
            print(f"{self._name} by hand: {said}", file=sys.stderr)
        for _ in range(_REHEARSALS):
            self.job()
        self._check(f"byhand-{best}/")
        return best

    def by_hand(self, way: str) -> Run:
        """Score with the handwritten loop."""
        assert self._loop is not None
        shape, before = self._shape, self._loop.cpu()
        took = self._loop.score(self._found, shape.kind, shape.names, shape.dtype, self._fitted, way)
        return {"work": took, "cpu": self._loop.cpu() - before}

    def job(self) -> Run:
        """Score with a job, and return its elapsed time, CPU time, parts, memory, and seconds by timing."""
        self._stand.rest()
        pool = self._stand.pool()
        for process in pool:
            forget_peak(process.pid)
        used = sum(sum(process.cpu_times()[:2]) for process in pool)
        begun = time.perf_counter()
        done = self._stand.score(
            self._model, f"in/{self._name}/", features=self._shape.names, keep="id", method="predict"
        )
        took = time.perf_counter() - begun
        self._output = parse_uri(done.output)[1]
        manifest = json.loads(self._stand.store.get(keys.results_manifest(self._output)).data)
        return {
            "work": took,
            "cpu": sum(sum(process.cpu_times()[:2]) for process in pool) - used,
            "parts": len(manifest["parts"]),
            "stages": {"plan": self._stand.planned_s} | manifest["seconds"],
            "memory_mb": max(peak_mb(process.pid) for process in pool),
        }

    def counted_job(self) -> Traffic:
        """Score with a job, and return its requests to the store."""
        assert self._relay is not None
        before = len(self._relay.requests)
        self.job()
        return traffic(self._relay.requests[before:], f"in/{self._name}/", self.layout)

    def _check(self, byhand: str) -> None:
        """Compare the results of the last job with the results of the handwritten loop."""
        store = self._stand.store
        ours = _read(store, [info.key for info in store.list(f"{self._output}part-")])
        theirs = _read(store, [info.key for info in store.list(byhand)])
        if ours.num_rows != self._shape.rows or not ours.equals(theirs):
            raise SystemExit(f"the results differ: {ours.num_rows:,} of {self._shape.rows:,} rows, or other values")


@contextlib.contextmanager
def contest(store: str, connections: int = CONNECTIONS) -> Iterator[Contest]:
    """Start Scoreline (a `Stand`) and a handwritten loop with so many connections."""
    with contextlib.ExitStack() as stack:
        stand = Stand(Path(".scoreline"), directory=store == "directory")
        if store == "slow":
            stand.distant = stack.enter_context(SlowStore())
        stack.enter_context(stand)
        loop = stack.enter_context(Loop(stand.environ, connections))
        yield Contest(stand, loop, None)


@contextlib.contextmanager
def counted() -> Iterator[Contest]:
    """Start Scoreline (a `Stand`) without a handwritten loop, and record its requests to the S3 server."""
    with CountingRelay() as relay:
        stand = Stand(Path(".scoreline"), directory=False)
        stand.relay = relay
        with stand:
            yield Contest(stand, None, relay)


def _read(store: Any, found: list[str]) -> pa.Table:
    tables = [pq.read_table(pa.BufferReader(store.get(key).data), columns=["id", "prediction"]) for key in found]
    return pa.concat_tables(tables).sort_by("id").combine_chunks()
