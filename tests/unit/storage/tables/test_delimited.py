"""CSV: dialects, types, and malformed records."""

from __future__ import annotations

import csv
import io
import random
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scoreline.storage.errors import InvalidRequest, UnreadableInput
from scoreline.storage.tables.base import Span
from scoreline.storage.tables.delimited import DelimitedFormat
from scoreline.storage.tables.options import ReadOptions
from tests.support.text_tables import Put, broken, look, rows_of, schema, values


def test_a_line_end_inside_quotation_marks_belongs_to_its_field(put: Put) -> None:
    source = put('id,note\n1,"two\nlines"\n2,"a ""word"""\r\n\n3,plain')
    found = rows_of(source, schema(id=pa.int64(), note=pa.string()))
    assert [row["note"] for row in values(found)] == ["two\nlines", 'a "word"', "plain"]
    assert [n for rows in found for n in rows.numbers] == [0, 1, 2]


@pytest.mark.parametrize("block_bytes", [8, 1 << 20])
def test_a_quotation_mark_inside_an_unquoted_field_is_an_ordinary_character(put: Put, block_bytes: int) -> None:
    source = put('id,note\n1,5" pipe\n2,"two\nlines"\n3,"a"b"\n4,6" and 7"\n5,"x, ""y"\n')
    found = rows_of(source, schema(id=pa.int64(), note=pa.string()), block_bytes=block_bytes)
    assert [row["note"] for row in values(found)] == ['5" pipe', "two\nlines", 'ab"', '6" and 7"', 'x, "y']
    assert [n for rows in found for n in rows.numbers] == [0, 1, 2, 3, 4]


def test_types_are_inferred_from_the_values(put: Put) -> None:
    _, survey = look(put("id,x,code,name,none,mixed\n1,0.5,007,a,,1\n-2,NA,010,,,n/a?\n3,1e3,011,c,,2\n"))
    assert [(field.name, field.type, field.nullable) for field in survey.schema] == [
        ("id", pa.int64(), False),
        ("x", pa.float64(), True),
        ("code", pa.int64(), False),
        ("name", pa.string(), True),
        ("none", pa.null(), True),
        ("mixed", pa.string(), False),
    ]
    assert survey.schema.field("mixed").metadata == {b"numbers": b"int64"}
    assert survey.schema.field("code").metadata == {b"carried": b"text", b"padded": b"1"}
    assert survey.schema.field("name").metadata is None


@pytest.mark.parametrize("block_bytes", [8, 1 << 20])
@pytest.mark.parametrize(
    ("late", "kind", "carried"),
    [
        ("1", pa.int64(), None),
        ("2.5", pa.float64(), None),
        ("0.30000000000000004", pa.float64(), None),
        ("12345678901234567890", pa.float64(), b"text"),
        ("9007199254740993", pa.int64(), None),
        ("9007199254740993\n2.5", pa.float64(), b"text"),
        ("2.5\n9007199254740993", pa.float64(), b"text"),
        ("3.14159265358979323846", pa.float64(), b"text"),
        ("007", pa.int64(), b"text"),
        ("1e3", pa.float64(), None),
        ("n/a?", pa.string(), None),
        ("True", pa.string(), None),
    ],
)
def test_the_last_value_of_a_text_counts_as_much_as_the_first(
    put: Put, late: str, kind: pa.DataType, carried: bytes | None, block_bytes: int
) -> None:
    for values_ in ("1\n" * 3_000 + late, late + "\n1" * 3_000):
        _, survey = look(put(f"x\n{values_}\n"), block_bytes=block_bytes)
        field = survey.schema.field("x")
        assert (field.type, (field.metadata or {}).get(b"carried"), field.nullable) == (kind, carried, False)


@pytest.mark.parametrize("block_bytes", [8, 1 << 20])
def test_numbers_among_the_words_of_a_feature_are_found_wherever_they_are(put: Put, block_bytes: int) -> None:
    for values_, numbers in (("a\n" * 9 + "1\n" * 9, b"int64"), ("a\n" * 9 + "1\n2.5\n", b"double"), ("a\nb\n", None)):
        table = DelimitedFormat(ReadOptions(), block_bytes)
        schemas = [
            table.survey(put("x\n" + "".join(lines)), ["x"]).schema
            for lines in (values_.splitlines(keepends=True), values_.splitlines(keepends=True)[::-1])
        ]
        assert [(schema.field("x").metadata or {}).get(b"numbers") for schema in schemas] == [numbers, numbers]


def test_a_feature_with_leading_zeros_is_a_number_as_in_pandas(put: Put) -> None:
    source = put("zip\n01067\n+5\n10115\n")
    feature = pa.schema([pa.field("zip", pa.int64(), metadata={"feature": "1"})])
    assert [row["zip"] for row in values(rows_of(source, feature))] == [1067, 5, 10115]
    assert len(broken(rows_of(source, schema(zip=pa.int64())))) == 2


def test_times_are_read_in_iso_8601(put: Put) -> None:
    source = put("when\n2026-01-31\n2026-01-31 08:30\n\nNA\n2026-01-31T08:30:00.25\n2026-01-31T08:30Z\n1.2.2026\n")
    found = rows_of(source, schema(when=pa.timestamp("us")), ReadOptions(types={"when": "timestamp"}))
    assert [str(row["when"]) for row in values(found)] == [
        "2026-01-31 00:00:00",
        "2026-01-31 08:30:00",
        "None",
        "2026-01-31 08:30:00.250000",
    ]
    assert broken(found) == [
        (
            4,
            "when",
            "'when' is '2026-01-31T08:30Z', which is not a time without offset in ISO 8601: set its type with --types",
        ),
        (5, "when", "'when' is '1.2.2026', which is not a time without offset in ISO 8601: set its type with --types"),
    ]
    found = rows_of(source, schema(when=pa.timestamp("us", "UTC")), ReadOptions(types={"when": "timestamp_utc"}))
    assert [str(row["when"]) for row in values(found)] == ["None", "2026-01-31 08:30:00+00:00"]
    found = rows_of(source, schema(when=pa.date32()), ReadOptions(types={"when": "date"}))
    assert [str(row["when"]) for row in values(found)][:1] == ["2026-01-31"]


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
    # And if the user sets a numeric type, numbers with leading zeros are valid
    read = rows_of(source, schema(id=pa.int64()), ReadOptions(types={"id": "int64"}))
    assert [row["id"] for row in values(read)] == [1, 7, 0, -5, 6]


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
    assert survey.schema.names == ["id", "column_1", "a b", "x.y", "🙂", "id.1"]


def test_an_object_without_a_header_is_read_with_the_given_columns(put: Put) -> None:
    source = put("1,a\n2,b\n")
    options = ReadOptions(columns=("id", "name"))
    assert len(values(rows_of(source, schema(id=pa.int64()), options))) == 2
    with pytest.raises(UnreadableInput, match="first row has 2 fields, but 3 columns are named"):
        look(source, ReadOptions(columns=("a", "b", "c")))


def test_an_endless_record_is_not_collected_in_memory(put: Put, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scoreline.storage.tables.text.MAX_RECORD_BYTES", 1 << 20)
    with pytest.raises(UnreadableInput, match=r"row 1, which begins at byte 5, is longer than 1 MiB"):
        look(put("id\n1\n" + "9" * (3 << 20)), block_bytes=1 << 18)


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
    # Merge some adjacent spans at random
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


NAMES = st.lists(st.sampled_from(["x", "y", "x.1", "x.2", ""]), min_size=1, max_size=6).filter(any)


@given(names=NAMES)
def test_a_model_that_was_fitted_on_what_pandas_reads_finds_its_columns(put: Put, names: list[str]) -> None:
    text = ",".join(names) + "\n" + ",".join(str(n) for n in range(len(names))) + "\n"
    read = pd.read_csv(io.StringIO(text))
    source = put(text)
    table = DelimitedFormat(ReadOptions())
    survey = table.survey(source, list(read.columns))
    assert survey.schema.names == list(read.columns)
    assert values(list(table.read(source, survey.spans[0], survey.schema, 9))) == read.to_dict("records")


def test_a_feature_that_occurs_twice_keeps_its_name_so_that_the_job_is_refused(put: Put) -> None:
    survey = DelimitedFormat(ReadOptions()).survey(put("x,x,y,y\n1,2,3,4\n"), ["x"])
    assert survey.schema.names == ["x", "x", "y", "y.1"]


SPARK = 'id,note,x\n1,"5\\"",2\n3,"He said \\"hi\\", \nok",3\n4,"C:\\\\",4\n5,"\\\\\\"",5\n6,"",6\n7,a\\b,7\n'
NOTES = ['5"', 'He said "hi", \nok', "C:\\", '\\"', "", "a\\b"]


@pytest.mark.parametrize("block_bytes", [1, 7, 1 << 20])
def test_a_character_may_escape_quotation_marks(put: Put, block_bytes: int) -> None:
    source = put(SPARK)
    wanted = schema(id=pa.int64(), note=pa.string(), x=pa.int64())
    found = rows_of(source, wanted, ReadOptions(escape="\\"), block_bytes=block_bytes)
    assert [row["note"] for row in values(found)] == NOTES
    assert [row["id"] for row in values(found)] == [1, 3, 4, 5, 6, 7]
    assert broken(found) == []


@given(
    rows=st.lists(st.tuples(st.text(alphabet='a,"\\\n\r é', max_size=6), st.integers(0, 9)), min_size=1, max_size=20),
    block_bytes=st.integers(1, 60),
)
def test_any_csv_with_escapes_is_read_back_wherever_it_is_divided(
    put: Put, rows: list[tuple[str, int]], block_bytes: int
) -> None:
    written = [('"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"', number) for text, number in rows]
    source = put("note,x\n" + "".join(f"{text},{number}\n" for text, number in written))
    found = rows_of(source, schema(note=pa.string(), x=pa.int64()), ReadOptions(escape="\\"), block_bytes=block_bytes)
    assert [(row["note"], row["x"]) for row in values(found)] == rows


@pytest.mark.parametrize("field", ['"5\\"",2', '"He said \\"hi\\", ok",2'])
def test_a_backslash_that_may_escape_a_quotation_mark_is_refused_and_named(put: Put, field: str) -> None:
    source = put("note,x\na,1\n" + field + "\nb,3\n" + field + "\n")
    with pytest.raises(UnreadableInput, match=r"in\.csv: row 1 has a backslash .* give --escape .* or --escape none"):
        look(source)
    look(source, ReadOptions(escape=""))
    # a backslash is no escape if it ends a field, or if the field is not quoted
    look(put('note,x\n"C:\\",1\nC:\\,2\n5\\" pipe,3\n'))


@pytest.mark.parametrize("closed", [True, False], ids=["closed later", "closed by another stray mark"])
def test_a_stray_quotation_mark_that_swallows_rows_is_refused_and_named(put: Put, closed: bool) -> None:
    swallowed = "".join(f"{n},plain,{n}\n" for n in range(40))
    text = 'id,note,x\n1,a,1\n2,"b,2\n' + swallowed + ('3,c",3\n' if closed else '3,"c,3\n4,d,4\n')
    with pytest.raises(UnreadableInput, match=r"in\.csv: row 1 spans 4\d lines, most of which look like rows"):
        look(put(text))
    assert look(put(text), ReadOptions(quote=""))[1].spans[0].rows >= 43


def test_long_texts_are_not_taken_for_swallowed_rows(put: Put) -> None:
    poem = "\n".join("so much depends upon" for _ in range(40))
    source = put(f'id,note\n1,"{poem}"\n2,b\n')
    assert [row["note"] for row in values(rows_of(source, schema(note=pa.string())))] == [poem, "b"]


def test_a_text_with_a_comma_in_each_line_is_not_taken_for_swallowed_rows(put: Put) -> None:
    letter = "\n".join(f"Dear Sir, line {n}" for n in range(20))
    for header, first in (("text,id", ""), ("id,text", "1,")):
        row = f'{first}"{letter}"' + ("" if first else ",1")
        source = put(f"{header}\n{row}\n")
        assert [item["text"] for item in values(rows_of(source, schema(text=pa.string())))] == [letter]


@pytest.mark.parametrize("block_bytes", [8, 1 << 20])
def test_a_number_that_stands_for_a_missing_value_is_seen_wherever_it_is(put: Put, block_bytes: int) -> None:
    source = put("x\n" + "1\n" * 50 + "-999\n")
    field = look(source, ReadOptions(null_values=("-999",)), block_bytes)[1].schema.field("x")
    assert (field.type, field.nullable) == (pa.int64(), True)


def test_integers_beyond_64_bits_among_words_are_floats(put: Put) -> None:
    survey = DelimitedFormat(ReadOptions()).survey(put("x\n1\n12345678901234567890\nabc\n"), ["x"])
    assert survey.schema.field("x").metadata[b"numbers"] == b"double"


def test_a_rejected_row_says_how_many_lines_it_spans(put: Put) -> None:
    found = rows_of(put('id,x\n1,"a\nb\nc",2\n2,3\n'), schema(id=pa.int64()))
    assert broken(found) == [
        (0, None, "3 fields, but the header has 2; the row spans 3 lines: check its quotation marks")
    ]


def test_numbers_may_have_a_decimal_comma_and_separators_of_thousands(put: Put) -> None:
    options = ReadOptions(delimiter=";", decimal=",", thousands=".")
    source = put("id;x;n\n1;1,5;1.234\n2;-1.234.567,25;7\n3;2;NA\n4;1.5;3\n5;,5;4\n6;1e3;5\n7;12.34;6\n")
    survey = look(source, options)[1]
    assert [survey.schema.field(name).type for name in ("id", "n")] == [pa.int64(), pa.int64()]
    found = rows_of(source, schema(id=pa.int64(), x=pa.float64(), n=pa.int64()), options)
    assert [(row["id"], row["x"], row["n"]) for row in values(found)] == [
        (1, 1.5, 1234),
        (2, -1234567.25, 7),
        (3, 2.0, None),
        (5, 0.5, 4),
        (6, 1000.0, 5),
    ]
    assert broken(found) == [
        (3, "x", "'x' is '1.5', which is not a number"),
        (6, "x", "'x' is '12.34', which is not a number"),
    ]


@pytest.mark.parametrize(
    "options",
    [{"escape": '"'}, {"escape": "ab"}, {"decimal": ""}, {"decimal": "5"}, {"decimal": ",", "thousands": ","}],
)
def test_characters_that_cannot_have_their_effect_are_refused(options: dict[str, str]) -> None:
    with pytest.raises(InvalidRequest, match=next(iter(options))):
        ReadOptions(**options).check()  # type: ignore[arg-type]
