"""Dask distributed: two single-threaded workers, each of which loads the model once.

A partition is a file, or a row group if there are fewer files than workers. Dask itself combines small files into
partitions.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.contenders.protocol import Prepare, Work, run
from benchmarks.work import PROCESSES, RESULT, columns, load, score


@functools.cache
def _model(folder: str, name: str) -> Any:
    return load(Path(folder), name)


def _part(frame: pd.DataFrame, folder: str, name: str) -> pd.DataFrame:
    return score(_model(folder, name), frame)


@contextlib.contextmanager
def start(folder: Path) -> Iterator[Prepare]:
    """Start scheduler and workers."""
    import dask.dataframe as dd
    from distributed import Client, LocalCluster

    with (
        LocalCluster(
            n_workers=PROCESSES,
            threads_per_worker=1,
            processes=True,
            dashboard_address=None,
            local_directory=str(folder / "dask"),
            host="127.0.0.1",
        ) as cluster,
        Client(cluster),
    ):

        def prepare(name: str) -> Work:
            def work(files: list[Path], out: Path) -> None:
                frame = dd.read_parquet(
                    [str(file) for file in files], columns=columns(name), split_row_groups=len(files) < PROCESSES
                )
                scored = frame.map_partitions(_part, str(folder), name, meta=RESULT)
                scored.to_parquet(str(out), compression="zstd", write_index=False)

            return work

        yield prepare


if __name__ == "__main__":
    run("daskdistributed", start)
