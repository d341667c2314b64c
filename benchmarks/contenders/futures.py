"""The standard library: a pool of processes, a file a task, the model loaded by each process once."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.contenders.protocol import Warm, Work, run
from benchmarks.work import PROCESSES, columns, inputs, load, score


@functools.cache
def _model(folder: Path, name: str) -> Any:
    return load(folder, name)


def _one(folder: Path, name: str, file: Path, out: Path | None) -> None:
    frame = pd.read_parquet(file, columns=columns(name))
    if out is None:
        score(_model(folder, name), frame[:1_000])
    else:
        score(_model(folder, name), frame).to_parquet(out / file.name, compression="zstd")


@contextlib.contextmanager
def start(folder: Path) -> Iterator[Warm]:
    """Start the pool."""
    with ProcessPoolExecutor(PROCESSES, mp_context=get_context("spawn")) as pool:

        def warm(name: str) -> Work:
            first = inputs(folder, name)[0]
            list(pool.map(functools.partial(_one, folder, name, out=None), [first] * 2 * PROCESSES))

            def work(files: list[Path], out: Path) -> None:
                list(pool.map(functools.partial(_one, folder, name, out=out), files))

            return work

        yield warm


if __name__ == "__main__":
    run("futures", start)
