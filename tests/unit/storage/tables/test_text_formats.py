"""CSV and JSON Lines: every record is a row or malformed, wherever a text is divided."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scoreline.storage.errors import InvalidRequest, UnreadableInput
from scoreline.storage.objects.directory import DirectoryStore
from scoreline.storage.tables import jsonl
from scoreline.storage.tables.base import Pinned, Rows, Span, Survey
from scoreline.storage.tables.boundaries import RecordFinder
from scoreline.storage.tables.delimited import DelimitedFormat
from scoreline.storage.tables.jsonl import JsonLinesFormat
from scoreline.storage.tables.options import ReadOptions
from scoreline.storage.tables.text import Block

Put = Callable[..., Pinned]


@pytest.fixture
def put(tmp_path: Path) -> Put:
    store = DirectoryStore(tmp_path, "bucket")

    def write(data: bytes | str, key: str = "in.csv") -> Pinned:
        info = store.put(key, data.encode() if isinstance(data, str) else data)
        return Pinned(store=store, key=info.key, size=info.size, etag=info.etag)

    return write


def look(source: Pinned, options: ReadOptions | None = None, block_bytes: int = 1 << 20) -> tuple[Any, Survey]:
    kind = JsonLinesFormat if ".jsonl" in source.key else DelimitedFormat
    table = kind(options or ReadOptions(), block_bytes)
    return table, table.survey(source)


def rows_of(source: Pinned, schema: pa.Schema, options: ReadOptions | None = None, **how: int) -> list[Rows]:
    table, survey = look(source, options, **how)
    return [rows for span in survey.spans for rows in table.read(source, span, schema, 65_536)]


def values(found: list[Rows]) -> list[dict[str, Any]]:
    return [row for rows in found for row in rows.batch.to_pylist()]


def broken(found: list[Rows]) -> list[tuple[int, str | None, str]]:
    return [(item.row, item.column, item.message) for rows in found for item in rows.malformed]


def schema(**types: pa.DataType) -> pa.Schema:
    return pa.schema(list(types.items()))


def test_a_line_end_inside_quotation_marks_belongs_to_its_field(put: Put) -> None:
    source = put('id,note\n1,"two\nlines"\n2,"a ""word"""\r\n\n3,plain')
    found = rows_of(source, schema(id=pa.int64(), note=pa.string()))
    assert [row["note"] for row in values(found)] == ["two\nlines", 'a "word"', "plain"]
    assert [n for rows in found for n in rows.numbers] == [0, 1, 2]


@pytest.mark.parametrize(("key", "noun"), [("in.csv", "records"), ("in.jsonl", "lines")])
@pytest.mark.parametrize("planned", [2, 4])
def test_a_span_with_another_number_of_rows_than_was_counted_is_refused(
    put: Put, key: str, noun: str, planned: int
) -> None:
    source = put("x\n1\n2\n3\n" if key == "in.csv" else '{"x":1}\n{"x":2}\n{"x":3}\n', key)
    table, survey = look(source)
    (span,) = survey.spans
    assert [rows.batch.num_rows for rows in table.read(source, span, survey.schema, 64)] == [3]
    with pytest.raises(UnreadableInput, match=rf"{key} has 3 {noun} from byte .* but {planned} were counted"):
        list(table.read(source, replace(span, rows=planned), survey.schema, 64))


@pytest.mark.parametrize("block_bytes", [8, 1 << 20])
def test_a_quotation_mark_inside_an_unquoted_field_is_an_ordinary_character(put: Put, block_bytes: int) -> None:
    source = put('id,note\n1,5" pipe\n2,"two\nlines"\n3,"a"b"\n4,6" and 7"\n5,"x, ""y"\n')
    found = rows_of(source, schema(id=pa.int64(), note=pa.string()), block_bytes=block_bytes)
    assert [row["note"] for row in values(found)] == ['5" pipe', "two\nlines", 'ab"', '6" and 7"', 'x, "y']
    assert [n for rows in found for n in rows.numbers] == [0, 1, 2, 3, 4]


def test_types_are_inferred_from_the_values(put: Put) -> None:
    _, survey = look(put("id,x,code,name,none,mixed\n1,0.5,007,a,,1\n-2,NA,010,,,n/a?\n3,1e3,011,c,,2\n"))
    assert survey.schema.remove_metadata() == pa.schema(
        [
            ("id", pa.int64()),
            ("x", pa.float64()),
            ("code", pa.string()),
            ("name", pa.string()),
            ("none", pa.null()),
            ("mixed", pa.string()),
        ]
    )
    assert survey.schema.field("mixed").metadata == {b"numbers": b"0.667"}
    assert survey.schema.field("code").metadata == {b"numbers": b"1.000"}
    assert survey.schema.field("name").metadata is None


def test_a_type_that_the_user_sets_takes_precedence(put: Put) -> None:
    _, survey = look(put("id\n1\n"), ReadOptions(types={"id": "string"}))
    assert survey.schema.field("id").type == pa.string()


def test_malformed_rows_are_reported_with_their_column_and_raw_text(put: Put) -> None:
    source = put('id,x,name\n1,0.5,a\n2,n/a?,b\n3,1,c,extra\n4\n5,2,"d"\n99999999999999999999,3,e\n7,4,f\n')
    found = rows_of(source, schema(x=pa.float64(), id=pa.int64()))
    assert [(row["id"], row["x"]) for row in values(found)] == [(1, 0.5), (5, 2.0), (7, 4.0)]
    assert broken(found) == [
        (1, "x", "'x' is 'n/a?', which is not a number"),
        (2, None, "4 fields, but the header has 3"),
        (3, None, "1 fields, but the header has 3"),
        (
            5,
            "id",
            f"'id' is '{'9' * 20}', which is not a 64-bit integer like the first rows: set its type with --types",
        ),
    ]
    assert [item.raw for rows in found for item in rows.malformed][:2] == ["2,n/a?,b", "3,1,c,extra"]
    assert [n for rows in found for n in rows.numbers] == [0, 4, 6]


@pytest.mark.parametrize("dirty", ["", "x,oops\n"], ids=["at once", "value by value"])
def test_numbers_and_missing_values_do_not_depend_on_malformed_rows_in_the_block(put: Put, dirty: str) -> None:
    given_ = [
        "1",
        " 2 ",
        "+3",
        "-4.5",
        "1e3",
        ".5",
        "6.",
        "inf",
        "-Infinity",
        "NA",
        "",
        "nan",
        "NULL",
        '"7"',
        '"NA"',
        "1e400",
    ]
    source = put("name,x\n" + "".join(f"n,{value}\n" for value in given_) + dirty)
    inf = float("inf")
    expected = [1, 2, 3, -4.5, 1000, 0.5, 6, inf, -inf, None, None, None, None, 7, None, inf]
    assert [row["x"] for row in values(rows_of(source, schema(x=pa.float64(), name=pa.string())))] == expected


@pytest.mark.parametrize("dirty", ["", "oops\n"], ids=["at once", "value by value"])
def test_integers_keep_every_character(put: Put, dirty: str) -> None:
    source = put("id\n1\n007\n0x10\n0\n-5\n 6 \n" + dirty)
    found = rows_of(source, schema(id=pa.int64()))
    assert [row["id"] for row in values(found)] == [1, 0, -5, 6]
    assert [item[:2] for item in broken(found)][:2] == [(1, "id"), (2, "id")]
    # And if the user sets a numeric type, leading zeros are ignored
    told = rows_of(source, schema(id=pa.int64()), ReadOptions(types={"id": "int64"}))
    assert [row["id"] for row in values(told)] == [1, 7, 0, -5, 6]


@pytest.mark.parametrize("dirty", ["", "oops,1\n"], ids=["at once", "value by value"])
@pytest.mark.parametrize("kind", [pa.int64(), pa.float64()], ids=str)
def test_a_number_can_stand_for_a_missing_value(put: Put, dirty: str, kind: pa.DataType) -> None:
    source = put('x,y\n1,1\n-999,1\n 2 ,1\n" -999",1\n' + dirty)
    found = rows_of(source, schema(x=kind), ReadOptions(null_values=("-999",)))
    assert [row["x"] for row in values(found)] == [1, None, 2, None]


@pytest.mark.parametrize("dirty", ["", "oops,1\n"], ids=["at once", "value by value"])
def test_nan_is_a_missing_value_in_any_case(put: Put, dirty: str) -> None:
    source = put('x,y\nNAN,1\n"NaN",1\n nan,1\n' + dirty)
    for nulls in (None, ("NaN",)):
        found = rows_of(source, schema(x=pa.float64()), ReadOptions(null_values=nulls))
        assert [row["x"] for row in values(found)] == [None, None, None]


def test_in_a_string_column_only_an_empty_unquoted_field_is_missing(put: Put) -> None:
    source = put('name\nNA\n""\nnull\n"x"\n')
    found = values(rows_of(source, schema(name=pa.string())))
    assert [row["name"] for row in found] == ["NA", "", "null", "x"]
    source = put("id,name\n1,\n2,x\n")
    assert [row["name"] for row in values(rows_of(source, schema(name=pa.string())))] == [None, "x"]


def test_invalid_utf8_rejects_only_its_row_and_only_in_a_requested_column(put: Put) -> None:
    source = put(b"id,name\n1,caf\xe9\n2,caf\xc3\xa9\n")
    found = rows_of(source, schema(id=pa.int64(), name=pa.string()))
    assert values(found) == [{"id": 2, "name": "café"}]
    ((row, column, message),) = broken(found)
    assert (row, column) == (0, "name")
    assert "is not UTF-8" in message
    assert values(rows_of(source, schema(id=pa.int64()))) == [{"id": 1}, {"id": 2}]


def test_other_single_byte_encodings_can_be_read(put: Put) -> None:
    source = put("größe;x\nfünf;1\n".encode("latin-1"))
    options = ReadOptions(encoding="latin-1", delimiter=";")
    assert values(rows_of(source, schema(größe=pa.string()), options)) == [{"größe": "fünf"}]


def test_the_raw_text_of_a_malformed_row_is_decoded_with_its_encoding(put: Put) -> None:
    source = put("größe;x\nfünf;oops\n".encode("latin-1"))
    found = rows_of(source, schema(x=pa.float64()), ReadOptions(encoding="latin-1", delimiter=";"))
    assert [item.raw for rows in found for item in rows.malformed] == ["fünf;oops"]


@pytest.mark.parametrize(("delimiter", "quote"), [(None, ","), (None, "\t"), ("\0", '"'), (";", "\0"), (";", ";")])
def test_invalid_delimiters_and_quotation_marks_are_refused(delimiter: str | None, quote: str) -> None:
    with pytest.raises(InvalidRequest, match=r"cannot separate fields|cannot quote fields"):
        ReadOptions(delimiter=delimiter, quote=quote).check()


def test_a_missing_column_is_named(put: Put) -> None:
    with pytest.raises(UnreadableInput, match=r"in\.csv has no column 'y'"):
        rows_of(put("x\n1\n"), schema(x=pa.int64(), y=pa.int64()))


def test_names_in_a_header_are_not_changed(put: Put) -> None:
    _, survey = look(put("\ufeffid,,a b,x.y,🙂,id\n1,2,3,4,5,6\n"))
    assert survey.schema.names == ["id", "column_1", "a b", "x.y", "🙂", "id"]


def test_an_object_without_a_header_is_read_with_the_given_columns(put: Put) -> None:
    source = put("1,a\n2,b\n")
    options = ReadOptions(columns=("id", "name"))
    assert len(values(rows_of(source, schema(id=pa.int64()), options))) == 2
    with pytest.raises(UnreadableInput, match="first row has 2 fields, but 3 columns are named"):
        look(source, ReadOptions(columns=("a", "b", "c")))


@pytest.mark.parametrize(
    ("data", "key", "message"),
    [
        ('id\n1\n2,"open\n3\n', "in.csv", "row 1, which begins at byte 5, has a quotation mark that is not closed"),
        ('id,"open\n', "in.csv", "row 0 has a quotation mark that is not closed"),
        ("id,x\n1,2\n".encode("utf-16"), "in.csv", "in.csv is UTF-16: convert it to UTF-8"),
        (
            "a,b\n1;2\n3;4\n",
            "in.csv",
            "the header has 2 fields, but none of the first 2 rows has (row 0 has 1): check the delimiter",
        ),
        (gzip.compress(b"id\n" + b"1\n" * 9999, mtime=0)[:-9], "in.csv.gz", "in.csv.gz cannot be decompressed: "),
        (b"id\n1\n", "in.csv.gz", "cannot be decompressed: Not a gzipped file"),
        (pa.compress(b"id\n1\n", codec="zstd", asbytes=True)[:-3], "in.csv.zst", "cannot be decompressed: Truncated"),
        ('[{"id": 1}]', "in.jsonl", "in.jsonl is one JSON array: convert it to JSON Lines"),
        (
            "id,x\n1,2\n",
            "in.jsonl",
            "is not JSON Lines, which has one object per line: row 0: the line is not JSON: ",
        ),
    ],
    ids=range(9),
)
def test_an_unreadable_object_is_named_with_the_position(put: Put, data: Any, key: str, message: str) -> None:
    with pytest.raises(UnreadableInput) as caught:
        look(put(data, key))
    assert message in str(caught.value)
    assert "s3://bucket/" in str(caught.value)


def test_an_endless_record_is_not_collected_in_memory(put: Put, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scoreline.storage.tables.text.MAX_RECORD_BYTES", 1 << 20)
    with pytest.raises(UnreadableInput, match=r"row 1, which begins at byte 5, is longer than 1 MiB"):
        look(put("id\n1\n" + "9" * (3 << 20)), block_bytes=1 << 18)


@pytest.mark.parametrize("data", ["", "\ufeff", "\n\n", "id,x\n", "id,x"])
def test_an_object_without_rows_has_no_spans(put: Put, data: str) -> None:
    assert look(put(data))[1].spans == ()


def squeezed(data: bytes) -> Iterator[tuple[str, bytes]]:
    yield "in.csv.gz", gzip.compress(data[: len(data) // 2]) + gzip.compress(data[len(data) // 2 :])
    yield "in.csv.bz2", bz2.compress(data)
    yield "in.csv.zst", pa.compress(data, codec="zstd", asbytes=True)


def test_a_compressed_text_is_divided_into_spans_like_any_other(put: Put) -> None:
    data = b"id,name\n" + b"".join(b'%d,"line\n%d"\n' % (n, n) for n in range(5_000))
    for key, packed in squeezed(data):
        source = put(packed, key)
        table, survey = look(source, block_bytes=4_096)
        assert len(survey.spans) > 10
        last = list(table.read(source, survey.spans[-1], schema(id=pa.int64()), 100))
        assert values(last)[-1] == {"id": 4_999}
        assert last[-1].numbers[-1] == 4_999


@pytest.mark.parametrize("key", ["in.csv.gz", "in.csv.bz2", "in.csv.zst"])
def test_several_compressed_streams_are_read_as_one_and_nothing_else_may_follow(put: Put, key: str) -> None:
    pack: dict[str, Callable[[bytes], bytes]] = {
        "gz": gzip.compress,
        "bz2": bz2.compress,
        "zst": lambda data: pa.compress(data, "zstd", asbytes=True),
    }
    one, two = (pack[key.rsplit(".", 1)[1]](data) for data in (b"id\n1\n", b"2\n"))
    assert values(rows_of(put(one + two, key), schema(id=pa.int64()))) == [{"id": 1}, {"id": 2}]
    for damaged in (one + b"garbage", one + b"?" + two[1:], one + two[:3], one + two[:-3], one[:-3]):
        with pytest.raises(UnreadableInput, match=rf"{key} cannot be decompressed: "):
            look(put(damaged, key))


def test_damage_anywhere_in_a_compressed_object_is_an_error_that_names_it(put: Put) -> None:
    text = b"id\n" + b"".join(b"%d\n" % random.Random(n).getrandbits(30) for n in range(300))
    told = []
    for key, packed in squeezed(text):
        for at in range(0, len(packed), 53):
            harmed = packed[:at] + bytes([packed[at] ^ 0x55]) + packed[at + 1 :]
            try:
                look(put(harmed, key))
            except UnreadableInput as error:
                told.append(str(error))
    assert told
    assert all(message.startswith("s3://bucket/in.csv.") for message in told)


def test_a_byte_order_mark_inside_a_text_is_a_character_wherever_the_text_is_divided(put: Put) -> None:
    source = put('\ufeffid,name\n1,a\n\ufeff"2",b\n\ufeff"3,c\n')
    texts = schema(id=pa.string(), name=pa.string())
    for block_bytes in (8, 1 << 20):
        found = values(rows_of(source, texts, block_bytes=block_bytes))
        assert [row["id"] for row in found] == ["1", '\ufeff"2"', '\ufeff"3']


FIELDS = st.text(alphabet="ab,;\"\n\r\t 'é🙂0", max_size=6)


@given(
    rows=st.lists(st.tuples(FIELDS, FIELDS, FIELDS), min_size=1, max_size=30),
    delimiter=st.sampled_from(",;\t"),
    line_end=st.sampled_from(["\n", "\r\n"]),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    block_bytes=st.integers(8, 200),
    seed=st.integers(0, 10),
)
def test_any_csv_is_read_back_wherever_it_is_divided(
    put: Put, rows: list[tuple[str, ...]], delimiter: str, line_end: str, quoting: Any, block_bytes: int, seed: int
) -> None:
    if line_end == "\n" and quoting == csv.QUOTE_MINIMAL:  # Python's writer does not quote a lone \r
        rows = [tuple(value.replace("\r", "") for value in row) for row in rows]
    sink = io.StringIO()
    writer = csv.writer(sink, delimiter=delimiter, lineterminator=line_end, quoting=quoting)
    writer.writerows([("a", "b", "c"), *rows])
    source = put(sink.getvalue())
    options = ReadOptions(delimiter=delimiter)
    table, survey = look(source, options, block_bytes)
    texts = schema(a=pa.string(), b=pa.string(), c=pa.string())
    # Adjacent spans are read together or separately
    chance, spans = random.Random(seed), list(survey.spans)
    while len(spans) > 1 and chance.random() < 0.7:
        at = chance.randrange(len(spans) - 1)
        left, right = spans[at : at + 2]
        assert (left.stop, left.first_row + left.rows) == (right.start, right.first_row)
        spans[at : at + 2] = [
            Span(start=left.start, stop=right.stop, first_row=left.first_row, rows=left.rows + right.rows, size=0)
        ]
    found = [part for span in spans for part in table.read(source, span, texts, 7)]
    assert [tuple(value or "" for value in row.values()) for row in values(found)] == rows
    assert [n for part in found for n in part.numbers] == list(range(len(rows)))


@given(
    data=st.binary(max_size=200) | st.text(alphabet='a1,"\n\r{}[]:\0', max_size=60).map(str.encode),
    key=st.sampled_from(["in.csv", "in.jsonl", "in.csv.gz", "in.csv.zst"]),
    is_compressed=st.booleans(),
    block_bytes=st.integers(8, 64),
)
def test_for_any_bytes_each_record_is_a_row_or_malformed_or_the_object_is_named(
    put: Put, data: bytes, key: str, is_compressed: bool, block_bytes: int
) -> None:
    source, fault = put(squeeze(data, key) if is_compressed else data, key), ""
    if not source.size:
        return
    try:
        table, survey = look(source, None, block_bytes)
        names = dict.fromkeys(name for name in survey.schema.names if survey.schema.names.count(name) == 1)
        wanted = pa.schema([(name, pa.float64()) for name in names])
        found = [rows for span in survey.spans for rows in table.read(source, span, wanted, 5)]
    except UnreadableInput as error:
        fault = str(error)
    if fault:
        assert source.uri in fault
        assert "were counted" not in fault  # the two ways of finding records agree
        assert "not closed" not in fault or records_of(data, key)[1]
        return
    told = sorted([n for rows in found for n in rows.numbers] + [item[0] for item in broken(found)])
    assert (len(told), False) == records_of(data, key)
    assert told == list(range(len(told)))


def squeeze(data: bytes, key: str) -> bytes:
    """Compress as the name says."""
    return gzip.compress(data, mtime=0) if key.endswith(".gz") else zstd(data) if key.endswith(".zst") else data


def zstd(data: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(data)
    return sink.getvalue().to_pybytes()


def records_of(data: bytes, key: str) -> tuple[int, bool]:
    """Count the records after the header, and say whether a quotation mark is left open.

    It goes character by character, and uses nothing of the code under test.
    """
    if ".jsonl" in key:
        return sum(bool(line.strip(b" \t\r\n")) for line in data.split(b"\n")), False
    text = data.removeprefix(b"\xef\xbb\xbf").decode("latin-1")
    count, at, quoted = 0, 0, False
    while at < len(text):
        if text[at] in "\r\n":  # nothing, or what is left of a line end
            at += 1
            continue
        count += 1
        begins = True
        while at < len(text) and (quoted or text[at] not in "\r\n"):
            if quoted and text[at : at + 2] == '""':
                at += 1
            elif text[at] == '"' and (quoted or begins):
                quoted = not quoted
            begins = not quoted and text[at] == ","
            at += 1
    return max(0, count - 1), quoted


CSV_BITS = [
    b"a",
    b"1",
    b",",
    b'"',
    b"\n",
    b"\r",
    b'""',
    b" ",
    b"\xc3\xa9",
    b"\xff",
    b"\0",
    b"\xef\xbb\xbf",
    b"NA",
    b"+",
    b'\n"',
    b',"',
    b'",',
    b"1.5",
    b"\n\xef\xbb\xbf1,1\n",
    b"NAN,1\n",
    b"1,1\n",
]
JSON_BITS = [
    b'{"x":1}',
    b'{"x":"a"}',
    b"{",
    b"}",
    b'"',
    b":",
    b"\n",
    b'{"x":',
    b'"x":',
    b",",
    b"[",
    b"]",
    b" ",
    b"\r",
    b"\x0b",
    b"null",
    b"1.5",
    b"\xff",
    b"\0",
    b"\xef\xbb\xbf",
    b"NaN",
    b"\\",
    b"\n\x0b\n",
]


@settings(max_examples=2 * settings().max_examples)  # many small steps
@given(
    text=st.tuples(st.just("in.csv"), st.lists(st.sampled_from(CSV_BITS), max_size=25))
    | st.tuples(st.just("in.jsonl"), st.lists(st.sampled_from(JSON_BITS), max_size=25)),
    kind=st.sampled_from([pa.float64(), pa.int64(), pa.string()]),
    block_bytes=st.integers(1, 12),
    batch_rows=st.integers(1, 3),
)
def test_the_result_for_a_record_does_not_depend_on_where_the_text_is_divided(
    put: Put, text: tuple[str, list[bytes]], kind: pa.DataType, block_bytes: int, batch_rows: int
) -> None:
    key, bits = text
    source = put((b"x,y\n1,1\n" if key == "in.csv" else b'{"x": 1}\n') + b"".join(bits), key)
    try:
        table, survey = look(source)
    except UnreadableInput:
        return
    small = type(table)(ReadOptions(), block_bytes)
    wanted = schema(x=kind)
    whole = [rows for span in survey.spans for rows in table.read(source, span, wanted, 65_536)]
    apart = [rows for span in survey.spans for rows in small.read(source, span, wanted, batch_rows)]
    assert repr(values(apart)) == repr(values(whole))  # NaN is not equal to itself
    assert broken(apart) == broken(whole)
    assert [n for rows in apart for n in rows.numbers] == [n for rows in whole for n in rows.numbers]
    assert all(rows.batch.num_rows + len(rows.malformed) <= batch_rows for rows in apart)


def test_json_fields_get_types_and_missing_keys_are_null(put: Put) -> None:
    lines = ['{"id": 1, "x": 0.5, "ok": true, "tags": ["a"], "m": 1}', "", '{"id": 2, "x": 3, "m": "n/a"}', "  "]
    source = put("\n".join(lines), "in.jsonl")
    _, survey = look(source)
    assert dict(zip(survey.schema.names, survey.schema.types, strict=True)) == {
        "id": pa.int64(),
        "x": pa.float64(),
        "ok": pa.bool_(),
        "tags": pa.list_(pa.string()),
        "m": pa.string(),
    }
    found = rows_of(source, schema(id=pa.int64(), x=pa.float64(), ok=pa.bool_()))
    assert values(found) == [{"id": 1, "x": 0.5, "ok": True}, {"id": 2, "x": 3.0, "ok": None}]


def test_malformed_lines_are_reported_with_their_column(put: Put) -> None:
    lines = [
        '{"id": 1, "x": 1}',
        '{"id": 2, "x": "n/a"}',
        '{"id": 3',
        "[4]",
        '{"id": 5, "x": 5}{"id": 6}',
        '{"id": 7, "id": 7}',
        '{"id": 8.5}',
        '{"id": 9, "x": NaN}',
        '{"x": {"y": 1}}',
        '{"id":\n1}',
    ]
    found = rows_of(put("\n".join(lines), "in.jsonl"), schema(id=pa.int64(), x=pa.float64()))
    assert [row["id"] for row in values(found)] == [1, 9]
    told = broken(found)
    assert [item[:2] for item in told] == [
        (1, "x"),
        (2, None),
        (3, None),
        (4, None),
        (5, None),
        (6, "id"),
        (8, "x"),
        (9, None),
        (10, None),
    ]
    assert told[0][2] == "'x' is a string 'n/a', but the column is read as double"
    assert told[1][2].startswith("the line is not JSON: Expecting ',' delimiter")
    assert told[2][2] == "the line is an array, not an object"
    assert told[4][2] == "the key 'id' occurs more than once"


def test_a_duplicate_among_very_many_keys_is_found_quickly(put: Put) -> None:
    keys = ",".join(
        f'"k{number}":0' for number in range(150_000)
    )  # takes more than two minutes if each key is compared
    found = rows_of(put('{"x": 1}\n{"x": 2,' + keys + ',"k149999":1}\n', "in.jsonl"), schema(x=pa.float64()))
    found += rows_of(put('{"x": 1}\n{"x": "a",' + keys + ',"k149999":1}\n', "in.jsonl"), schema(x=pa.float64()))
    assert broken(found)[-1] == (1, None, "the key 'k149999' occurs more than once")


@given(
    rows=st.lists(
        st.fixed_dictionaries(
            {},
            optional={
                "id": st.integers(-(1 << 63), (1 << 63) - 1),
                "name": st.none() | st.text(max_size=8),
                "x": st.none() | st.floats(allow_nan=False, allow_infinity=False),
            },
        ),
        min_size=1,
        max_size=30,
    ),
    block_bytes=st.integers(8, 200),
)
def test_any_json_lines_are_read_back_wherever_they_are_divided(
    put: Put, rows: list[dict[str, Any]], block_bytes: int
) -> None:
    source = put("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "in.jsonl")
    wanted = schema(id=pa.int64(), name=pa.string(), x=pa.float64())
    found = rows_of(source, wanted, block_bytes=block_bytes)
    assert broken(found) == []
    assert values(found) == [{name: row.get(name) for name in wanted.names} for row in rows]


def test_a_few_malformed_lines_are_found_with_few_parses(put: Put, monkeypatch: pytest.MonkeyPatch) -> None:
    count = 0
    parse = jsonl.parse_block

    def counted(*arguments: Any) -> Any:
        nonlocal count
        count += 1
        return parse(*arguments)

    monkeypatch.setattr(jsonl, "parse_block", counted)
    lines = ['{"x": 1}'] * 4096
    lines[5] = lines[4000] = "oops"
    found = rows_of(put("\n".join(lines), "in.jsonl"), schema(x=pa.float64()))
    assert len(broken(found)) == 2
    assert count <= 2 * 2 * 12 + 1
    count = 0
    found = rows_of(put('{"x": 1}\n{"x": "n/a"}\n' * 2048, "in.jsonl"), schema(x=pa.float64()))
    assert len(broken(found)) == 2048
    assert [n for rows in found for n in rows.numbers] == list(range(0, 4096, 2))
    assert count <= 2


@pytest.mark.parametrize("kind", [pa.int64(), pa.float64(), pa.string(), pa.bool_(), pa.list_(pa.int64())], ids=str)
@pytest.mark.parametrize(
    "value",
    [
        "1",
        "-0",
        "1.5",
        "1.0",
        "1e3",
        "1e400",
        "NaN",
        "-Infinity",
        "9" * 30,
        "9" * 5_000,
        "true",
        '"x"',
        '"1"',
        '"true"',
        "[1]",
        "{}",
        '["x"]',
        "null",
    ],
)
def test_the_result_for_a_line_does_not_depend_on_its_neighbours(value: str, kind: pa.DataType) -> None:
    line = f'{{"x": {value}}}\n'
    alone = jsonl.decode_block(block_of(line), schema(x=kind))
    beside = jsonl.decode_block(block_of(line + "oops\n" + line), schema(x=kind))
    # Arrow decides which lines can be decoded; Python only explains why others cannot
    assert (jsonl.parse_block(block_of(line), schema(x=kind)) is not None) == (not broken([alone]))
    assert [repr(row) for row in values([beside])] == [repr(row) for row in values([alone]) * 2]
    assert [item[1:] for item in broken([beside]) if item[0] != 1] == [item[1:] for item in broken([alone]) * 2]


def block_of(line: str) -> Block:
    return Block(
        data=line.encode(), records=RecordFinder(json=True).find(line.encode(), last=True), start=0, first_row=0
    )


def test_two_objects_on_one_line_are_malformed_even_if_another_object_takes_two_lines(put: Put) -> None:
    source = put('{"x": 1}{"x": 2}\n{"y":\n{"x": 3}}\n{"x": 4}\r\n {"x": 5} \n', "in.jsonl")
    found = rows_of(source, schema(x=pa.float64()))
    assert [n for rows in found for n in rows.numbers] == [3, 4]
    assert values(found) == [{"x": 4}, {"x": 5}]
    assert [item[0] for item in broken(found)] == [0, 1, 2]


def test_white_space_that_json_does_not_allow_makes_only_its_own_line_malformed(put: Put) -> None:
    found = rows_of(put('{"x": 1}\n\x0b\n{"x": 2}\n', "in.jsonl"), schema(x=pa.float64()))
    assert values(found) == [{"x": 1}, {"x": 2}]
    assert [item[0] for item in broken(found)] == [1]


def test_booleans_are_read_as_by_pandas(put: Put) -> None:
    source = put("id,ok\n1,True\n2,false\n3,NA\n4,TRUE\n")
    assert look(source)[1].schema.field("ok").type == pa.bool_()
    assert [row["ok"] for row in values(rows_of(source, schema(ok=pa.bool_())))] == [True, False, None, True]
    dirty = put("id,ok\n1,True\n2,maybe\n3,\n4, true \n", "dirty.csv")
    found = rows_of(dirty, schema(ok=pa.bool_()))
    assert [row["ok"] for row in values(found)] == [True, None, True]
    assert broken(found) == [(1, "ok", "'ok' is 'maybe', which is neither true nor false")]


@pytest.mark.parametrize("dirty", [b"", b"\xff,1\n"], ids=["at once", "value by value"])
def test_null_values_are_missing_in_features_and_unchanged_in_kept_columns(put: Put, dirty: bytes) -> None:
    source = put(b"kind,x\nNA,1\nn/a,2\nb,3\n,4\n" + dirty)
    feature = pa.schema([pa.field("kind", pa.string(), metadata={"feature": "1"})])
    assert [row["kind"] for row in values(rows_of(source, feature))] == [None, None, "b", None]
    assert [row["kind"] for row in values(rows_of(source, schema(kind=pa.string())))] == ["NA", "n/a", "b", None]
