"""Small Parquet files that are read together give the same surveys, rows and errors as each of them alone."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("scoreline.storage.tables.parquet_footers", reason="there was no compiler to build the extension")

from scoreline.storage.errors import ScorelineError, UnreadableInput
from scoreline.storage.objects.directory import DirectoryStore
from scoreline.storage.tables import parquet, parquet_alike
from scoreline.storage.tables.base import Encoded, Pinned, Survey
from scoreline.storage.tables.parquet import ParquetFormat
from scoreline.storage.tables.parquet_alike import decode_together
from scoreline.storage.tables.parquet_footers import join, read_footer
from scoreline.storage.tables.small_objects import hold
from tests.support.text_tables import Put

NAMES = ("id", "x", "name", "when", "yes", "price")


def table(rows: int, seed: int, *, nulls: bool = True) -> pa.Table:
    random = np.random.default_rng(seed)
    missing = random.random((len(NAMES), rows)) < 0.2 if nulls else np.zeros((len(NAMES), rows), bool)
    columns: dict[str, Any] = {
        "id": pa.array(random.integers(0, 9, rows), pa.int64(), mask=missing[0]),
        "x": pa.array(random.normal(size=rows), mask=missing[1]),
        "name": pa.array([f"name {value}" for value in random.integers(0, 30, rows)], pa.string(), mask=missing[2]),
        "when": pa.array(random.integers(0, 1 << 40, rows), pa.timestamp("ms", "UTC"), mask=missing[3]),
        "yes": pa.array(random.random(rows) < 0.5, mask=missing[4]),
        "price": pa.array(random.integers(0, 99, rows).astype(str)).cast(pa.decimal128(9, 2)),
    }
    return pa.table(columns)


def encoded(rows: pa.Table, **options: Any) -> bytes:
    sink = io.BytesIO()
    pq.write_table(rows, sink, **options)
    return sink.getvalue()


def alike(found: Survey) -> Encoded:
    assert found.encoded is not None
    return found.encoded


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"compression": "zstd", "use_dictionary": False},
        {"compression": "none", "data_page_version": "2.0", "write_page_checksum": True},
        {"data_page_size": 64, "write_batch_size": 16, "write_page_index": True},
        {"write_statistics": False},
        {"use_dictionary": ["name"], "dictionary_pagesize_limit": 40, "write_statistics": ["id", "yes"]},
    ],
    ids=["default", "plain", "second version of pages", "many pages", "no statistics", "dictionary that is given up"],
)
def test_they_have_the_surveys_and_rows_of_each_file(put: Put, options: dict[str, Any]) -> None:
    tables = [table(rows, seed, nulls=seed % 3 > 0) for seed, rows in enumerate([100, 1, 250, 64, 100, 7] * 3)]
    sources = [hold(put(encoded(rows, **options), f"{number}.parquet")) for number, rows in enumerate(tables)]
    formats = ParquetFormat()
    together = [formats.survey(source, NAMES) for source in sources]
    for source, found in zip(sources, together, strict=True):
        alone = ParquetFormat().survey(source, NAMES)
        assert found == alone
        assert found.schema.equals(alone.schema, check_metadata=True)
        assert found.decode is not None
        assert alone.decode is not None
        decoded, expected = found.decode(), alone.decode()
        assert decoded is not None
        assert expected is not None
        assert decoded.equals(expected)
    rows = decode_together([alike(found) for found in together])
    assert rows is not None
    assert pa.Table.from_batches([rows]).equals(pa.concat_tables(tables).combine_chunks())


def test_arrow_opens_only_the_first_file(put: Put, monkeypatch: pytest.MonkeyPatch) -> None:
    formats = ParquetFormat()
    formats.survey(hold(put(encoded(table(50, 0)), "0.parquet")))
    monkeypatch.setattr(pq, "ParquetFile", None)
    assert formats.survey(hold(put(encoded(table(60, 1)), "1.parquet"))).spans[0].rows == 60
    # But each file with other columns
    with pytest.raises(TypeError):
        formats.survey(hold(put(encoded(table(60, 1).drop(["x"])), "2.parquet")))


FILES = [encoded(table(20, seed), compression="none" if seed % 2 else "snappy") for seed in range(4)]


STORE = DirectoryStore(Path(tempfile.gettempdir()), "bucket")


def held(data: bytes) -> Pinned:
    return hold(Pinned(store=STORE, key="a.parquet", size=len(data), etag="e"), data)


def text(rows: pa.RecordBatch) -> str:
    """Return the values as text, in which NaN equals NaN, also if a time or a text has become invalid."""

    def plain(column: Any) -> Any:
        if pa.types.is_timestamp(column.type):
            return column.cast(pa.int64())
        return column.cast(pa.binary()) if pa.types.is_string(column.type) else column

    return str([plain(column).to_pylist() for column in rows.columns])


@settings(max_examples=100)
@given(
    number=st.integers(0, len(FILES) - 1),
    changes=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=3),
)
def test_a_file_with_damaged_pages_has_the_same_rows_or_error_as_alone(
    number: int, changes: list[tuple[float, int]]
) -> None:
    file = FILES[number]
    footer = len(file) - 8 - int.from_bytes(file[-8:-4], "little")
    data = bytearray(file)
    for place, byte in changes:
        data[4 + int(place * (footer - 4))] = byte

    def outcome(formats: ParquetFormat) -> tuple[str, Survey | None, str]:
        """Return the error, or the survey and the rows."""
        try:
            found = formats.survey(held(bytes(data)), NAMES)
            assert found.decode is not None
            rows = found.decode()
        except ScorelineError as error:
            return str(error), None, ""
        return "", found, "" if rows is None else text(rows)

    formats = ParquetFormat()
    sound = formats.survey(held(file))
    found = outcome(formats)
    assert found == outcome(ParquetFormat())
    _, survey, rows = found
    if survey is not None and survey.encoded is not None:
        both = decode_together([alike(sound), survey.encoded])
        assert both is None or text(both.slice(20)) == rows


def coded(value: int) -> bytes:
    """Return a number from 64 to 8,191 as a footer has it."""
    return bytes([value * 2 & 0x7F | 0x80, value * 2 >> 7])


ANOTHER_COUNT = bytes.fromhex("3c 15c801 1500 1500 1500 1500 1500 00")
"""The header of a page of the second version with 100 values, as a further field of a page of the first version."""


@pytest.mark.parametrize("more", [b"", ANOTHER_COUNT], ids=["footer", "footer and page header"])
def test_rows_do_not_move_between_files_that_lie(more: bytes) -> None:
    """Two files together have as many rows as their footers say, but one has fewer, and the other one more."""

    def lying(rows: int) -> bytes:
        data = encoded(
            pa.table({"x": np.arange(float(rows))}), compression="none", use_dictionary=False, write_statistics=False
        )
        start = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
        size = pq.read_metadata(io.BytesIO(data)).row_group(0).column(0).total_compressed_size
        header_end = start - rows * 8 - 7 - 1  # before the values, the levels and the last byte of the header
        footer = data[start:].replace(coded(rows), coded(100)).replace(coded(size), coded(size + len(more)))
        return data[:header_end] + more + data[header_end:start] + footer

    footers = [read_footer(lying(rows)) for rows in (75, 125)]
    found = [footer for footer in footers if footer is not None]
    assert [footer.rows for footer in found] == [100, 100]
    assert join(found) is None
    assert decode_together([Encoded(footer=footer, size=1, most=1) for footer in found]) is None


def test_columns_stay_within_their_file() -> None:
    data = encoded(pa.table({"x": np.arange(75.0)}), compression="none", use_dictionary=False)
    footer = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    chunk = pq.read_metadata(io.BytesIO(data)).row_group(0).column(0).total_compressed_size
    assert coded(chunk) in data[footer:]
    assert read_footer(data) is not None
    assert read_footer(data[:footer] + data[footer:].replace(coded(chunk), coded(chunk + 200))) is None


def test_pages_begin_within_their_file() -> None:
    """Arrow begins to read at the dictionary, and so does not miss the first data page."""
    data = encoded(pa.table({"x": np.arange(75.0)}), compression="none")
    footer = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    page = pq.read_metadata(io.BytesIO(data)).row_group(0).column(0).data_page_offset
    assert data[footer:].count(coded(page)) == 1
    beyond = data[:footer] + data[footer:].replace(coded(page), coded(8_000))
    assert len(data) < 8_000
    assert pq.read_table(io.BytesIO(beyond)).num_rows == 75
    assert read_footer(beyond) is None


def test_joined_files_are_refused_after_a_sound_one(put: Put) -> None:
    formats = ParquetFormat()
    one, other = (encoded(table(20, seed)) for seed in range(2))
    formats.survey(hold(put(one, "one.parquet")))
    with pytest.raises(UnreadableInput, match=r"both\.parquet consists of several Parquet files"):
        formats.survey(hold(put(one + other, "both.parquet")))


def test_the_part_explains_damage_that_a_survey_does_not_meet() -> None:
    """The survey skips the statistics of encodings. In the damaged file, one lacks a field that Arrow requires."""
    sound = encoded(pa.table({"x": np.arange(75.0)}))
    start = len(sound) - 8 - int.from_bytes(sound[-8:-4], "little")
    statistics, damaged = bytes.fromhex("15001510150200"), bytes.fromhex("15001510160200")
    assert sound[start:].count(statistics) == 1
    formats = ParquetFormat()
    formats.survey(held(sound))
    source = held(sound[:start] + sound[start:].replace(statistics, damaged))
    found = formats.survey(source)
    assert decode_together([alike(found)]) is None
    assert found.decode is not None
    assert found.decode() is None
    with pytest.raises(UnreadableInput, match=r"a\.parquet is not a Parquet file"):
        list(formats.read(source, found.spans[0], found.schema, 100))


def test_a_survey_in_another_thread_does_not_move_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other files may be surveyed between two steps of a survey. Here they are, whenever nulls are counted."""
    first, later = (
        encoded(pa.table({"a": pa.array([1, None, 3]), "b": pa.array([number, 5, 6])})) for number in range(2)
    )
    other = encoded(pa.table({"b": pa.array([1, 2, 3]), "a": pa.array([4, 5, 6])}))
    formats = ParquetFormat()
    count = parquet._null_counts

    def interrupted(metadata: pq.FileMetaData, column: int, footer: Any) -> Iterator[int | None]:
        with monkeypatch.context() as patch:
            patch.setattr(parquet, "_null_counts", count)
            formats.survey(held(other))
        return count(metadata, column, footer)

    with monkeypatch.context() as patch:
        patch.setattr(parquet, "_null_counts", interrupted)
        formats.survey(held(first))
    assert formats.survey(held(later)) == ParquetFormat().survey(held(later))


def test_a_column_chunk_of_another_type_is_left_to_arrow() -> None:
    data = encoded(pa.table({"x": np.arange(75.0)}), compression="none")
    assert (sound := read_footer(data)) is not None
    start = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    double, integer = bytes([0x1C, 0x15, 10]), bytes([0x1C, 0x15, 4])  # the beginning of the metadata of a chunk
    assert data[start:].count(double) == 1
    other = read_footer(data[:start] + data[start:].replace(double, integer))
    assert other is not None
    assert other.layout != sound.layout
    assert join([sound, other]) is None


def test_everything_works_without_the_extension(put: Put, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet_alike, "parquet_footers", None)
    formats = ParquetFormat()
    for number in range(2):
        found = formats.survey(hold(put(encoded(table(10, number)), f"{number}.parquet")))
        assert found.encoded is None
        assert found.decode is not None
        assert found.decode() is not None
