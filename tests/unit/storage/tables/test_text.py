"""CSV and JSON Lines: every record is a row or malformed, wherever the text is divided, compressed or not."""

from __future__ import annotations

import bz2
import gzip
import lzma
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scoreline.storage.errors import UnreadableInput
from scoreline.storage.tables.options import ReadOptions
from tests.support.text_tables import Put, broken, look, rows_of, schema, values


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


@pytest.mark.parametrize("data", ["", "\ufeff", "\n\n", "id,x\n", "id,x"])
def test_an_object_without_rows_has_no_spans(put: Put, data: str) -> None:
    assert look(put(data))[1].spans == ()


def squeezed(data: bytes) -> Iterator[tuple[str, bytes]]:
    yield "in.csv.gz", gzip.compress(data[: len(data) // 2]) + gzip.compress(data[len(data) // 2 :])
    yield "in.csv.bz2", bz2.compress(data)
    yield "in.csv.xz", lzma.compress(data)
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


@pytest.mark.parametrize("key", ["in.csv.gz", "in.csv.bz2", "in.csv.xz", "in.csv.zst"])
def test_several_compressed_streams_are_read_as_one_and_nothing_else_may_follow(put: Put, key: str) -> None:
    pack: dict[str, Callable[[bytes], bytes]] = {
        "gz": gzip.compress,
        "bz2": bz2.compress,
        "xz": lzma.compress,
        "zst": lambda data: pa.compress(data, "zstd", asbytes=True),
    }
    one, two = (pack[key.rsplit(".", 1)[1]](data) for data in (b"id\n1\n", b"2\n"))
    assert values(rows_of(put(one + two, key), schema(id=pa.int64()))) == [{"id": 1}, {"id": 2}]
    for damaged in (one + b"garbage", one + b"?" + two[1:], one + two[:3], one + two[:-3], one[:-3]):
        with pytest.raises(UnreadableInput, match=rf"{key} cannot be decompressed: "):
            look(put(damaged, key))


def test_damage_anywhere_in_a_compressed_object_is_an_error_that_names_it(put: Put) -> None:
    text = b"id\n" + b"".join(b"%d\n" % random.Random(n).getrandbits(30) for n in range(300))
    messages = []
    for key, packed in squeezed(text):
        for at in range(0, len(packed), 53):
            harmed = packed[:at] + bytes([packed[at] ^ 0x55]) + packed[at + 1 :]
            try:
                look(put(harmed, key))
            except UnreadableInput as error:
                messages.append(str(error))
    assert messages
    assert all(message.startswith("s3://bucket/in.csv.") for message in messages)


def test_a_byte_order_mark_inside_a_text_is_a_character_wherever_the_text_is_divided(put: Put) -> None:
    source = put('\ufeffid,name\n1,a\n\ufeff"2",b\n\ufeff"3,c\n')
    texts = schema(id=pa.string(), name=pa.string())
    for block_bytes in (8, 1 << 20):
        found = values(rows_of(source, texts, block_bytes=block_bytes))
        assert [row["id"] for row in found] == ["1", '\ufeff"2"', '\ufeff"3']


@given(
    data=st.binary(max_size=200) | st.text(alphabet='a1,"\n\r{}[]:\0', max_size=60).map(str.encode),
    key=st.sampled_from(["in.csv", "in.jsonl", "in.csv.gz", "in.csv.zst"]),
    is_compressed=st.booleans(),
    block_bytes=st.integers(8, 64),
)
def test_each_record_of_any_bytes_is_a_row_or_malformed_or_the_object_is_named(
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
        assert "were counted" not in fault  # both ways of finding records give the same count
        assert "not closed" not in fault or records_of(data, key)[1]
        return
    numbers = sorted([n for rows in found for n in rows.numbers] + [item[0] for item in broken(found)])
    assert (len(numbers), False) == records_of(data, key)
    assert numbers == list(range(len(numbers)))


def squeeze(data: bytes, key: str) -> bytes:
    """Compress the data by the method that the file name implies."""
    return gzip.compress(data, mtime=0) if key.endswith(".gz") else zstd(data) if key.endswith(".zst") else data


def zstd(data: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(data)
    return sink.getvalue().to_pybytes()


def records_of(data: bytes, key: str) -> tuple[int, bool]:
    """Count the records after the header, and say whether a quotation mark is left open.

    This function reads character by character, and does not use the code under test.
    """
    if ".jsonl" in key:
        return sum(bool(line.strip(b" \t\r\n")) for line in data.split(b"\n")), False
    text = data.removeprefix(b"\xef\xbb\xbf").decode("latin-1")
    count, at, quoted = 0, 0, False
    while at < len(text):
        if text[at] in "\r\n":  # an empty line, or the rest of a line end
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
