"""Damaged bytes of COPY's binary format are refused, and nothing is read or written out of range."""

from __future__ import annotations

import contextlib
import random
import struct

import pyarrow as pa
import pytest

from scoreline.storage.errors import InvalidRequest
from scoreline.tasks.databases.source import decoding
from scoreline.tasks.databases.source.types import Column

pytest.importorskip("scoreline.tasks.databases.source.binary_rows", reason="there was no compiler to build it")

ROW = b"\0\1\0\0\0\1x"
TRAILER = b"\xff\xff"
NO_ROWS = [b"\0\2\0\0\0\1x", b"\0\1\0\0\0\2x", b"\0\1\0\0", b"\0\1\xff\xff\xff\xfe"]


def column(binary: str, kind: pa.DataType) -> Column:
    return Column(name=f"c{binary}", source="a type", kind=kind, binary=binary)


@pytest.mark.parametrize("data", [*NO_ROWS, ROW + b"\0", ROW + TRAILER + ROW])
def test_bytes_that_are_no_rows_are_refused(data: bytes) -> None:
    text = [column("s", pa.string())]
    with pytest.raises(InvalidRequest, match="query q returns rows that cannot be read"):
        decoding.from_binary(bytearray(data), text, "query q")
    assert decoding.from_binary(bytearray(ROW + TRAILER), text, "query q").to_pylist() == [{"cs": "x"}]


@pytest.mark.parametrize("before", [b"", b"\0\1\0\0\0\3\1{}"])
def test_a_jsonb_without_its_version_is_refused(before: bytes) -> None:
    with pytest.raises(InvalidRequest, match="column 'cj'"):
        decoding.from_binary(bytearray(before + b"\0\1\0\0\0\0"), [column("j", pa.string())], "query q")


def test_damaged_rows_are_read_within_their_bytes() -> None:
    columns = [
        column("b", pa.bool_()),
        column("n", pa.decimal128(12, 3)),
        column("u", pa.string()),
        column("j", pa.string()),
        column("T", pa.timestamp("us")),
    ]
    values = [b"\1", struct.pack("!HhHHHH", 2, 0, 0, 3, 1, 2500), bytes(16), b"\1{}", bytes(8)]
    row = struct.pack("!h", len(values)) + b"".join(struct.pack("!i", len(value)) + value for value in values)
    assert decoding.from_binary(bytearray(3 * row), columns, "query q").num_rows == 3
    chance = random.Random(0)
    for _ in range(300):
        data = bytearray(3 * row)
        data[chance.randrange(len(data))] = chance.choice([0, 1, 127, 128, 255])
        with contextlib.suppress(InvalidRequest):
            decoding.from_binary(data[: chance.choice([len(data), chance.randrange(1, len(data))])], columns, "query q")
