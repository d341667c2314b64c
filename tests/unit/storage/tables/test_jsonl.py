"""JSON Lines: types, missing keys, and malformed lines."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scoreline.storage.tables import json_decoder, json_parser
from scoreline.storage.tables.boundaries import RecordFinder
from scoreline.storage.tables.text import Block
from tests.support.text_tables import Put, broken, look, rows_of, schema, values

FEW_OR_MANY = [(8, 250), (1 << 20, 2_500)]
"""Sizes of blocks, and numbers of lines: 250 blocks of one line each, or one block with all lines."""


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
    reported = broken(found)
    assert [item[:2] for item in reported] == [
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
    assert reported[0][2] == "'x' is a string 'n/a', but the column is read as double"
    assert reported[1][2].startswith("the line is not JSON: Expecting ',' delimiter")
    assert reported[2][2] == "the line is an array, not an object"
    assert reported[4][2] == "the key 'id' occurs more than once"


def test_a_duplicate_among_very_many_keys_is_found_quickly(put: Put) -> None:
    keys = ",".join(
        f'"k{number}":0' for number in range(150_000)
    )  # comparing each pair of keys would take more than two minutes
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
    parse = json_parser.parse_block

    def counted(*arguments: Any) -> Any:
        nonlocal count
        count += 1
        return parse(*arguments)

    monkeypatch.setattr(json_decoder, "parse_block", counted)
    lines = ['{"x": 1}'] * 4096
    lines[5] = lines[4000] = "oops"
    found = rows_of(put("\n".join(lines), "in.jsonl"), schema(x=pa.float64()))
    assert len(broken(found)) == 2
    assert count <= 1 + 2 * 2 * 12 + 1  # plus one parse by the survey
    count = 0
    found = rows_of(put('{"x": 1}\n{"x": "n/a"}\n' * 2048, "in.jsonl"), schema(x=pa.float64()))
    assert len(broken(found)) == 2048
    assert [n for rows in found for n in rows.numbers] == list(range(0, 4096, 2))
    assert count <= 1 + 2


@pytest.mark.parametrize(("block_bytes", "count"), FEW_OR_MANY)
@pytest.mark.parametrize(
    ("late", "kind", "carried"),
    [
        ("1", pa.int64(), None),
        ("2.5", pa.float64(), None),
        ("12345678901234567890", pa.float64(), b"json"),
        ("9007199254740993", pa.int64(), None),
        ('"n/a"', pa.string(), b"json"),
        ("true", pa.string(), b"json"),
        ("[1]", pa.int64(), b"json"),
    ],
)
def test_the_last_line_counts_as_much_as_the_first(
    put: Put, late: str, kind: pa.DataType, carried: bytes | None, block_bytes: int, count: int
) -> None:
    for lines in (['{"x": 1}'] * count + [f'{{"x": {late}}}'], [f'{{"x": {late}}}'] + ['{"x": 1}'] * count):
        field = look(put("\n".join(lines), "in.jsonl"), block_bytes=block_bytes)[1].schema.field("x")
        assert ((field.metadata or {}).get(b"carried"), field.nullable) == (carried, False)
        assert field.type == kind or late == "[1]"


@pytest.mark.parametrize(("block_bytes", "count"), FEW_OR_MANY)
def test_keys_that_come_late_are_columns(put: Put, block_bytes: int, count: int) -> None:
    lines = ['{"x": 1, "m": {"a": 1}}'] * count + ['{"x": 1, "note": "rare", "m": {"b": "deep"}}']
    source = put("\n".join(lines), "in.jsonl")
    survey = look(source, block_bytes=block_bytes)[1]
    assert survey.schema.names == ["x", "m", "note"]
    assert survey.schema.field("m").type == pa.struct([("a", pa.int64()), ("b", pa.string())])
    assert (survey.schema.field("x").nullable, survey.schema.field("note").nullable) == (False, True)
    assert values(rows_of(source, survey.schema))[-1] == {"x": 1, "m": {"a": None, "b": "deep"}, "note": "rare"}


def test_values_of_several_kinds_are_carried_over_as_json(put: Put) -> None:
    lines = ['{"x": 1, "v": 12345678901234567890}', '{"x": 2, "v": "n/a"}', '{"x": 3}', '{"x": "?", "v": 1}']
    lines += ['{"x": 4, "v": {"a": [1.50, true, null, "é"]}}']
    source = put("\n".join(lines), "in.jsonl")
    wanted = pa.schema([("x", pa.int64()), pa.field("v", pa.string(), metadata={"carried": "json"})])
    found = rows_of(source, wanted)
    assert [row["v"] for row in values(found)] == [
        "12345678901234567890",
        "n/a",
        None,
        '{"a": [1.50, true, null, "é"]}',
    ]
    assert [item[0] for item in broken(found)] == [3]


def test_times_are_read_from_texts(put: Put) -> None:
    lines = [
        '{"w": "2026-01-31T08:30:00.25", "x": 1}',
        '{"w": null, "x": 2}',
        '{"w": "noon", "x": 3}',
        '{"w": 5, "x": 4}',
    ]
    found = rows_of(put("\n".join(lines), "in.jsonl"), schema(x=pa.int64(), w=pa.timestamp("us")))
    assert [(row["x"], str(row["w"])) for row in values(found)] == [(1, "2026-01-31 08:30:00.250000"), (2, "None")]
    assert [item[:2] for item in broken(found)] == [(2, "w"), (3, "w")]


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
    alone = json_decoder.decode_block(block_of(line), schema(x=kind))
    beside = json_decoder.decode_block(block_of(line + "oops\n" + line), schema(x=kind))
    # Arrow decides which lines can be decoded; Python only finds the reason for the others
    assert (json_parser.parse_block(block_of(line), schema(x=kind)) is not None) == (not broken([alone]))
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


@pytest.mark.parametrize("depth", [10, 150, 1_000, 100_000])
def test_values_nested_to_any_depth_lose_no_row(put: Put, depth: int) -> None:
    source = put('{"x": 1}\n{"x": 2, "deep": ' + "[" * depth + "]" * depth + "}\n", "in.jsonl")
    assert look(source)[1].schema.field("x").type == pa.int64()
    assert [row["x"] for row in values(rows_of(source, schema(x=pa.int64())))] == [1, 2]
    carried = pa.schema([("x", pa.int64()), pa.field("deep", pa.string(), metadata={"carried": "json"})])
    found = rows_of(source, carried)
    assert len(values(found)) + len(broken(found)) == 2
