"""A script as most are: pandas, one process, file by file."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from benchmarks.contenders.protocol import Warm, Work, run
from benchmarks.work import columns, inputs, load, score


@contextlib.contextmanager
def start(folder: Path) -> Iterator[Warm]:
    """Nothing has to start."""

    def warm(name: str) -> Work:
        model, wanted = load(folder, name), columns(name)
        score(model, pd.read_parquet(inputs(folder, name)[0], columns=wanted)[:1_000])

        def work(files: list[Path], out: Path) -> None:
            for file in files:
                score(model, pd.read_parquet(file, columns=wanted)).to_parquet(out / file.name, compression="zstd")

        return work

    yield warm


if __name__ == "__main__":
    run("script", start)
