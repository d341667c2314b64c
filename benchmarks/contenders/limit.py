"""The limit that jobs are compared with: a handwritten loop in two processes that have loaded the model.

A process gets the next file as soon as it is free. It copies the columns of Parquet into one matrix without pandas, and
writes the scores as columns.
"""

from __future__ import annotations

import contextlib
import multiprocessing
from collections.abc import Iterator
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.contenders.protocol import Prepare, Work, run
from benchmarks.work import PROCESSES, RESULT, columns, load

_BATCH_ROWS = 65_536


def score_file(name: str, model: Any, file: Path, out: Path) -> None:
    """Score a file with the same results as `benchmarks.work.score_file`, but in fewer steps."""
    batches = []
    for batch in pq.ParquetFile(file).iter_batches(batch_size=_BATCH_ROWS, columns=columns(name), use_threads=False):
        if name == "text":
            x = batch["text"].to_numpy(zero_copy_only=False)
        else:
            x = np.empty((len(batch), batch.num_columns - 1))
            for place, column in enumerate(batch.columns[1:]):
                x[:, place] = column.to_numpy()
        probabilities = model.predict_proba(x)
        labels = model.classes_.take(np.argmax(probabilities, axis=1))
        scored = [batch["id"], labels, probabilities[:, 0], probabilities[:, 1]]
        batches.append(pa.table([pa.array(values) for values in scored], names=list(RESULT)))
    pq.write_table(pa.concat_tables(batches), out / file.name, compression="zstd", use_dictionary=False)


def _serve(folder: Path, pipe: Any) -> None:
    name, model = "", None
    while (order := pipe.recv()) is not None:
        what, out = order
        if out is None:
            name, model = what, load(folder, what)
        else:
            score_file(name, model, what, out)
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
        left, free = list(files), list(pipes)
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
