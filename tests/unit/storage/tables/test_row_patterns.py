"""Surveys give the same result with and without the scanner and row patterns: skipped rows add no new type."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scoreline.storage.errors import UnreadableInput
from scoreline.storage.objects.directory import DirectoryStore
from scoreline.storage.tables import boundaries, known_rows, plain_values
from scoreline.storage.tables.base import Pinned
from scoreline.storage.tables.boundaries import RecordFinder
from scoreline.storage.tables.delimited import DelimitedFormat
from scoreline.storage.tables.jsonl import JsonLinesFormat
from scoreline.storage.tables.options import NULL_VALUES, ReadOptions
from scoreline.storage.tables.row_patterns import RowPattern, delimited_row
from scoreline.storage.tables.text import Block
from scoreline.storage.tables.type_inference import DelimitedColumn
from tests.support.written_values import EXAMPLES, FLOATS, INTEGERS, JSON_VALUES, MISSING, VALUES, WORDS

BLOCK_BYTES = 48


def csv_rows(draw: Any) -> list[str]:
    """Draw similar rows: most values of a column are drawn from a few values, and some are arbitrary."""
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


Aid = Callable[[str], None]


@pytest.fixture
def aid(monkeypatch: pytest.MonkeyPatch) -> Aid:
    """Return a function that lets surveys use the compiled scanner and patterns, only patterns, or nothing."""
    scanner, others = boundaries.row_scanner, RowPattern.others

    def choose(aids: str) -> None:
        for module in (boundaries, known_rows, plain_values):
            monkeypatch.setattr(module, "row_scanner", scanner if "scanner" in aids else None)
        monkeypatch.setattr(RowPattern, "others", others if "patterns" in aids else lambda *_: None)

    return choose


def outcomes(table: Any, source: Pinned, features: list[str], aid: Aid) -> list[Any]:
    """Return the result or the error of a survey, with and without the scanner and the row patterns."""
    found: list[Any] = []
    for aids in ("scanner and patterns", "patterns", "nothing"):
        aid(aids)
        try:
            survey = table.survey(source, features)
            rows = [rows for span in survey.spans for rows in table.read(source, span, survey.schema, 7)]
            found.append(
                (
                    [(field.name, field.type, field.nullable, field.metadata) for field in survey.schema],
                    survey.spans,
                    [(repr(rows.batch.to_pydict()), rows.numbers.tolist(), rows.malformed) for rows in rows],
                )
            )
        except UnreadableInput as error:
            found.append(str(error))
    return found


@EXAMPLES
@given(data=st.data())
def test_a_survey_of_csv_is_the_same_without_help(tmp_path: Path, aid: Aid, data: st.DataObject) -> None:
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
    full, with_patterns, without = outcomes(DelimitedFormat(options, BLOCK_BYTES), source, features, aid)
    assert full == with_patterns == without


@EXAMPLES
@given(data=st.data())
def test_a_survey_of_json_lines_is_the_same_without_help(tmp_path: Path, aid: Aid, data: st.DataObject) -> None:
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
    full, with_patterns, without = outcomes(JsonLinesFormat(ReadOptions(), 2 * BLOCK_BYTES), source, [], aid)
    assert full == with_patterns == without


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
