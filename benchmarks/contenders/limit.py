"""The limit that jobs are compared with: a handwritten loop in two processes that have already loaded the model.

As soon as a process is free, it gets the next file, or several small files. If there are fewer files than processes, it
gets the next row group. The process does not use pandas: it copies the columns of Parquet into one matrix, and writes
the scores as columns.
"""

from __future__ import annotations

import contextlib
import multiprocessing
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.contenders.protocol import Prepare, Work, run
from benchmarks.work import PROCESSES, RESULT, columns, load

_BATCH_ROWS = 65_536
_SMALL_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Unit:
    """The files or row groups that a process scores into one file of results."""

    files: tuple[Path, ...]
    groups: tuple[int, ...] | None
    """Row groups of the only file; None for all row groups."""
    out: str


def units(files: Sequence[Path]) -> list[Unit]:
    """Divide files into units of work for a process."""
    if len(files) < PROCESSES:
        return [
            Unit(files=(file,), groups=(group,), out=f"{file.stem}-{group}.parquet")
            for file in files
            for group in range(pq.read_metadata(file).num_row_groups)
        ]
    footers = [
        pq.read_metadata(file).num_rows if file.stat().st_size <= _SMALL_BYTES else _BATCH_ROWS for file in files
    ]
    found: list[list[Path]] = [[]]
    rows = 0
    for file, count in zip(files, footers, strict=True):
        if found[-1] and rows + count > _BATCH_ROWS:
            found.append([])
            rows = 0
        found[-1].append(file)
        rows += count
    return [Unit(files=tuple(bundle), groups=None, out=bundle[0].name) for bundle in found]


def score_unit(name: str, model: Any, unit: Unit, out: Path) -> None:
    """Score the files of a unit with the same results as `benchmarks.work.score_file`, but without pandas."""
    scored = [_scored(name, model, batch) for batch in _batches(name, unit)]
    pq.write_table(pa.concat_tables(scored), out / unit.out, compression="zstd", use_dictionary=False)


def _batches(name: str, unit: Unit) -> Iterator[Any]:
    opened = [pq.ParquetFile(file) for file in unit.files]
    if len(opened) > 1:
        yield pa.concat_tables(file.read(columns=columns(name), use_threads=False) for file in opened)
        return
    groups = None if unit.groups is None else list(unit.groups)
    yield from opened[0].iter_batches(
        batch_size=_BATCH_ROWS, row_groups=groups, columns=columns(name), use_threads=False
    )


def _scored(name: str, model: Any, batch: Any) -> pa.Table:
    if name == "text":
        x = batch["text"].to_numpy(zero_copy_only=False)
    else:
        x = np.empty((batch.num_columns - 1, batch.num_rows)).T  # each column is contiguous in memory
        for place, column in enumerate(batch.columns[1:]):
            x[:, place] = column.to_numpy()
    probabilities = model.predict_proba(x)
    labels = model.classes_.take(np.argmax(probabilities, axis=1))
    scored = [batch["id"], labels, probabilities[:, 0], probabilities[:, 1]]
    return pa.table(scored, names=list(RESULT))


def _serve(folder: Path, pipe: Any) -> None:
    name, model = "", None
    while (order := pipe.recv()) is not None:
        what, out = order
        if out is None:
            name, model = what, load(folder, what)
        else:
            score_unit(name, model, what, out)
        pipe.send("done")


def _answer(pipe: Any) -> None:
    try:
        pipe.recv()
    except (EOFError, ConnectionError):
        raise RuntimeError("a process of the loop has died") from None


@contextlib.contextmanager
def start(folder: Path) -> Iterator[Prepare]:
    """Start the processes."""
    context = multiprocessing.get_context("spawn")
    pipes, processes = [], []
    for _ in range(PROCESSES):
        ours, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(folder, theirs), daemon=True)
        process.start()
        theirs.close()  # otherwise the pipe would stay open when the process dies
        pipes.append(ours)
        processes.append(process)

    def prepare(model: str) -> Work:
        for pipe in pipes:
            pipe.send((model, None))
        for pipe in pipes:
            _answer(pipe)
        return work

    def work(files: list[Path], out: Path) -> None:
        left, free = units(files), list(pipes)
        busy: set[Connection] = set()
        while left or busy:
            while left and free:
                pipe = free.pop()
                pipe.send((left.pop(0), out))
                busy.add(pipe)
            for pipe in busy.intersection(wait(busy)):
                _answer(pipe)
                busy.remove(pipe)
                free.append(pipe)

    yield prepare
    for pipe in pipes:
        pipe.send(None)
    for process in processes:
        process.join()


if __name__ == "__main__":
    run("limit", start)
