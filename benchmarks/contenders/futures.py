"""The standard library: a pool of processes, each of which loads the model once, and one task per file."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from benchmarks.contenders.protocol import Prepare, Work, run
from benchmarks.work import PROCESSES, load, score_file


@functools.cache
def _model(folder: Path, name: str) -> Any:
    return load(folder, name)


def _one(folder: Path, name: str, out: Path, file: Path) -> None:
    score_file(name, _model(folder, name), file, out)


@contextlib.contextmanager
def start(folder: Path) -> Iterator[Prepare]:
    """Start the pool."""
    with ProcessPoolExecutor(PROCESSES, mp_context=get_context("spawn")) as pool:

        def prepare(name: str) -> Work:
            def work(files: list[Path], out: Path) -> None:
                list(pool.map(functools.partial(_one, folder, name, out), files))

            return work

        yield prepare


if __name__ == "__main__":
    run("futures", start)
