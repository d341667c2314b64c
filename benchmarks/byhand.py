"""The handwritten loop that jobs are compared with: two warm processes that read whole objects with pyarrow.

Each process downloads whole objects, copies the features into one matrix, and writes its scores as one object. Row
groups and files are divided between the processes. If an object is a text or has a single row group, each process reads
all of it and scores half of the rows.
"""

from __future__ import annotations

import io
import multiprocessing
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet as pq

from benchmarks.turn import THREADS
from benchmarks.work import PROCESSES
from scoreline.storage.objects.base import ObjectStore
from scoreline.tasks.client import Client

_BATCH_ROWS = 65_536
_REQUESTS = 8
"""Number of files that a process fetches at a time. Two processes fetch 16."""


@dataclass(frozen=True, kw_only=True)
class Order:
    """The work of one process."""

    keys: Sequence[str]
    kind: str
    features: Sequence[str]
    dtype: str
    model: Any
    share: int
    """Number of the process, which decides which rows it scores."""
    out: str


class Loop:
    """Runs the loop's processes until its `with` block ends. `environ` says which store they use."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = dict(environ) | dict.fromkeys(THREADS, "1")

    def __enter__(self) -> Self:
        context = multiprocessing.get_context("spawn")
        self._pipes: list[Connection] = []
        self._processes = []
        for _ in range(PROCESSES):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(self._environ, theirs), daemon=True)
            process.start()
            theirs.close()
            self._pipes.append(ours)
            self._processes.append(process)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for pipe in self._pipes:
            pipe.close()
        for process in self._processes:
            process.join()

    def cpu(self) -> float:
        """Return the seconds of CPU that the processes took so far."""
        return sum(sum(psutil.Process(process.pid).cpu_times()[:2]) for process in self._processes)

    def score(self, keys: Sequence[str], kind: str, features: Sequence[str], dtype: str, model: Any) -> float:
        """Score objects, and return how many seconds that took. The scores are written below ``byhand/``."""
        for share, pipe in enumerate(self._pipes):
            out = f"byhand/{share}.parquet"
            order = Order(keys=keys, kind=kind, features=features, dtype=dtype, model=model, share=share, out=out)
            pipe.send(order)
        for pipe in self._pipes:
            pipe.recv()  # each process has loaded the model
        begun = time.perf_counter()
        for pipe in self._pipes:
            pipe.send("go")
        for pipe in self._pipes:
            if answer := pipe.recv():
                raise RuntimeError(f"the handwritten loop failed: {answer}")
        return time.perf_counter() - begun


def _serve(environ: Mapping[str, str], pipe: Connection) -> None:
    os.environ.update(environ)
    pa.set_cpu_count(1)
    store = Client.from_env(environ).buckets.main
    while True:
        try:
            order = pipe.recv()
            pipe.send("ready")
            pipe.recv()
        except (EOFError, OSError):
            return
        try:
            _score(store, order)
        except Exception as error:  # noqa: BLE001  # raised again in the process that measures
            pipe.send(repr(error))
        else:
            pipe.send("")


def _score(store: ObjectStore, order: Order) -> None:
    scored = [_predict(order, table) for table in _tables(store, order)]
    sink = io.BytesIO()
    pq.write_table(pa.concat_tables(scored), sink, compression="zstd", use_dictionary=False)
    store.put(order.out, sink.getvalue())


def _predict(order: Order, table: pa.Table) -> pa.Table:
    x = np.empty((table.num_rows, len(order.features)), order.dtype)
    for place, name in enumerate(order.features):
        x[:, place] = table[name].to_numpy()
    return pa.table({"id": table["id"], "prediction": order.model.predict(x)})


def _tables(store: ObjectStore, order: Order) -> Iterator[pa.Table]:
    """Yield the rows that a process scores, a batch at a time."""
    columns = ["id", *order.features]
    if len(order.keys) > 1:
        mine = order.keys[order.share :: PROCESSES]
        with ThreadPoolExecutor(_REQUESTS) as pool:
            files = pool.map(lambda key: store.get(key).data, mine)
            tables = (pq.read_table(io.BytesIO(data), columns=columns, use_threads=False) for data in files)
            yield from _filled(tables)
        return
    data = io.BytesIO(store.get(order.keys[0]).data)
    if order.kind == "parquet":
        file = pq.ParquetFile(data)
        groups = range(file.num_row_groups)
        if len(groups) > 1:
            for number in groups[order.share :: PROCESSES]:
                yield from _cut(file.read_row_group(number, columns=columns, use_threads=False))
            return
        whole = file.read(columns=columns, use_threads=False)
    elif order.kind == "arrow":
        whole = pa.ipc.open_file(data).read_all()
    elif order.kind == "jsonl":
        whole = pyarrow.json.read_json(data, pyarrow.json.ReadOptions(use_threads=False))
    else:
        raw = pa.input_stream(data, compression="gzip" if order.kind == "csv.gz" else None)
        whole = pyarrow.csv.read_csv(raw, pyarrow.csv.ReadOptions(use_threads=False))
    half = whole.num_rows // PROCESSES
    yield from _cut(whole.slice(order.share * half, half if order.share < PROCESSES - 1 else None))


def _cut(table: pa.Table) -> Iterator[pa.Table]:
    for start in range(0, table.num_rows, _BATCH_ROWS):
        yield table.slice(start, _BATCH_ROWS)


def _filled(tables: Iterator[pa.Table]) -> Iterator[pa.Table]:
    waiting: list[pa.Table] = []
    for table in tables:
        waiting.append(table)
        if sum(item.num_rows for item in waiting) >= _BATCH_ROWS:
            yield pa.concat_tables(waiting)
            waiting = []
    if waiting:
        yield pa.concat_tables(waiting)


def peak_mb(pid: int) -> float:
    """Return the largest resident memory of a process since `forget_peak`, in MB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024 / 1e6
    raise RuntimeError(f"process {pid} has ended")


def forget_peak(pid: int) -> None:
    """Reset the largest resident memory of each process."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")
