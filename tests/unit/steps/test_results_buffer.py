"""The results of a part are encoded batch by batch, to the same bytes as if all rows were encoded at once."""

from __future__ import annotations

import gc
import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from scoreline.storage.tables import parquet
from scoreline.storage.tables.packing import PackedWindow
from scoreline.tasks.steps import parquet_buffer
from scoreline.tasks.steps.parquet_buffer import ResultsBuffer

FOOTER = {"scoreline.job_id": "j"}


def results(rows: int) -> pa.Table:
    numbers = np.arange(rows)
    words = pa.array([f"w{number % 7}" for number in numbers])
    return pa.table({"id": numbers, "text": [f"t{number}" for number in numbers], "word": words, "y": np.sqrt(numbers)})


@pytest.mark.parametrize("batch_rows", [300, 512, 1_000, 5_000])
@pytest.mark.parametrize("rows", [0, 1, 1_000, 1_001, 3_500])
def test_the_bytes_are_those_of_all_rows_encoded_at_once(
    rows: int, batch_rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet, "GROUP_ROWS", 1_000)
    table = results(rows)
    batches = [table.slice(start, batch_rows) for start in range(0, rows, batch_rows)]
    if batches:  # each batch has a different dictionary
        place = table.schema.get_field_index("word")
        batches = [item.set_column(place, "word", item["word"].dictionary_encode()) for item in batches]
        table = pa.concat_tables(batches)
    buffer = ResultsBuffer(table.schema, FOOTER)
    for batch in batches:
        buffer.add(batch)
    assert buffer.rows == rows
    assert buffer.finish() == parquet.write(table, FOOTER)


def test_wide_rows_are_encoded_before_they_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet_buffer, "WAITING_BYTES", 50_000)
    table = pa.table({"text": [f"{number:0>1000}" for number in range(500)]})
    buffer = ResultsBuffer(table.schema, FOOTER)
    for start in range(0, 500, 10):
        buffer.add(table.slice(start, 10))
    file = pq.ParquetFile(io.BytesIO(buffer.finish()))
    assert file.metadata.num_row_groups == 10
    assert file.read().equals(table)


def test_waiting_rows_do_not_keep_the_memory_of_their_batch() -> None:
    # Given rows of a wide table in which the columns share one block of memory
    window = PackedWindow(pa.schema([("id", pa.int64()), ("text", pa.string()), ("x", pa.float64())]), [4_000])
    window.add("id", pa.chunked_array([np.arange(4_000)]))
    window.add("text", pa.chunked_array([["a"] * 4_000]))
    window.add("x", pa.chunked_array([np.arange(4_000.0)]))
    kept = pa.Table.from_batches([window.take()]).select(["id", "text"])
    # When some of the columns wait for more rows
    buffer = ResultsBuffer(kept.schema, FOOTER)
    buffer.add(kept)
    expected = parquet.write(kept, FOOTER)
    del kept
    gc.collect()
    # Then the memory of the batch is no longer in use
    assert window.held_bytes == 0
    assert buffer.finish() == expected
