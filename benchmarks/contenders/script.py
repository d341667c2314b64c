"""A typical script: pandas, one process, one file after the other."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from benchmarks.contenders.protocol import Prepare, Work, run
from benchmarks.work import load, score_file


@contextlib.contextmanager
def start(folder: Path) -> Iterator[Prepare]:
    """Start nothing: the script runs in this process."""

    def prepare(name: str) -> Work:
        model = load(folder, name)

        def work(files: list[Path], out: Path) -> None:
            for file in files:
                score_file(name, model, file, out)

        return work

    yield prepare


if __name__ == "__main__":
    run("script", start)
