"""The handwritten loop that jobs are compared with: two warm processes that fetch objects and read them with pyarrow.

Each process copies the features of a batch into one matrix, column by column, and writes all its scores as one object.
There are several ways to divide the work between the processes. `ways` returns those ways to divide the work that make
sense for an input, and a job is compared with the fastest of them:

``units``
    Each process takes every second object or row group, and otherwise fetches only footers. A batch may contain rows of
    several objects.
``whole``
    As ``units``, but simpler: a process fetches a whole object even if it needs only some of its row groups. If an
    object cannot be divided, both processes decode it, as in ``twice``.
``alone``
    One process does all the work, and the other one waits.
``twice``
    Both processes fetch and decode the whole object, and each scores half of its rows.
``halves``
    Both processes fetch and decompress the whole text, and each parses and scores half of its lines. The text must not
    have line ends inside quotes.
"""

from __future__ import annotations

import gzip
import io
import multiprocessing
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
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
_BATCH_BYTES = 32 << 20
"""Maximum size of the matrix. Larger matrices are slower, because they do not fit into the processor's cache."""
WAYS = ("units", "whole", "alone", "twice", "halves")
_TEXTS = ("csv", "csv.gz", "jsonl")
CONNECTIONS = 16
"""Number of files that all processes together fetch at a time, as a typical loop does."""
_RANGES = 8
"""Number of ranges of one object that a process fetches at a time."""
_RANGE_BYTES = 8 << 20
"""Maximum size of a range."""
_FOOTER_BYTES = 1 << 20
"""Number of bytes that are fetched first to read the footer of an object. A longer footer takes a second request."""


@dataclass(frozen=True, kw_only=True)
class Order:
    """The work of one process."""

    keys: Sequence[str]
    kind: str
    features: Sequence[str]
    dtype: str
    model: Any
    way: str
    share: int
    """Number of the process. The number decides which rows the process scores."""
    out: str
    connections: int
    """Number of files that the process fetches at a time."""


def ways(kind: str, objects: int, groups: int) -> tuple[str, ...]:
    """Return the ways to divide an input between processes.

    `groups` is the number of row groups of the first object of the input.

    >>> ways("parquet", 1, 3)
    ('units', 'whole')
    >>> ways("csv.gz", 1, 0)
    ('halves', 'alone')
    """
    if objects > 1:
        return ("units",)
    if groups > 1:
        return ("units", "whole")
    return ("halves", "alone") if kind in _TEXTS else ("twice", "alone")


class Loop:
    """Runs the processes of the handwritten loop, and stops them at the end of its `with` block.

    The settings in `environ` choose the store. The processes together fetch `connections` files at a time.
    """

    def __init__(self, environ: Mapping[str, str], connections: int = CONNECTIONS) -> None:
        self._connections = max(1, connections // PROCESSES)
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
        """Return the CPU seconds that the processes have used so far."""
        return sum(sum(psutil.Process(process.pid).cpu_times()[:2]) for process in self._processes)

    def score(self, keys: Sequence[str], kind: str, features: Sequence[str], dtype: str, model: Any, way: str) -> float:
        """Score objects, and return the elapsed seconds. The results are written below ``byhand-WAY/``."""
        pipes = self._pipes[:1] if way == "alone" else self._pipes
        for share, pipe in enumerate(pipes):
            out = f"byhand-{way}/{share}.parquet"
            pipe.send(
                Order(
                    keys=keys,
                    kind=kind,
                    features=features,
                    dtype=dtype,
                    model=model,
                    way=way,
                    share=share,
                    out=out,
                    connections=self._connections,
                )
            )
        for pipe in pipes:
            pipe.recv()  # the model is loaded
        begun = time.perf_counter()
        for pipe in pipes:
            pipe.send("go")
        for pipe in pipes:
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
            score(store, order)
        except Exception as error:  # noqa: BLE001  # raised again in the process that measures
            pipe.send(repr(error))
        else:
            pipe.send("")


def score(store: ObjectStore, order: Order) -> None:
    """Score the rows of one process, and write the results."""
    scored = [_predict(order, table) for table in _tables(store, order)]
    sink = io.BytesIO()
    pq.write_table(pa.concat_tables(scored), sink, compression="zstd", use_dictionary=False)
    store.put(order.out, sink.getvalue())


def _predict(order: Order, table: pa.Table) -> pa.Table:
    x = np.empty((len(order.features), table.num_rows), order.dtype).T  # each column is contiguous in memory
    for place, name in enumerate(order.features):
        x[:, place] = table[name].to_numpy()
    return pa.table({"id": table["id"], "prediction": order.model.predict(x)})


def _tables(store: ObjectStore, order: Order) -> Iterator[pa.Table]:
    """Yield the rows that one process scores, batch by batch."""
    rows = max(1, min(_BATCH_ROWS, _BATCH_BYTES // (len(order.features) * np.dtype(order.dtype).itemsize)))
    columns = ["id", *order.features]
    if len(order.keys) > 1:
        with ThreadPoolExecutor(order.connections) as pool:
            mine = pool.map(lambda key: store.get(key).data, order.keys[order.share :: PROCESSES])
            files = (_open(data) for data in mine)
            yield from _filled((file.read(columns=columns, use_threads=False) for file in files), rows)
        return
    if order.way == "units":
        for table in _own_groups(store, order.keys[0], columns, order.share):
            yield from _cut(table, rows)
        return
    data = store.get(order.keys[0]).data
    if order.way == "whole" and order.kind == "parquet" and (file := _open(data)).num_row_groups > 1:
        for number in range(file.num_row_groups)[order.share :: PROCESSES]:
            yield from _cut(file.read_row_group(number, columns=columns, use_threads=False), rows)
    elif order.way == "halves":
        lines = own_lines(_decompressed(data, order.kind), order.share, PROCESSES)
        yield from _cut(_parsed(lines, order.kind, columns, header=order.share == 0), rows)
    else:
        whole = _whole(data, order.kind, columns)
        half = whole.num_rows // PROCESSES
        if order.way in ("twice", "whole"):
            whole = whole.slice(order.share * half, half if order.share < PROCESSES - 1 else None)
        yield from _cut(whole, rows)


def _open(data: Any) -> pq.ParquetFile:
    return pq.ParquetFile(pa.BufferReader(data))


def _own_groups(store: ObjectStore, key: str, columns: Sequence[str], share: int) -> Iterator[pa.Table]:
    """Read every second row group of an object, and fetch only the footer and the needed columns of these row groups.

    Several ranges are fetched at a time, while an earlier row group is decoded. The ranges are written into a buffer
    with the size of the object. Pages of the buffer that are never written take no memory.
    """
    size = store.head(key).size
    memory = np.empty(size, np.uint8)

    def fetch(start: int, stop: int) -> None:
        store.get(key, byte_range=(start, stop), into=[memoryview(memory)[start:stop]])

    fetch(max(0, size - _FOOTER_BYTES), size)
    footer = int.from_bytes(memory[-8:-4].tobytes(), "little") + 8
    if footer > _FOOTER_BYTES:
        fetch(size - footer, size - _FOOTER_BYTES)
    file = _open(memory)
    numbers = range(file.num_row_groups)[share::PROCESSES]
    with ThreadPoolExecutor(_RANGES) as pool:
        fetched: list[list[Future[None]]] = [
            [pool.submit(fetch, *found) for found in ranges(file.metadata.row_group(number), columns)]
            for number in numbers
        ]
        for number, waiting in zip(numbers, fetched, strict=True):
            for future in waiting:
                future.result()
            yield file.read_row_group(number, columns=columns, use_threads=False)


def ranges(group: pq.RowGroupMetaData, columns: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Yield the byte ranges of some columns of a row group. Adjacent column chunks are fetched with common ranges."""
    chunks = []
    for number in range(group.num_columns):
        chunk = group.column(number)
        if chunk.path_in_schema.partition(".")[0] in columns:
            begin = chunk.data_page_offset
            if chunk.dictionary_page_offset is not None:
                begin = min(begin, chunk.dictionary_page_offset)
            chunks.append((begin, begin + chunk.total_compressed_size))
    joined: list[list[int]] = []
    for start, stop in sorted(chunks):
        if joined and joined[-1][1] == start:
            joined[-1][1] = stop
        else:
            joined.append([start, stop])
    for start, stop in joined:
        for begin in range(start, stop, _RANGE_BYTES):
            yield begin, min(begin + _RANGE_BYTES, stop)


def _whole(data: bytes, kind: str, columns: Sequence[str]) -> pa.Table:
    """Decode a whole object."""
    if kind == "parquet":
        return _open(data).read(columns=columns, use_threads=False)
    if kind == "arrow":
        return pa.ipc.open_file(pa.BufferReader(data)).read_all()
    return _parsed(_decompressed(data, kind), kind, columns, header=True)


def _decompressed(data: bytes, kind: str) -> bytes:
    return gzip.decompress(data) if kind.endswith(".gz") else data


def own_lines(text: bytes, share: int, shares: int) -> pa.Buffer:
    r"""Return the lines that one of several processes parses. Each process gets about the same number of bytes.

    >>> [own_lines(b"a\nbb\nc\nd\n", share, 2).to_pybytes() for share in (0, 1)]
    [b'a\nbb\n', b'c\nd\n']
    """
    inner = (text.index(b"\n", len(text) * number // shares) + 1 for number in range(1, shares))
    bounds = [0, *inner, len(text)]
    return pa.py_buffer(text).slice(bounds[share], bounds[share + 1] - bounds[share])


def _parsed(text: Any, kind: str, columns: Sequence[str], *, header: bool) -> pa.Table:
    """Parse lines of JSON, or lines of CSV whose columns are exactly `columns`."""
    if kind == "jsonl":
        return pyarrow.json.read_json(pa.BufferReader(text), pyarrow.json.ReadOptions(use_threads=False))
    options = pyarrow.csv.ReadOptions(use_threads=False, skip_rows=int(header), column_names=columns)
    return pyarrow.csv.read_csv(pa.BufferReader(text), options)


def _cut(table: pa.Table, rows: int) -> Iterator[pa.Table]:
    for start in range(0, table.num_rows, rows):
        yield table.slice(start, rows)


def _filled(tables: Iterator[pa.Table], rows: int) -> Iterator[pa.Table]:
    waiting: list[pa.Table] = []
    for table in tables:
        waiting.append(table)
        if sum(item.num_rows for item in waiting) >= rows:
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
    """Reset the largest resident memory of a process."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")
