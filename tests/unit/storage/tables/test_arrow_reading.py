"""An Arrow object is read to its last byte, or the error says what of it was not."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from scoreline.storage.errors import UnreadableInput
from scoreline.storage.tables.arrow import ArrowFormat
from tests.support.text_tables import Put

TABLE = pa.table(
    {
        "id": range(1_000),
        "text": [f"value {number}" for number in range(1_000)],
        "kind": pa.array(["a", "b"] * 500).dictionary_encode(),
        "zeros": [0] * 1_000,
    }
)
V4 = pa.ipc.IpcWriteOptions(metadata_version=pa.ipc.MetadataVersion.V4, use_legacy_format=True)


def ipc(table: pa.Table, new: Callable[..., Any], options: Any = None) -> bytes:
    body = io.BytesIO()
    with new(body, table.schema, options=options) as writer:
        writer.write_table(table, max_chunksize=300)
    return body.getvalue()


def stream(table: pa.Table = TABLE, options: Any = None) -> bytes:
    return ipc(table, pa.ipc.new_stream, options)


def file(table: pa.Table = TABLE, options: Any = None) -> bytes:
    return ipc(table, pa.ipc.new_file, options)


def polars(method: str, **options: Any) -> bytes:
    body = io.BytesIO()
    frame = pl.DataFrame({"id": range(1_000), "kind": pl.Series(["a", "b"] * 500, dtype=pl.Categorical)})
    getattr(frame, method)(body, **options)
    return body.getvalue()


def feather() -> bytes:
    body = io.BytesIO()
    pd.DataFrame({"id": range(1_000)}).to_feather(body)
    return body.getvalue()


def rows(put: Put, data: bytes) -> int:
    source = put(data, "in.arrow")
    survey = ArrowFormat().survey(source)
    read = [rows for span in survey.spans for rows in ArrowFormat().read(source, span, survey.schema, 128)]
    assert sum(piece.batch.num_rows for piece in read) == sum(span.rows for span in survey.spans)
    return sum(span.rows for span in survey.spans)


@pytest.mark.parametrize(
    ("data", "count"),
    [
        (stream(), 1_000),
        (stream(options=V4), 1_000),
        (stream(TABLE.slice(0, 0)), 0),
        (file(), 1_000),
        (file(options=V4), 1_000),
        (file(options=pa.ipc.IpcWriteOptions(compression="zstd")), 1_000),
        (file(TABLE.slice(0, 0)), 0),
        (feather(), 1_000),
        (polars("write_ipc"), 1_000),
        (polars("write_ipc", compression="zstd"), 1_000),
        (polars("write_ipc_stream"), 1_000),
    ],
)
def test_every_row_of_a_complete_object_is_read(put: Put, data: bytes, count: int) -> None:
    assert rows(put, data) == count


def test_a_stream_that_is_followed_by_other_bytes_is_refused(put: Put) -> None:
    for more in (stream(), b"rubbish", b"\0"):
        with pytest.raises(
            UnreadableInput, match=rf"in\.arrow has {len(more):,} bytes after the end of its Arrow stream"
        ):
            rows(put, stream() + more)


def test_a_stream_that_is_cut_between_two_messages_is_refused(put: Put) -> None:
    data = stream()
    one = len(stream(TABLE.slice(0, 300))) - 8  # the schema, the categories and the first batch
    for cut in (data[:-8], data[:one]):
        with pytest.raises(UnreadableInput, match="ends without the end marker of an Arrow stream"):
            rows(put, cut)


@pytest.mark.parametrize(
    "data",
    [file() + file(), file() + file(TABLE.slice(0, 0)), feather() * 2, polars("write_ipc") * 2],
    ids=["files", "an empty file at the end", "feather", "polars"],
)
def test_files_that_were_joined_are_refused(put: Put, data: bytes) -> None:
    with pytest.raises(UnreadableInput, match="bytes that its footer does not list: it may be several files joined"):
        rows(put, data)
