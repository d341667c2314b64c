"""The first rows of a file of results are those of one version of it."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from scoreline.storage.errors import ResultsDamaged
from scoreline.tasks.overview.samples import ROWS, first_rows
from tests.support.counting_store import RequestLog


def file_of(rows: int, seed: int) -> bytes:
    scores = np.random.default_rng(seed).random(rows)
    buffer = io.BytesIO()
    pd.DataFrame({"id": np.arange(rows), "score": scores}).to_parquet(buffer, index=False)
    return buffer.getvalue()


@pytest.fixture
def store(tmp_path: Path) -> RequestLog:
    return RequestLog(tmp_path, "scoreline")


@pytest.mark.parametrize(("rows", "most"), [(100, 1), (100_000, 5)])
def test_the_first_rows_take_few_requests(store: RequestLog, rows: int, most: int) -> None:
    info = store.put("a.parquet", file_of(rows, 1))
    store.requests.clear()
    found = first_rows(store, info, "a.parquet")
    assert [row[0] for row in found.rows] == list(range(ROWS))
    assert len(store.requests) <= most


def test_a_file_that_is_replaced_meanwhile_is_named_as_such(store: RequestLog) -> None:
    info = store.put("a.parquet", file_of(100, 1))
    store.put("a.parquet", file_of(100, 2))
    with pytest.raises(ResultsDamaged, match=r"a\.parquet was replaced or deleted while it was read"):
        first_rows(store, info, "a.parquet")
