"""What a job is held against: a loop by hand in two processes, the models loaded, each with every other file."""

from __future__ import annotations

import contextlib
import multiprocessing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.contenders.protocol import Prepare, run
from benchmarks.work import PROCESSES, load, score_file


def _serve(folder: Path, pipe: Any) -> None:
    name, model = "", None
    while (order := pipe.recv()) is not None:
        kind, what, out = order
        if kind == "load":
            name, model = what, load(folder, what)
        else:
            for file in what:
                score_file(name, model, file, out)
        pipe.send("done")


@contextlib.contextmanager
def start(folder: Path) -> Iterator[Prepare]:
    """Start the processes."""
    context = multiprocessing.get_context("spawn")
    pipes, processes = [], []
    for _ in range(PROCESSES):
        ours, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(folder, theirs), daemon=True)
        process.start()
        pipes.append(ours)
        processes.append(process)

    def all_do(orders: list[Any]) -> None:
        for pipe, order in zip(pipes, orders, strict=True):
            pipe.send(order)
        for pipe in pipes:
            pipe.recv()

    def prepare(model: str) -> Any:
        all_do([("load", model, None)] * PROCESSES)
        return lambda files, out: all_do([("score", files[n::PROCESSES], out) for n in range(PROCESSES)])

    yield prepare
    for pipe in pipes:
        pipe.send(None)
    for process in processes:
        process.join()


if __name__ == "__main__":
    run("limit", start)
