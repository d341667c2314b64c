"""The compiled scanner finds the same records as NumPy does, and recognizes only rows that a row pattern matches."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("scoreline.storage.tables.row_scanner", reason="there was no compiler to build the extension")

from scoreline.storage.tables import boundaries
from scoreline.storage.tables.boundaries import RecordFinder
from scoreline.storage.tables.known_rows import delimited_scanner, json_scanner
from scoreline.storage.tables.options import NULL_VALUES
from scoreline.storage.tables.row_patterns import delimited_row, json_row, json_value
from scoreline.storage.tables.row_scanner import DelimitedScanner, JsonScanner
from scoreline.storage.tables.type_inference import DelimitedColumn, JsonColumn
from tests.support.written_values import EXAMPLES, JSON_VALUES, VALUES

MANY = settings(EXAMPLES, max_examples=300)


def found(finder: RecordFinder, data: bytes, last: bool) -> tuple[list[int], list[int], int]:
    records = finder.find(data, last=last)
    return records.starts.tolist(), records.ends.tolist(), records.rest


def unaided(*options: str, json: bool = False) -> RecordFinder:
    """Return a finder without the scanner."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(boundaries, "row_scanner", None)
        return RecordFinder(*options, json=json)


@MANY
@given(
    data=st.lists(st.sampled_from([*b"ab,;\"'\r\n\n\0\\ 1.", 0xC3, 0xA9]), max_size=40).map(bytes),
    options=st.sampled_from([(",", '"'), (",", ""), (";", "'"), ("\t", '"')]),
    last=st.booleans(),
)
def test_the_records_of_a_delimited_text_are_those_that_numpy_finds(
    data: bytes, options: tuple[str, str], last: bool
) -> None:
    assert found(RecordFinder(*options), data, last) == found(unaided(*options), data, last)


@MANY
@given(data=st.lists(st.sampled_from(b'{}"a: \t\r\n\n\0'), max_size=40).map(bytes), last=st.booleans())
def test_the_lines_of_json_lines_are_those_that_numpy_finds(data: bytes, last: bool) -> None:
    assert found(RecordFinder(json=True), data, last) == found(unaided(json=True), data, last)


ODD = ["-0", "1" * 16, "1" * 18, "1" * 19, "0.123456789012345678", "1.12345678901234567", "12.1234567890123456"]
ODD += [
    "123.123456789012",
    "1234567.1",
    ".",
    "-",
    "-.5",
    "1.e5",
    "1e",
    "1e+",
    "1e555",
    "e5",
    "1e-99",
    "red ",
    "red\u00a0",
]
ODD += [
    "nan\u3000",
    "nan-",
    "nanx",
    "café",
    "caf\x80",
    "tru",
    "truex",
    "True ",
    "x\\",
    "a\0b",
    '"1',
    '1"',
    '"',
    "_nan",
    "-5",
]


def columns() -> Iterator[DelimitedColumn]:
    """Yield columns that have seen one or two groups of values."""
    for scored in (False, True):
        for first, second in itertools.combinations_with_replacement(VALUES, 2):
            column = DelimitedColumn(scored=scored)
            for values in (first[:3], second[:3]):
                column.add(pa.array([value.strip('"') or None for value in values], pa.string()), NULL_VALUES)
            yield column


@pytest.mark.parametrize(("quote", "point"), [('"', "."), ("", "."), ("'", ",")])
def test_each_field_that_the_scanner_recognizes_matches_the_pattern(quote: str, point: str) -> None:
    fields = [value.replace(".", point) for value in (*itertools.chain(*VALUES), *ODD)]
    fields += [quote + field + quote for field in fields]
    text = "".join(f"1;{field}\n" for field in fields).encode("utf-8")
    first = DelimitedColumn(kind=pa.int64())
    recognized = 0
    for column in columns():
        for nulls in (NULL_VALUES, ("", "red")):
            known = [first, column], ";", quote, point, nulls
            scanner, pattern = delimited_scanner(*known), delimited_row(*known)
            assert (scanner is None) == (pattern is None)
            if scanner is not None and pattern is not None:
                recognized += check_recognized(scanner, pattern, text)
                check_recognized(scanner, pattern, text.replace(b"\n", b"\r").replace("é".encode(), b"\xe9"))
    assert recognized > 1_000


def check_recognized(scanner: DelimitedScanner | JsonScanner, pattern: str, text: bytes) -> int:
    """Check the rows that a scanner recognizes, and return their number."""
    finder, row_pattern = RecordFinder(), re.compile(pattern)
    finder.expect(scanner)
    records = finder.find(text, last=True)
    for number in set(range(len(records))) - set(records.others.tolist()):
        row = text[records.starts[number] : records.ends[number]].decode("latin-1").rstrip("\r\n")
        assert row_pattern.fullmatch(row), f"{row!r} is recognized"
    return len(records) - len(records.others)


@MANY
@given(data=st.data())
def test_each_line_that_the_scanner_recognizes_matches_the_pattern(data: st.DataObject) -> None:
    draw = data.draw
    names = ["a", "b b", "a long key of JSON"][: draw(st.integers(1, 3))]
    columns = {name: JsonColumn(missing=draw(st.booleans())) for name in names}
    for column in columns.values():
        column.add_array(pa.chunked_array([draw(st.sampled_from([[1], [0.5], ["x"], [True], [None]]))]))
    scanner = json_scanner(columns)
    optional = [name for name, column in columns.items() if column.missing]
    pattern = json_row({name: json_value(column) for name, column in columns.items()}, optional)
    assert (scanner is None) == (pattern is None)
    if scanner is None or pattern is None:
        return
    value = st.sampled_from([value for values in JSON_VALUES for value in values])
    written = st.one_of(value, value, st.text('019.-+eE"nula\\ ', max_size=8), st.text(max_size=3).map('"{}"'.format))
    member = st.sampled_from(['"{}":', '"{}": ', ' "{}":', '"{}" : ', '"{}'])
    lines = []
    for _ in range(draw(st.integers(1, 5))):
        kept = [name for name in names if draw(st.integers(0, 8))]
        members = [draw(member).format(name) + draw(written) for name in kept]
        lines.append(
            "{" + draw(st.sampled_from([",", ", ", ""])).join(members) + draw(st.sampled_from(["}", " }", ""]))
        )
    text = "\n".join(lines).encode(draw(st.sampled_from(["utf-8", "latin-1"])), "replace")
    check_recognized(scanner, pattern, text)


JSON_ODD = [b"-0", b"1" * 16, b"-", b"01", b"-01", b"1.", b".5", b"1e", b"1e5", b"1e555", b"nul", b"nulls", b"truth"]
JSON_ODD += [
    b"Null",
    b"NaN",
    b'"',
    b'"\x1f"',
    b'"\x7f"',
    b'"\\"',
    b'"\x80"',
    b'"\xc1\xbf"',
    b'"\xc3"',
    b'"\xe0\x9f\xbf"',
]
JSON_ODD += [
    b'"\xe0\x9f\xbf"',
    b'"\xed\xa0\x80"',
    b'"\xef\xbf\xbf"',
    b'"\xf0\x8f\xbf\xbf"',
    b'"\xf4\x90\x80\x80"',
    b'"\xf5\x80\x80\x80"',
]
JSON_ODD += [b'"\xe2\x82\xac\xf0\x9f\x98\x80"', b'"\xe2\x82"', b"1 2", b"", b" "]


@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("kind", [pa.int64(), pa.float64(), pa.string(), pa.bool_()])
def test_each_value_of_json_that_the_scanner_recognizes_matches_the_pattern(kind: pa.DataType, missing: bool) -> None:
    column = JsonColumn(kind=kind, missing=missing)
    values = [*(value.encode() for value in itertools.chain(*JSON_VALUES)), *JSON_ODD]
    text = b"".join(b'{"a":%b}\n{"a": %b }\r\n' % (value, value) for value in values)
    scanner, pattern = json_scanner({"a": column}), json_value(column)
    assert scanner is not None
    assert pattern is not None
    assert check_recognized(scanner, json_row({"a": pattern}) or "", text) >= 4


def others(scanner: DelimitedScanner | JsonScanner, lines: list[str]) -> list[str]:
    """Return the lines that a scanner does not recognize."""
    numbers = memoryview(scanner.scan("".join(f"{line}\n" for line in lines).encode(), True)[3]).cast("q").tolist()
    return [lines[number] for number in numbers]


def test_usual_rows_are_recognized_without_a_pattern() -> None:
    columns = [DelimitedColumn(scored=number > 0) for number in range(5)]
    for column, value in zip(columns, ["7", "0.5", "red", "true", None], strict=True):
        column.add(pa.array([value, None], pa.string()), NULL_VALUES)
    scanner = delimited_scanner(columns, ",", '"', ".", NULL_VALUES)
    assert scanner is not None
    usual = ["0,-1.25,north,False,", '"-12","3e-05","navy",TRUE,NA', "123456789012345,1e30,Nate,,", ",NaN,i,n/a,null"]
    assert others(scanner, usual) == []
    unusual = ["x,1,red,true,", "1,1,red,true", "1,1,red,true,,", "1,1,inf,true,", "007,1,red,true,", "1,1,red,true,x"]
    assert others(scanner, unusual) == unusual


def test_usual_lines_are_recognized_without_a_pattern() -> None:
    kinds = {"id": [7], "x": [0.5], "city": ["a", None], "flag": [True]}
    columns = {name: JsonColumn() for name in kinds}
    for name, column in columns.items():
        column.add_array(pa.chunked_array([kinds[name]]))
    scanner = json_scanner(columns)
    assert scanner is not None
    usual = [
        '{"id":0,"x":-1.25,"city":"Zürich","flag":true}',
        '{"id": 12, "x": 3e-05, "city": null, "flag": false}',
        '{ "id" : 1, "x" : 5, "flag" : true }',
    ]
    assert others(scanner, usual) == []
    unusual = ['{"id":0.5,"x":1,"flag":true}', '{"x":1,"id":1,"flag":true}', '{"id":1,"x":1,"flag":true}}', '{"id":1}']
    assert others(scanner, unusual) == unusual


@pytest.mark.parametrize("last", [False, True])
def test_records_of_a_text_that_is_cut_anywhere_end_before_its_end(last: bool) -> None:
    columns = [DelimitedColumn(scored=True) for _ in range(5)]
    for column, value in zip(columns, ["7", "0.5", "red", "true", '"'], strict=True):
        column.add(pa.array([value, None], pa.string()), NULL_VALUES)
    scanner = delimited_scanner(columns, ",", '"', ".", NULL_VALUES)
    lines = json_scanner({name: JsonColumn(kind=pa.float64(), missing=True) for name in ("a", "b")})
    assert scanner is not None
    assert lines is not None
    for text in (b'7,-0.123456e-10,red,true,"a b"\r\n' * 3, b'{"a":-0.123456e-10, "b" : null }\r\n' * 3):
        for stop in range(len(text) + 1):
            for tool in (scanner, lines):
                _, ends, rest, _ = tool.scan(text[:stop], last)
                assert max([0, *memoryview(ends).cast("q")]) <= rest <= stop


@pytest.mark.parametrize(
    "options",
    [(0, 34), (44, 44), (10, 34), (44, 13), (200, 34), (44, 200), (44, 34, 44), (45, 34), (101, 34), (44, 53)],
)
def test_a_scanner_of_characters_that_it_cannot_tell_apart_is_refused(options: Any) -> None:
    with pytest.raises(ValueError, match="a scanner needs"):
        DelimitedScanner(*options)
