"""Spark: `mapInPandas` on two cores, the model loaded by each Python worker once."""

from __future__ import annotations

import contextlib
import functools
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.contenders.protocol import Warm, Work, run
from benchmarks.work import PROCESSES, columns, inputs, load, score


@functools.cache
def _model(folder: str, name: str) -> Any:
    return load(Path(folder), name)


@contextlib.contextmanager
def start(folder: Path) -> Iterator[Warm]:
    """Start Spark, on the Java of this machine."""
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

    def warm(name: str) -> Work:
        where = str(folder)

        def parts(frames: Iterator[pd.DataFrame]) -> Iterator[pd.DataFrame]:
            from benchmarks.contenders.spark import _model  # of the module, so that a worker keeps it

            for frame in frames:
                yield score(_model(where, name), frame)

        def scored(files: list[Path]) -> Any:
            frame = session.read.parquet(*(str(file) for file in files)).select(*columns(name))
            return frame.mapInPandas(parts, "id long, prediction long, proba_0 double, proba_1 double")

        scored(inputs(folder, name)).limit(1).collect()
        return lambda files, out: scored(files).write.mode("overwrite").parquet(str(out))

    try:
        yield warm
    finally:
        session.stop()


if __name__ == "__main__":
    run("spark", start)
