"""The binary form of COPY is what the driver writes for the same values."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from scoreline.tasks.databases import binary

VALUES: dict[str, tuple[pa.DataType, str, list[Any]]] = {
    "int2": (pa.int8(), "!h", [-128, None, 127]),
    "int4": (pa.uint16(), "!i", [0, None, 65_535]),
    "int8": (pa.uint32(), "!q", [2**32 - 1, None, 0]),
    "float4": (pa.float16(), "!f", [-0.0, None, 0.5]),
    "float8": (pa.float64(), "!d", [float("inf"), None, 0.1]),
    "bool": (pa.bool_(), "!?", [True, None, False]),
}


def written(rows: list[tuple[bytes | None, ...]]) -> bytes:
    """Return rows as the documentation of COPY describes them."""
    data = b""
    for row in rows:
        data += struct.pack("!h", len(row))
        for field in row:
            data += struct.pack("!i", -1) if field is None else struct.pack("!i", len(field)) + field
    return data


@pytest.mark.parametrize("name", VALUES)
def test_numbers_are_written_in_the_width_of_the_column(name: str) -> None:
    kind, form, values = VALUES[name]
    fields = [None if value is None else struct.pack(form, value) for value in values]
    data = b"".join(binary.rows([pa.array(values, kind)], [name]))
    assert data == written([(field,) for field in fields])


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string()])
def test_texts_of_any_length_stand_beside_numbers(kind: pa.DataType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(binary, "_WIDE_BYTES", 100)  # so that the long text is laid out on its own
    texts = ["São Paulo", None, "", "x" * 500, "y", None]
    column = pa.array(["left out", *texts], kind).slice(1)  # as a filter may leave it
    data = b"".join(binary.rows([pa.array(range(6)), column], ["int8", "text"]))
    fields = [None if text is None else text.encode() for text in texts]
    assert data == written([(struct.pack("!q", n), field) for n, field in enumerate(fields)])


def test_columns_of_missing_values_alone_have_no_bytes() -> None:
    columns = [pa.array([None, None], pa.string()), pa.array([b"", None], pa.binary())]
    assert b"".join(binary.rows(columns, ["text", "bytea"])) == written([(None, b""), (None, None)])


@pytest.mark.parametrize("name", VALUES)
def test_an_array_is_read_as_it_was_written(name: str) -> None:
    kind, _, values = VALUES[name]
    column = pa.array([value for value in values if value is not None], kind)
    assert binary.read_array(binary.array(column, name), name).tolist() == column.to_pylist()
    empty = struct.pack("!iii", 0, 0, 20)
    assert binary.read_array(empty, name).tolist() == []


@pytest.mark.parametrize("name", VALUES)
def test_missing_values_of_an_array_have_no_bytes(name: str) -> None:
    kind, form, values = VALUES[name]
    data = binary.array(pa.array(values, kind), name)
    assert struct.unpack_from("!iiiii", data)[:2] == (1, 1)
    assert struct.unpack_from("!iiiii", data)[3:] == (len(values), 1)
    items = b""
    for value in values:
        field = b"" if value is None else struct.pack(form, value)
        items += struct.pack("!i", -1 if value is None else len(field)) + field
    assert data[20:] == items


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (pa.int64(), "int4"),
        (pa.float32(), "float8"),  # as a text, 0.1 becomes the double that is nearest to 0.1
        (pa.float64(), "float4"),
        (pa.uint64(), "int8"),
        (pa.string(), "citext"),
        (pa.string(), "bpchar"),
        (pa.int64(), "numeric"),
        (pa.timestamp("us"), "timestamp"),
        (pa.null(), "text"),
    ],
)
def test_values_that_the_server_converts_are_left_to_text(kind: pa.DataType, name: str) -> None:
    assert not binary.is_same(kind, name)


def test_lengths_count_bytes() -> None:
    assert np.array_equal(binary.lengths(pa.array(["é", None, ""])), [2, 0, 0])
