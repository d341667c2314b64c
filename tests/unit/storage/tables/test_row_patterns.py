"""Surveys give the same result with and without row patterns, because a row that matches a pattern adds no new type."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from scoreline.storage.errors import UnreadableInput
from scoreline.storage.objects.directory import DirectoryStore
from scoreline.storage.tables.base import Pinned
from scoreline.storage.tables.boundaries import RecordFinder
from scoreline.storage.tables.delimited import DelimitedFormat
from scoreline.storage.tables.jsonl import JsonLinesFormat
from scoreline.storage.tables.options import NULL_VALUES, ReadOptions
from scoreline.storage.tables.row_patterns import RowPattern, delimited_row
from scoreline.storage.tables.text import Block
from scoreline.storage.tables.type_inference import DelimitedColumn

EXAMPLES = settings(
    max_examples=80,
    derandomize=True,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],  # skip shrinking of examples, which would take minutes
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
BLOCK_BYTES = 48

INTEGERS = ["0", "7", "-12", "123456789012345", "9007199254740993", "1234567890123456789", "99999999999999999999"]
ODD_INTEGERS = ["007", "+5", "-0", " 5", "5 ", "0x1F", "1_000", "00"]
FLOATS = ["0.5", "-1.25", ".5", "5.", "1e-05", "0.12345678901234567", "12.345678901234567", "123456.12345678901"]
ODD_FLOATS = ["1.2345678901234567890", "00.5", "+0.5", "1e400", "nan", "-inf", "1,5", "1.234", "1.5e"]
WORDS = ["red", "north", "navy", "info", "infinite", "Nate", "nullable", "NAT", "n/b", "truely", "x1", "_", "i", "N"]
MISSING = ["", "NA", "NaN", "null", "n/a", "None", "NA ", " nan", "#N/A", "-nan", "inf", "INFINITY", "Na", "nUll"]
TEXTS = ["Straße", '"a,b"', '"a ""b"""', '""', "true", "False", "TRUE", "a b", "it's", "\\", "a\\b"]
TEXTS += ['"a\\"', '"x', 'a"b']
VALUES = [INTEGERS, ODD_INTEGERS, FLOATS, ODD_FLOATS, WORDS, MISSING, TEXTS]


def csv_rows(draw: Any) -> list[str]:
    """Draw similar rows: most values of a column are drawn from a few, and some are arbitrary."""
    count = draw(st.integers(1, 3))
    few = st.sampled_from(VALUES).flatmap(lambda values: st.lists(st.sampled_from(values), min_size=1, max_size=3))
    usual = [draw(few) for _ in range(count)]
    other = st.sampled_from([value for values in VALUES for value in values])
    rows = []
    for _ in range(draw(st.integers(4, 30))):
        fields = [draw(other) if draw(st.integers(0, 15)) == 0 else draw(st.sampled_from(values)) for values in usual]
        if draw(st.integers(0, 40)) == 0:
            fields.append("more")
        rows.append(",".join(fields))
    return [",".join(f"c{number}" for number in range(count)), *rows]


@pytest.fixture
def unaided(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Return a list; while it is not empty, surveys use no patterns."""
    off: list[bool] = []
    others = RowPattern.others
    monkeypatch.setattr(RowPattern, "others", lambda self, block: None if off else others(self, block))
    return off


def outcomes(table: Any, source: Pinned, features: list[str], unaided: list[bool]) -> tuple[Any, Any]:
    """Return the result or the error of a survey, with patterns and without."""
    found: list[Any] = []
    for off in (False, True):
        unaided[:] = [True] * off
        try:
            survey = table.survey(source, features)
            rows = [rows for span in survey.spans for rows in table.read(source, span, survey.schema, 7)]
            found.append(
                (
                    [(field.name, field.type, field.nullable, field.metadata) for field in survey.schema],
                    survey.spans,
                    [(rows.batch.to_pydict(), rows.numbers.tolist(), rows.malformed) for rows in rows],
                )
            )
        except UnreadableInput as error:
            found.append(str(error))
    return found[0], found[1]


@EXAMPLES
@given(data=st.data())
def test_a_survey_of_csv_is_the_same_without_patterns(tmp_path: Path, unaided: list[bool], data: st.DataObject) -> None:
    lines = csv_rows(data.draw)
    store = DirectoryStore(tmp_path, "bucket")
    end = data.draw(st.sampled_from(["\n", "\r\n", "\r"]))
    text = end.join(lines) + data.draw(st.sampled_from([end, ""]))
    raw = text.encode(data.draw(st.sampled_from(["utf-8", "utf-8", "latin-1"])))
    info = store.put("in.csv", raw)
    source = Pinned(store=store, key="in.csv", size=info.size, etag=info.etag)
    options = data.draw(
        st.sampled_from(
            [
                ReadOptions(),
                ReadOptions(),
                ReadOptions(escape=""),
                ReadOptions(escape="\\"),
                ReadOptions(quote=""),
                ReadOptions(decimal=",", delimiter=";"),
                ReadOptions(decimal=","),
                ReadOptions(thousands=" "),
                ReadOptions(null_values=("7", "red")),
                ReadOptions(null_values=("north", "a b")),
                ReadOptions(null_values=("true",)),
                ReadOptions(types={"c0": "float64"}),
                ReadOptions(encoding="latin-1"),
            ]
        )
    )
    features = data.draw(st.sampled_from([[], ["c0"], ["c0", "c1", "c2"]]))
    with_patterns, without = outcomes(DelimitedFormat(options, BLOCK_BYTES), source, features, unaided)
    assert with_patterns == without


JSON_VALUES = [
    ["0", "7", "-12", "123456789012345", "9007199254740993", "99999999999999999999"],
    ["0.5", "-1.25", "1e-05", "1E5", "0.12345678901234567", "1e400", "5.0", "-0", "-0.0"],
    ['"red"', '"Straße"', '"a\\nb"', '"2026-01-31"', '"\\ud800"', '"\x7f"', '""'],
    ["true", "false"],
    ["null"],
    ["[1]", '{"a": 1}', "[]"],
]


@EXAMPLES
@given(data=st.data())
def test_a_survey_of_json_lines_is_the_same_without_patterns(
    tmp_path: Path, unaided: list[bool], data: st.DataObject
) -> None:
    draw = data.draw
    names = ["a", "b b", "c"][: draw(st.integers(1, 3))]
    usual = [draw(st.lists(st.sampled_from(draw(st.sampled_from(JSON_VALUES))), min_size=1, max_size=3)) for _ in names]
    other = st.sampled_from([value for values in JSON_VALUES for value in values])
    comma, colon = draw(st.sampled_from([(",", ":"), (", ", ": ")]))
    lines = []
    for _ in range(draw(st.integers(4, 25))):
        members = []
        for name, values in zip(names, usual, strict=True):
            if draw(st.integers(0, 12)):
                value = draw(other) if draw(st.integers(0, 15)) == 0 else draw(st.sampled_from(values))
                members.append(json.dumps(name) + colon + value)
        if draw(st.integers(0, 20)) == 0:
            members.append(draw(st.sampled_from(['"a": 1', '"more": 1', '"b', "x"])))
        lines.append("{" + comma.join(members) + "}" + draw(st.sampled_from(["", "", "", "", "", "", "}", " "])))
    store = DirectoryStore(tmp_path, "bucket")
    raw = "\n".join(lines).encode(draw(st.sampled_from(["utf-8", "utf-8", "latin-1"])))
    info = store.put("in.jsonl", raw)
    source = Pinned(store=store, key="in.jsonl", size=info.size, etag=info.etag)
    with_patterns, without = outcomes(JsonLinesFormat(ReadOptions(), 2 * BLOCK_BYTES), source, [], unaided)
    assert with_patterns == without


def test_no_pattern_matches_words_for_missing_values_or_numbers() -> None:
    column = DelimitedColumn(scored=True)
    column.add(pa.array(["red", "blue"]), NULL_VALUES)
    pattern = RowPattern()
    pattern.expect(delimited_row([column], ",", '"', ".", NULL_VALUES))

    def matching(texts: list[str]) -> list[str]:
        data = "".join(f"{text}\n" for text in texts).encode()
        records = RecordFinder().find(data, last=True)
        others = pattern.others(Block(data=data, records=records, start=0, first_row=0))
        return [text for number, text in enumerate(texts) if number not in others]

    assert matching([word for word in WORDS if word not in ("NAT", "n/b")]) == [
        word for word in WORDS if word not in ("NAT", "n/b")
    ]
    assert matching([text for text in (*MISSING, *NULL_VALUES, *INTEGERS, *FLOATS, "nan", "-Inf") if text]) == []
