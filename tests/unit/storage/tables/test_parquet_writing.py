"""Parquet files have the layout that query engines prefer."""

from __future__ import annotations

from decimal import Decimal

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from scoreline.storage.tables import parquet


@pytest.fixture(scope="module")
def results() -> pa.Table:
    """Results of a job with columns of many types, sorted by id."""
    rows = parquet.GROUP_ROWS + 70_000
    return pa.table(
        {
            "id": np.arange(rows),
            "name": [f"customer {row}" for row in range(rows)],
            "a.b": np.arange(rows) % 3,
            "country": ["de", "fr"] * (rows // 2),
            "nothing": pa.nulls(rows),
            "list": [[1, 2]] * rows,
            "price": pa.array([Decimal("1.50")] * rows),
            "proba": np.random.default_rng(0).random(rows),
        }
    )


def test_equal_rows_give_equal_bytes_and_are_read_back_in_order(results: pa.Table) -> None:
    data = parquet.write(results, {"scoreline.job_id": "j"})
    assert parquet.write(results, {"scoreline.job_id": "j"}) == data
    read = pq.read_table(pa.BufferReader(data))
    assert read.equals(results)
    assert read.schema.metadata == {b"scoreline.job_id": b"j"}


def test_row_groups_and_pages_have_statistics(results: pa.Table) -> None:
    metadata = pq.read_metadata(pa.BufferReader(parquet.write(results, {})))
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    assert [group.num_rows for group in groups] == [parquet.GROUP_ROWS, 70_000]
    ids = [group.column(0) for group in groups]
    assert [(item.statistics.min, item.statistics.max) for item in ids] == [
        (0, parquet.GROUP_ROWS - 1),
        (parquet.GROUP_ROWS, results.num_rows - 1),
    ]
    assert all(group.column(number).has_offset_index for group in groups for number in range(group.num_columns))
    assert all(item.has_column_index for item in ids)


def test_only_columns_that_repeat_values_are_written_with_a_dictionary(results: pa.Table) -> None:
    group = pq.read_metadata(pa.BufferReader(parquet.write(results, {}))).row_group(0)
    columns = [group.column(number) for number in range(group.num_columns)]
    assert {column.path_in_schema for column in columns if column.has_dictionary_page} == {"a.b", "country", "price"}


def codecs(table: pa.Table) -> dict[str, str]:
    """Return how the columns of a written table are compressed."""
    group = pq.read_metadata(pa.BufferReader(parquet.write(table, {}))).row_group(0)
    return {column.path_in_schema: column.compression for column in map(group.column, range(group.num_columns))}


def test_numbers_that_compression_cannot_shrink_are_not_compressed() -> None:
    random = np.random.default_rng(0)
    table = pa.table(
        {
            "id": np.arange(9_000),
            "key": random.integers(0, 1 << 62, 9_000),
            "proba": random.random(9_000),
            "rounded": random.random(9_000).round(3),
            "name": [f"customer {key}" for key in random.integers(0, 1 << 62, 9_000)],
            "noise at first": np.where(np.arange(9_000) < 3_000, random.random(9_000), 0.5),
            "half": random.random(9_000).astype("float16"),
        }
    )
    found = codecs(table)
    assert {name for name, codec in found.items() if codec == "UNCOMPRESSED"} == {"key", "proba"}
    assert set(found.values()) == {"UNCOMPRESSED", "ZSTD"}
    lists = pa.array([[1, 2]] * 9_000, pa.list_(pa.int64(), 2))
    tensors = pa.ExtensionArray.from_storage(pa.fixed_shape_tensor(pa.int64(), [2]), lists)
    for column in (lists, tensors):  # codecs go by column, but a list has another path
        assert set(codecs(table.append_column("list", column)).values()) == {"ZSTD"}


def test_what_lies_below_missing_values_does_not_change_the_bytes() -> None:
    values = np.random.default_rng(0).random(9_000)
    missing = np.tile([True, False], 4_500)
    below = [pa.array(np.where(missing, other, values), mask=missing) for other in (0.0, values[::-1])]
    assert below[0].buffers()[1] != below[1].buffers()[1]
    assert len({parquet.write(pa.table({"proba": column}), {}) for column in below}) == 1
    assert codecs(pa.table({"proba": below[0]})) == {"proba": "UNCOMPRESSED"}


def test_a_table_without_rows_keeps_its_columns(results: pa.Table) -> None:
    data = parquet.write(results.slice(0, 0), {})
    assert pq.read_schema(pa.BufferReader(data)).equals(results.schema)
    assert pq.read_table(pa.BufferReader(parquet.write(pa.table({}), {}))).num_rows == 0


def test_another_engine_finds_a_row_by_the_statistics_of_row_groups(
    results: pa.Table, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("pruned") / "part.parquet"
    path.write_bytes(parquet.write(results, {}))
    found = duckdb.sql(f"select id, name, proba from '{path}' where id = {results.num_rows - 1}")
    assert found is not None
    rows = found.fetchall()
    assert rows == [tuple(results.select(["id", "name", "proba"]).slice(results.num_rows - 1).to_pylist()[0].values())]
