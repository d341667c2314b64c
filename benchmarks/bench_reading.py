"""Measure how fast one process reads Parquet from a store with 30 ms per request and 60 MB/s per connection.

The file is one that pandas would write: it has 18 columns, and row groups of 1,048,576 rows. Claim: the process reads
at least 200 MB/s.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.measure import no_options, record_figure
from benchmarks.slow_store import SlowStore
from scoreline.storage.objects.r2 import R2Store
from scoreline.storage.prefetch import prefetched
from scoreline.storage.settings import R2Settings
from scoreline.storage.tables.base import Pinned, Span
from scoreline.storage.tables.parquet import ParquetFormat

ROWS, COLUMNS, GROUP_ROWS, RUNS, LIMIT_MB_S = 3_145_728, 18, 1_048_576, 3, -200.0
_KEY = "reading.parquet"
_DATA = Path(".cache/bench/reading.parquet")


def measure(store: R2Store) -> float:
    """Read the whole file, and return MB/s."""
    source = Pinned.of(store, store.head(_KEY))
    formats = ParquetFormat()
    schema = formats.survey(source).schema
    span = Span(start=0, stop=ROWS, first_row=0, rows=ROWS, size=0)
    begun = time.perf_counter()
    batches: Any = formats.read(source, span, schema, 65_536)
    rows = sum(item.batch.num_rows for item in prefetched(batches))
    assert rows == ROWS
    return source.size / 1e6 / (time.perf_counter() - begun)


def main() -> None:
    """Measure and print."""
    no_options(__doc__)
    if not _DATA.exists():
        _DATA.parent.mkdir(parents=True, exist_ok=True)
        values = np.random.default_rng(0).normal(size=(COLUMNS, ROWS))
        table = pa.table([pa.array(column) for column in values], names=[f"x{number}" for number in range(COLUMNS)])
        pq.write_table(table, _DATA, row_group_size=GROUP_ROWS)
    with SlowStore() as server:
        store = R2Store(R2Settings(endpoint_url=server.endpoint, access_key_id="a", secret_access_key="b"), "bucket")
        store.put(_KEY, _DATA.read_bytes())
        speeds = [measure(store) for _ in range(RUNS)]
    record_figure("reading", "MB/s that a process reads from a distant store", speeds, LIMIT_MB_S)


if __name__ == "__main__":
    main()
