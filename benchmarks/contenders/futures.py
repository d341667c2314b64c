"""The standard library: a pool of processes, a file a task, the model loaded by each process once."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from benchmarks.contenders.protocol import Warm, Work, run
from benchmarks.work import PROCESSES, load, score_file, warm_up


@functools.cache
def _model(folder: Path, name: str) -> Any:
    return load(folder, name)


def _warm(folder: Path, name: str) -> None:
    warm_up(folder, name, _model(folder, name))


def _one(folder: Path, name: str, out: Path, file: Path) -> None:
    score_file(name, _model(folder, name), file, out)


@contextlib.contextmanager
def start(folder: Path) -> Iterator[Warm]:
    """Start the pool."""
    with ProcessPoolExecutor(PROCESSES, mp_context=get_context("spawn")) as pool:

        def warm(name: str) -> Work:
            for done in [pool.submit(_warm, folder, name) for _ in range(2 * PROCESSES)]:
                done.result()

            def work(files: list[Path], out: Path) -> None:
                list(pool.map(functools.partial(_one, folder, name, out), files))

            return work

        yield warm


if __name__ == "__main__":
    run("futures", start)
