"""The compiled scanner decodes blocks of plain numbers to the same bits as Arrow does, and decodes no other blocks."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

pytest.importorskip("scoreline.storage.tables.row_scanner", reason="there was no compiler to build the extension")

from scoreline.storage.tables import plain_values
from scoreline.storage.tables.boundaries import RecordFinder
from scoreline.storage.tables.csv_parser import Dialect
from scoreline.storage.tables.json_decoder import decode_block
from scoreline.storage.tables.plain_values import decode_delimited, decode_lines
from scoreline.storage.tables.row_scanner import DelimitedScanner, JsonScanner
from scoreline.storage.tables.text import Block

DIALECT = Dialect(",", '"', "utf-8")
CRAFTED = ["0", "-0", "0.0", "-0.0", "9007199254740993", "9007199254740992.5", "9007199254740993.5", "1e22", "1e-22"]
CRAFTED += ["18014398509481985", "18014398509481987", "0.1", "0.30000000000000004", "123456789012345678", "5e-324"]
CRAFTED += ["1.7976931348623157e308", "0.00000000000000000001", "9.5367431640625e-07", "1844674407370955161.5", "1e400"]
CRAFTED += ["8.988465674311581", "3.1415926535897931", "4503599627370497.5", "2.2250738585072014e-308", "1E5", "1e+5"]


def csv_block(text: str | bytes) -> Block:
    data = text.encode() if isinstance(text, str) else text
    return Block(data=data, records=RecordFinder().find(data, last=True), start=0, first_row=0)


def json_block(lines: list[str]) -> Block:
    data = "".join(f"{line}\n" for line in lines).encode()
    return Block(data=data, records=RecordFinder(json=True).find(data, last=True), start=0, first_row=0)


def written() -> list[str]:
    """Return floats as they are written: in full, rounded, with exponents, and halfway between two float64."""
    draw = random.Random(5)
    texts = list(CRAFTED)
    for _ in range(3_000):
        value = draw.uniform(-1, 1) * 10.0 ** draw.randrange(-8, 12)
        halfway = str(2 * (draw.getrandbits(52) | 1 << 52) + 1)
        texts += [repr(value), f"{value:.6f}", f"{value:.3e}", f"{value:.17f}"[:19], halfway, f"0.000{halfway}"]
        place = draw.randrange(1, 16)
        texts.append(f"{halfway[:place]}.{halfway[place:]}")
    return texts


def test_each_float_has_the_bits_that_python_reads() -> None:
    decoded = 0
    for text in written():
        columns = decode_delimited(csv_block(f"{text},0\n"), DIALECT, 2, [0], [pa.float64()])
        if columns is not None:
            assert columns[0].to_numpy().tobytes() == np.float64(text).tobytes(), text
            decoded += 1
    assert decoded > 0.9 * len(written())


@pytest.mark.parametrize("text", ["7", "-7", "0", "123456789012345678", "-999999999999999999"])
def test_plain_integers_are_read(text: str) -> None:
    (column,) = decode_delimited(csv_block(f"{text}\n" * 9), DIALECT, 1, [0], [pa.int64()]) or [None]
    assert column is not None
    assert column.to_pylist() == [int(text)] * 9


ODD = [
    "007",
    "+5",
    "-0",
    " 5",
    "5 ",
    "1_0",
    "5.",
    ".5",
    "0x1",
    "1e5",
    "1234567890123456789",
    "99999999999999999999",
    "x",
]
ODD += ['"1x', '"1x"']
ODD_FLOATS = [
    "007.5",
    "+5",
    " 5",
    "5 ",
    "5.",
    ".5",
    "-",
    "1e",
    "1e+",
    "1e5x",
    "nan",
    "inf",
    "NA",
    "1.5.5",
    '""',
    '"1',
    "1e1000",
]


@pytest.mark.parametrize(("kind", "text"), [*((pa.int64(), t) for t in ODD), *((pa.float64(), t) for t in ODD_FLOATS)])
def test_other_values_are_left_to_arrow(kind: pa.DataType, text: str) -> None:
    assert decode_delimited(csv_block(f"1,{text},2\n"), DIALECT, 3, [1], [kind]) is None


def test_columns_may_be_skipped_quoted_missing_and_in_any_order() -> None:
    text = 'a,"b, c",1,0.5\r\n\r\n,x,"2",\n' + "é,,,-3\r" * 20 + "z,,4,-0"
    columns = decode_delimited(csv_block(text), DIALECT, 4, [3, 2], [pa.float64(), pa.int64()])
    assert columns is not None
    assert [repr(value) for value in columns[0].to_pylist()] == ["0.5", "None", *["-3.0"] * 20, "-0.0"]
    assert columns[1].to_pylist() == [1, 2, *[None] * 20, 4]
    assert columns[1].null_count == 20
    for column in columns:
        column.validate(full=True)


@pytest.mark.parametrize(
    "text", ["1,2\n1\n", "1,2\n1,2,3\n", "1,2\n1,2,\n", '1,2\n"1"x,2\n', "1,2\n1;2\n", "1,2\n1,2\0\n"]
)
def test_ragged_and_damaged_records_are_left_to_arrow(text: str) -> None:
    assert decode_delimited(csv_block(text), DIALECT, 2, [0, 1], [pa.int64(), pa.float64()]) is None


@pytest.mark.parametrize(
    "change",
    [
        {"dialect": Dialect(",", '"', "latin-1")},
        {"dialect": Dialect(",", '"', "utf-8", "\\")},
        {"dialect": Dialect("£", '"', "utf-8")},
        *({"dialect": Dialect(character, '"', "utf-8")} for character in "-+.eE05"),
        {"dialect": Dialect(",", "5", "utf-8")},
        {"wanted": [0, 0]},
        {"kinds": [pa.int64(), pa.string()]},
    ],
)
def test_other_dialects_and_types_are_left_to_arrow(change: dict[str, Any]) -> None:
    given: dict[str, Any] = {"dialect": DIALECT, "width": 2, "wanted": [0, 1], "kinds": [pa.int64(), pa.float64()]}
    assert decode_delimited(csv_block("1,2\n"), **given) is not None
    assert decode_delimited(csv_block("1,2\n"), **given | change) is None


SCHEMA = pa.schema([("x", pa.float64()), ("id", pa.int64())])
SOUND = [
    '{"id": 1, "x": 0.5, "note": "é"}',
    '{"id":-2,"x":null,"note":true}',
    '{"id":3,"note":1e5}',
    '{"id":null,"x":-0}',
]


def test_plain_lines_are_decoded_as_by_arrow(monkeypatch: pytest.MonkeyPatch) -> None:
    block = json_block(SOUND * 5)
    batch = decode_lines(block, SCHEMA)
    assert batch is not None
    batch.validate(full=True)
    rows = decode_block(block, SCHEMA)
    monkeypatch.setattr(plain_values, "row_scanner", None)
    by_arrow = decode_block(block, SCHEMA)
    assert batch.schema == by_arrow.batch.schema
    assert repr(batch.to_pydict()) == repr(rows.batch.to_pydict()) == repr(by_arrow.batch.to_pydict())
    assert rows.numbers.tolist() == by_arrow.numbers.tolist()
    assert batch["x"].null_count == by_arrow.batch["x"].null_count == 10


@pytest.mark.parametrize(
    "line",
    [
        '{"x":1,"id":1}',
        '{"id":1,"x":1,"x":2}',
        '{"id":1,"x":1,"more":2}',
        '{"id":1.0,"x":1}',
        '{"id":1,"x":"1"}',
        '{"id":1,"x":01}',
        '{"id":1,"x":[1]}',
        '{"id":1,"x":1,"note":"a\\u0062"}',
        '{"id":1,"x":1,"note":"\x7f"}',
        '{"id":1,"x":1,"note":nul}',
        '{"id":1,"x":1} {"id":2,"x":2}',
        '{"id":1,"x":1',
        "[1]",
    ],
)
def test_lines_with_other_keys_or_values_are_left_to_arrow(line: str) -> None:
    assert decode_lines(json_block([*SOUND, line]), SCHEMA) is None


def test_the_scanner_writes_only_into_memory_of_the_right_size() -> None:
    for scanner in (
        DelimitedScanner(44, 34, kinds=bytes([1, 2])),
        JsonScanner([b'"a"', b'"b"'], bytes([1, 2]), bytes(2)),
    ):
        for columns, bits, nulls in ((1, 1, 1), (3, 1, 3), (2, 0, 2), (2, 1, 1)):
            memory = np.zeros((columns, 3), np.int64), np.zeros((columns, bits), np.uint8), np.zeros(nulls, np.int64)
            with pytest.raises(ValueError, match="memory"):
                scanner.decode(b"1,2\n", *memory)
        fits = np.zeros((2, 3), np.int64), np.zeros((2, 1), np.uint8), np.zeros(2, np.int64)
        assert not scanner.decode(b"1,2\n" * 2, *fits)
        assert not scanner.decode(b'{"a":1,"b":2}\n' * 2, *fits)
        assert not scanner.decode(b"1,2\n" * 4, *fits)
        assert not scanner.decode(b'{"a":1,"b":2}\n' * 4, *fits)
    with pytest.raises(ValueError, match="only integers and floats"):
        DelimitedScanner(44, 34, kinds=bytes([1, 0])).decode(b"1,2\n", *fits)
