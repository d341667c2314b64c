"""Typical inputs: row groups as pandas and pyarrow write them, wide tables, many small files, and texts.

`made` writes the objects of such an input (a `Shape`) from a fixed seed, unless they exist. ``python -m
benchmarks.shapes`` makes the objects of all inputs in `SHAPES`.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression

from benchmarks.work import DATA, PROCESSES

DEFAULT_GROUP = 1_048_576
"""Number of rows in a row group that pandas and pyarrow write by default."""
_BLOCK_ROWS = 100_000
_WRITTEN = 1
"""Version of the objects. Raise this version when `write` or `blocks` changes, so that the objects are made again."""
MODELS = ("linear", "forest")
_KINDS = {"parquet": "Parquet", "arrow": "Arrow file", "csv": "CSV", "csv.gz": "CSV.gz", "jsonl": "JSON Lines"}
_LIMITS = ("limits", "memory_mb", "most_read", "most_requests")
_FITTED_ROWS = 2_000


@dataclass(frozen=True, kw_only=True)
class Shape:
    """The layout of an input, and how much longer than a handwritten loop a job with this input may take."""

    rows: int
    features: int
    kind: str = "parquet"
    """``parquet``, ``csv``, ``csv.gz``, ``jsonl`` or ``arrow``."""
    group_rows: int = DEFAULT_GROUP
    file_rows: int | None = None
    """Rows of each file; None if there is one file."""
    dtype: Literal["float32", "float64"] = "float64"
    limits: dict[tuple[str, str], float]
    """The maximum ratio of the times of job and loop, by store and model."""
    memory_mb: int = 450
    """The maximum memory of a process in MB."""
    most_read: float | None = None
    """The maximum number of bytes that parts may read, divided by the bytes of the columns."""
    most_requests: int | None = None
    """The maximum number of requests for a row group, or for a small file including its planning."""

    @property
    def names(self) -> list[str]:
        """The features."""
        return [f"x{number}" for number in range(self.features)]

    @property
    def described(self) -> str:
        """Rows, columns and layout, as shown in tables.

        >>> SHAPES["groups"].described
        '2,200,000 rows x 18, Parquet, row groups of 1,048,576'
        """
        layout = _KINDS[self.kind]
        if self.file_rows is not None:
            layout = f"{self.rows // self.file_rows:,} Parquet files"
        elif self.kind == "parquet":
            layout += ", one row group" if self.group_rows >= self.rows else f", row groups of {self.group_rows:,}"
        return f"{self.rows:,} rows x {self.features:,}{' float32' * (self.dtype == 'float32')}, {layout}"

    def scaled(self, share: float) -> Shape:
        """Return the layout with only a fraction of its rows, in row groups and files of the same size."""
        rows = max(int(self.rows * share), 1_000)
        return Shape(**{**self.__dict__, "rows": rows})


_PARQUET = {
    ("directory", "linear"): 1.3,
    ("s3", "linear"): 1.5,
    ("directory", "forest"): 1.1,
    ("s3", "forest"): 1.15,
}
_FILES = _PARQUET | {("s3", "linear"): 1.3, ("slow", "linear"): 1.3}
_TEXT = {("directory", "linear"): 1.3, ("s3", "linear"): 1.3}
_WHOLE, _SHARED = 1.02, float(PROCESSES)
SHAPES = {
    "groups": Shape(rows=2_200_000, features=18, limits=_PARQUET, most_read=_WHOLE, most_requests=24),
    "one-group": Shape(rows=2_200_000, features=18, group_rows=2_200_000, limits=_PARQUET, most_read=_SHARED),
    "small-groups": Shape(rows=2_000_000, features=20, group_rows=65_536, limits=_PARQUET, most_read=_WHOLE),
    "large-group": Shape(rows=4_000_000, features=40, group_rows=4_000_000, limits=_PARQUET, most_read=_SHARED),
    "wide": Shape(rows=60_000, features=800, limits=_PARQUET, most_read=_SHARED),
    "wider": Shape(rows=100_000, features=2_000, dtype="float32", limits=_PARQUET, most_read=_SHARED),
    "widest": Shape(rows=50_000, features=10_000, dtype="float32", limits={}, memory_mb=700, most_read=_SHARED),
    "files": Shape(rows=1_000_000, features=18, file_rows=200, limits=_FILES, most_requests=2),
    "fewer-files": Shape(rows=300_000, features=18, file_rows=200, limits=_PARQUET, most_requests=2),
    "csv": Shape(rows=2_000_000, features=10, kind="csv", limits=_TEXT),
    "csv.gz": Shape(rows=2_000_000, features=10, kind="csv.gz", limits=_TEXT),
    "jsonl": Shape(rows=2_000_000, features=10, kind="jsonl", limits=_TEXT),
    "arrow": Shape(rows=2_000_000, features=18, kind="arrow", limits=_TEXT),
}


def made(name: str, share: float = 1.0) -> Path:
    """Return the folder with the objects of a typical input, and write them unless their current version exists."""
    folder = DATA / "shapes" / f"{name}-{share:g}"
    done, recipe = folder.parent / f"{name}-{share:g}.done", _recipe(SHAPES[name].scaled(share))
    if done.exists() and done.read_text() == recipe:
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    write(SHAPES[name].scaled(share), folder)
    done.write_text(recipe)
    return folder


def _recipe(shape: Shape) -> str:
    layout = {name: value for name, value in vars(shape).items() if name not in _LIMITS}
    return hashlib.sha256(f"{_WRITTEN} {layout}".encode()).hexdigest()


def fitted(shape: Shape, model: str) -> Any:
    """Fit a model on noise, with as many features as the input `shape` has."""
    random = np.random.default_rng(11)
    x = random.normal(size=(_FITTED_ROWS, shape.features)).astype(shape.dtype)
    y = (x[:, 0] + random.normal(size=_FITTED_ROWS) > 0).astype(int)
    if model == "linear":
        return LogisticRegression(max_iter=20, tol=1e-2).fit(x, y)
    return RandomForestClassifier(100, max_depth=10, random_state=0, n_jobs=1).fit(x, y)


def blocks(shape: Shape, rows: int = _BLOCK_ROWS) -> Iterator[pa.RecordBatch]:
    """Yield the rows of the input `shape`: an id, and features of noise."""
    random = np.random.default_rng(7)
    for first in range(0, shape.rows, rows):
        count = min(rows, shape.rows - first)
        values: Any = random.standard_normal(size=(shape.features, count)).astype(shape.dtype)
        if shape.kind in ("csv", "csv.gz", "jsonl"):
            values = values.round(6)
        columns = {"id": np.arange(first, first + count)} | dict(zip(shape.names, values, strict=True))
        yield pa.RecordBatch.from_pydict(columns)


def write(shape: Shape, folder: Path) -> None:
    """Write the objects of the input `shape` into a folder."""
    if shape.file_rows is not None:
        for number, block in enumerate(blocks(shape, shape.file_rows)):
            pq.write_table(pa.Table.from_batches([block]), folder / f"{number:06}.parquet")
        return
    step = max(1, min(_BLOCK_ROWS, 40_000_000 // shape.features))
    file = folder / f"0.{shape.kind}"
    if shape.kind == "parquet":
        table = pa.Table.from_batches(blocks(shape, step))
        pq.write_table(table, file, row_group_size=shape.group_rows)
    elif shape.kind == "arrow":
        table = pa.Table.from_batches(blocks(shape, step)).combine_chunks()
        with pa.ipc.new_file(file, table.schema) as out:
            out.write_table(table)
    elif shape.kind == "jsonl":
        with file.open("w") as lines:
            for block in blocks(shape, step):
                block.to_pandas().to_json(lines, orient="records", lines=True)
    else:
        schema = next(blocks(shape, 1)).schema
        compression = "gzip" if shape.kind == "csv.gz" else None
        with pa.output_stream(file, compression) as out, pyarrow.csv.CSVWriter(out, schema) as writer:
            for block in blocks(shape, step):
                writer.write_batch(block)


def main() -> None:
    """Make the objects of all inputs in `SHAPES` in advance, so that benchmarks do not have to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--share", type=float, default=1.0)
    asked = parser.parse_args()
    for name in asked.shapes:
        print(made(name, asked.share))


if __name__ == "__main__":
    main()
