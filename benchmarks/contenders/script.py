"""A script as most are: pandas, one process, file by file."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from benchmarks.contenders.protocol import Warm, Work, run
from benchmarks.work import load, score_file, warm_up


@contextlib.contextmanager
def start(folder: Path) -> Iterator[Warm]:
    """Nothing has to start."""

    def warm(name: str) -> Work:
        model = load(folder, name)
        warm_up(folder, name, model)

        def work(files: list[Path], out: Path) -> None:
            for file in files:
                score_file(name, model, file, out)

        return work

    yield warm


if __name__ == "__main__":
    run("script", start)
