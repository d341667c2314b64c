"""Spark: `mapInPandas` on two cores, where each Python worker loads the model once."""

from __future__ import annotations

import contextlib
import functools
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.contenders.protocol import Prepare, Work, run
from benchmarks.work import PROCESSES, columns, load, score


@functools.cache
def _model(folder: str, name: str) -> Any:
    return load(Path(folder), name)


@contextlib.contextmanager
def start(folder: Path) -> Iterator[Prepare]:
    """Start Spark with the Java of this machine."""
    from pyspark.sql import SparkSession

    os.environ |= {"PYSPARK_PYTHON": sys.executable, "SPARK_LOCAL_IP": "127.0.0.1"}
    session = (
        SparkSession.builder.master(f"local[{PROCESSES}]")
        .config("spark.ui.enabled", "false")
        .config("spark.driver.memory", "4g")
        .config("spark.driver.bindAddress", "127.0.0.1")
        .config("spark.local.dir", str(folder / "spark"))
        .config("spark.sql.execution.arrow.maxRecordsPerBatch", "65536")
        .config("spark.sql.parquet.compression.codec", "zstd")
        .getOrCreate()
    )
    session.sparkContext.setLogLevel("ERROR")

    def prepare(name: str) -> Work:
        where = str(folder)

        def parts(frames: Iterator[pd.DataFrame]) -> Iterator[pd.DataFrame]:
            from benchmarks.contenders.spark import _model  # the module stores the model, so the model is loaded once

            for frame in frames:
                yield score(_model(where, name), frame)

        def work(files: list[Path], out: Path) -> None:
            frame = session.read.parquet(*(str(file) for file in files)).select(*columns(name))
            scored = frame.mapInPandas(parts, "id long, prediction long, proba_0 double, proba_1 double")
            scored.write.mode("overwrite").parquet(str(out))

        return work

    try:
        yield prepare
    finally:
        session.stop()


if __name__ == "__main__":
    run("spark", start)
