"""Ray Data: two actors, each of which loads the model once.

Ray starts new actors for each dataset, so the time includes their imports and the loading of the model.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from benchmarks.contenders.protocol import Prepare, Work, run
from benchmarks.work import PROCESSES, columns, load, score


class _Scorer:
    def __init__(self, folder: str, name: str) -> None:
        self._model = load(Path(folder), name)

    def __call__(self, frame: pd.DataFrame) -> pd.DataFrame:
        return score(self._model, frame)


@contextlib.contextmanager
def start(folder: Path) -> Iterator[Prepare]:
    """Start Ray."""
    import ray
    from ray.data import ActorPoolStrategy, DataContext

    ray.init(
        num_cpus=2 * PROCESSES,  # each actor occupies one CPU; the tasks that read and write need further CPUs
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
        object_store_memory=2 << 30,
        _node_ip_address="127.0.0.1",
    )
    DataContext.get_current().enable_progress_bars = False

    def prepare(name: str) -> Work:
        def work(files: list[Path], out: Path) -> None:
            (
                ray.data.read_parquet([str(file) for file in files], columns=columns(name))
                .map_batches(
                    _Scorer,
                    fn_constructor_args=(str(folder), name),
                    compute=ActorPoolStrategy(size=PROCESSES),
                    batch_format="pandas",
                    batch_size=65_536,
                )
                .write_parquet(str(out), compression="zstd")
            )

        return work

    try:
        yield prepare
    finally:
        ray.shutdown()


if __name__ == "__main__":
    run("raydata", start)
