"""Objects that are read sequentially are fetched several pieces at a time."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import threading
import tracemalloc
from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pytest

from scoreline.storage.errors import InputChanged
from scoreline.storage.objects.base import StoredObject
from scoreline.storage.objects.directory import DirectoryStore
from scoreline.storage.tables import arrow as arrow_format
from scoreline.storage.tables import compressed, read_ahead
from scoreline.storage.tables.arrow import ArrowFormat
from scoreline.storage.tables.base import Pinned, Span, Survey, TableFormat
from scoreline.storage.tables.compressed import DecompressedFile
from scoreline.storage.tables.delimited import DelimitedFormat
from scoreline.storage.tables.jsonl import JsonLinesFormat
from scoreline.storage.tables.options import ReadOptions
from scoreline.storage.tables.read_ahead import CONNECTIONS, ReadAheadFile
from tests.support.waiting import HANG_S, wait_until

PIECE = 64 << 10
ROWS = 20_000
NAMES = [f"x{number}" for number in range(8)]


class Watched(DirectoryStore):
    """A store that records the requested ranges. It can hold back requests until a number of them have arrived."""

    def __init__(self, root: Path) -> None:
        super().__init__(root, "bucket")
        self.ranges: list[tuple[int, int]] = []
        self._lock = threading.Lock()
        self._held: Collection[int] | None = ()
        self._arrived = 0
        self._barrier = threading.Barrier(1)

    def expect_together(self, count: int, starts: Collection[int] | None = None) -> None:
        """Hold back requests from `starts`, or else large requests, until `count` of them have arrived."""
        self._barrier, self._held, self._arrived = threading.Barrier(count), starts, 0
        self.ranges.clear()

    def get(self, key: str, **options: Any) -> StoredObject:
        """Read an object."""
        start, stop = options["byte_range"]
        with self._lock:
            self.ranges.append((start, stop))
            is_large = self._held is None and stop - start > PIECE // 4 and self._arrived < self._barrier.parties
            is_held = is_large or start in (self._held or ())
            self._arrived += is_held
        if is_held:
            self._barrier.wait(HANG_S)
        return super().get(key, **options)

    def pinned(self, key: str, data: bytes) -> Pinned:
        """Store an object."""
        info = self.put(key, data)
        return Pinned(store=self, key=key, size=info.size, etag=info.etag)

    @property
    def asked(self) -> int:
        """Number of requested bytes."""
        return sum(stop - start for start, stop in self.ranges)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Watched:
    monkeypatch.setattr(read_ahead, "PIECE_BYTES", PIECE)
    monkeypatch.setattr(read_ahead, "_LEAST_BYTES", PIECE // 2)
    monkeypatch.setattr(compressed, "_HEAD_BYTES", PIECE // 8)
    monkeypatch.setattr(arrow_format, "_BUFFER_BYTES", PIECE // 4)
    monkeypatch.setattr(
        DecompressedFile.__init__, "__kwdefaults__", {"point": None, "points": None, "buffer_bytes": PIECE}
    )
    return Watched(tmp_path)


def noise(pieces: int) -> bytes:
    return np.random.default_rng(0).bytes(pieces * PIECE)


def read_ahead_of(source: Pinned, start: int = 0, stop: int | None = None) -> ReadAheadFile:
    file = ReadAheadFile(source)
    file.seek(start)
    file.read_ahead(start, source.size if stop is None else stop)
    return file


def test_every_read_returns_the_bytes_at_its_place(store: Watched) -> None:
    data = noise(16)
    file = read_ahead_of(store.pinned("a", data), PIECE // 2, 12 * PIECE)
    places = [(PIECE // 2, 10), (PIECE, 3 * PIECE), (0, 5), (5 * PIECE + 1, PIECE), (5 * PIECE, 9), (7 * PIECE, -1)]
    for start, size in places:
        file.seek(start)
        assert file.read(size) == data[start : None if size < 0 else start + size]


def test_two_pieces_are_requested_together_at_first_and_then_one_by_each_connection(store: Watched) -> None:
    source = store.pinned("a", noise(24))
    store.expect_together(2, [0, PIECE])
    with read_ahead_of(source) as file:
        file.read(PIECE)
        file.read(PIECE)
        # only a few pieces are fetched ahead at first, because planning may need no more
        assert max(store.ranges)[0] < 4 * PIECE
        store.expect_together(CONNECTIONS, [number * PIECE for number in range(8, 8 + CONNECTIONS)])
        file.read(22 * PIECE)


def test_no_more_pieces_are_in_memory_than_there_are_connections(store: Watched) -> None:
    file = read_ahead_of(store.pinned("a", noise(24)), 0, 20 * PIECE)
    for number in range(20):
        assert file.read(PIECE)
        assert len(store.ranges) <= number + 1 + CONNECTIONS
    assert sorted(store.ranges) == [(start, start + PIECE) for start in range(0, 20 * PIECE, PIECE)]


def test_an_object_that_changes_while_it_is_read_is_refused_at_every_read(store: Watched) -> None:
    source = store.pinned("a", noise(24))
    file = read_ahead_of(source)
    file.read(PIECE)
    store.put("a", noise(24)[::-1])
    for _ in range(2):
        with pytest.raises(InputChanged):
            file.read(23 * PIECE)


@pytest.mark.parametrize("place", [3, 10])
def test_a_piece_that_is_cut_short_moves_nothing(store: Watched, monkeypatch: pytest.MonkeyPatch, place: int) -> None:
    # Given a file that is truncated after it was opened, when its ETag is no longer checked
    source = store.pinned("a", noise(16))
    get = store.get

    def cut(key: str, **options: Any) -> StoredObject:
        found = get(key, **options)
        return replace(found, data=found.data[:-1]) if options["byte_range"][0] == place * PIECE else found

    monkeypatch.setattr(store, "get", cut)
    file = read_ahead_of(source)
    with pytest.raises(InputChanged, match="was replaced"):
        file.read(source.size)
    with pytest.raises(InputChanged, match="was replaced"):
        ReadAheadFile(source).fetch(place * PIECE, (place + 1) * PIECE)


def test_a_large_read_into_memory_takes_little_more(store: Watched) -> None:
    data = noise(80)
    source = store.pinned("a", data)
    for start, stop in ((0, 80 * PIECE), (PIECE // 2, 79 * PIECE)):
        file = read_ahead_of(source, start, stop)
        buffer = bytearray(len(data) + 9)
        tracemalloc.start()
        assert file.readinto(memoryview(buffer)) == len(data) - start
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert most < 20 * PIECE
        assert buffer[: len(data) - start] == data[start:]
        assert file.end == data[-8:]
        assert file.readinto(memoryview(buffer)) == 0


def rows() -> pa.Table:
    values = np.random.default_rng(0).normal(size=(len(NAMES), ROWS)).round(6)
    return pa.table(dict(zip(NAMES, values, strict=True)))


def as_text(kind: str) -> bytes:
    if kind == "csv":
        sink = io.BytesIO()
        pyarrow.csv.write_csv(rows(), sink)
        return sink.getvalue()
    return rows().to_pandas().to_json(orient="records", lines=True).encode()


def as_arrow(new: Any, batch_rows: int) -> bytes:
    sink = io.BytesIO()
    with new(sink, rows().schema) as out:
        out.write_table(rows(), max_chunksize=batch_rows)
    return sink.getvalue()


COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": lambda data: pa.compress(data, "zstd", asbytes=True),
}
ENDINGS = ["csv", "jsonl", "csv.gz", "csv.bz2", "csv.xz", "csv.zst", "arrow", "arrows", "large.arrow"]


def made(store: Watched, ending: str) -> tuple[TableFormat, Pinned, Survey]:
    """Return an object, the format that reads it, and the survey of it."""
    found: TableFormat
    if "arrow" in ending:
        new = pa.ipc.new_stream if ending == "arrows" else pa.ipc.new_file
        data, found = as_arrow(new, ROWS if ending == "large.arrow" else ROWS // 5), ArrowFormat()
    else:
        kind, _, compression = ending.partition(".")
        data = as_text(kind)
        data = COMPRESSORS[f".{compression}"](data) if compression else data
        make = DelimitedFormat if kind == "csv" else JsonLinesFormat
        found = make(ReadOptions(), block_bytes=2 * PIECE)
    source = store.pinned(f"in.{ending}", data)
    return found, source, found.survey(source)


def whole(survey: Survey) -> Span:
    first, last = survey.spans[0], survey.spans[-1]
    return Span(start=first.start, stop=last.stop, first_row=0, rows=ROWS, size=0)


@pytest.mark.parametrize("ending", ENDINGS)
def test_rows_are_read_with_requests_side_by_side(store: Watched, ending: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if ending == "large.arrow":
        monkeypatch.setattr(arrow_format, "MIN_BYTES", PIECE)
    found, source, survey = made(store, ending)
    store.expect_together(2)
    batches = [item.batch for item in found.read(source, whole(survey), survey.schema, ROWS)]
    assert pa.Table.from_batches(batches).select(NAMES).cast(rows().schema).equals(rows())


@pytest.mark.parametrize("ending", [ending for ending in ENDINGS if ending != "large.arrow"])
def test_a_survey_reads_an_object_with_requests_side_by_side(store: Watched, ending: str) -> None:
    found, source, survey = made(store, ending)
    store.expect_together(2)
    assert found.survey(source).spans == survey.spans
    assert store.asked <= source.size + 4 * PIECE


def test_of_a_text_nothing_beyond_the_span_is_fetched(store: Watched) -> None:
    found, source, survey = made(store, "csv")
    span = survey.spans[3]
    store.expect_together(1)
    assert sum(len(item.numbers) for item in found.read(source, span, survey.schema, ROWS)) == span.rows
    assert store.asked == span.stop - span.start


@pytest.mark.parametrize("ending", ["csv.gz", "csv.bz2", "csv.xz", "csv.zst"])
def test_of_a_compressed_text_little_beyond_the_spans_is_fetched(store: Watched, ending: str) -> None:
    found, source, survey = made(store, ending)
    share = source.size / survey.spans[-1].stop
    half = len(survey.spans) // 2
    store.expect_together(1)
    for number, span in enumerate(survey.spans):
        assert sum(len(item.numbers) for item in found.read(source, span, survey.schema, ROWS)) == span.rows
        if number == half:
            assert store.asked <= span.stop * share + 4 * PIECE
    assert store.asked <= 1.02 * source.size + PIECE  # nothing is fetched twice


def test_a_compressed_text_keeps_nothing_that_was_fetched_ahead_if_only_its_first_rows_are_read(store: Watched) -> None:
    found, source, survey = made(store, "csv.gz")
    store.expect_together(1)
    threads = set(threading.enumerate())
    batches = found.read(source, whole(survey), survey.schema, ROWS)
    next(iter(batches))
    batches.close()  # type: ignore[attr-defined]
    wait_until(lambda: set(threading.enumerate()) <= threads, "the end of the threads that fetch ahead")
    last = survey.spans[-1]
    (end,) = found.read(source, last, survey.schema, ROWS)
    assert pa.Table.from_batches([end.batch]).select(NAMES).cast(rows().schema).equals(rows().slice(last.first_row))


def test_of_a_text_of_which_only_the_first_rows_are_read_little_is_fetched(store: Watched) -> None:
    found, source, survey = made(store, "csv")
    store.expect_together(1)
    batches = found.read(source, whole(survey), survey.schema, ROWS)
    next(iter(batches))
    batches.close()  # type: ignore[attr-defined]
    assert store.asked <= 10 * PIECE
