"""A process that plans a job hands the decoded rows of a wide row group to the other processes of its worker."""

from __future__ import annotations

import errno
import io
import os
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from queue import SimpleQueue
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from scoreline.storage import scratch_files
from scoreline.storage.errors import InputChanged, UnreadableInput
from scoreline.storage.kept_memory import MEMORY
from scoreline.storage.scratch_files import open_files
from scoreline.storage.tables import row_groups, windows
from scoreline.storage.tables.base import Pinned, Rows, Span
from scoreline.storage.tables.column_file import ColumnFile
from scoreline.storage.tables.parquet import ParquetFormat
from scoreline.storage.tables.ranged import RangedFile
from scoreline.storage.tables.shared_rows import SharedRows
from tests.support.counting_store import CountingStore
from tests.support.waiting import HANG_S

ROWS = 20_000
BATCH = 640


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """Treat every row group as wide, and keep its rows on disk."""
    monkeypatch.setattr(scratch_files, "room", lambda: 1 << 30)
    monkeypatch.setattr(RangedFile, "WHOLE_BYTES", 0)
    monkeypatch.setattr(row_groups, "WINDOW_BYTES", 1 << 20)
    monkeypatch.setattr(row_groups.RowGroup, "is_wide", True)


@pytest.fixture
def files() -> Iterator[list[BinaryIO]]:
    """Return the files of a worker with two processes."""
    opened = open_files(2)
    yield opened
    for file in opened:
        file.close()


def table(rows: int = ROWS) -> pa.Table:
    random = np.random.default_rng(5)
    missing = random.random(rows) < 0.3
    columns: dict[str, Any] = {f"f{number}": random.normal(size=rows) for number in range(12)}
    columns["some"] = pa.array(np.arange(rows), mask=missing)
    columns["flag"] = pa.array(np.arange(rows) % 3 == 0, mask=missing)
    return pa.table(columns)


def put(folder: Path, data: pa.Table) -> tuple[CountingStore, Pinned]:
    store, sink = CountingStore(folder, "bucket"), io.BytesIO()
    pq.write_table(data, sink, row_group_size=data.num_rows)
    return store, Pinned.of(store, store.put("a.parquet", sink.getvalue()))


def read(formats: ParquetFormat, source: Pinned, start: int, stop: int, schema: pa.Schema) -> pa.Table:
    return pa.Table.from_batches([rows.batch for rows in batches(formats, source, start, stop, schema)])


def batches(formats: ParquetFormat, source: Pinned, start: int, stop: int, schema: pa.Schema) -> Iterator[Rows]:
    span = Span(start=start, stop=stop, first_row=start, rows=stop - start, size=0)
    return formats.read(source, span, schema, BATCH)


def plan(files: list[BinaryIO], source: Pinned, schema: pa.Schema) -> ParquetFormat:
    """Read the first rows as the first process does to plan a job, and return its reader."""
    shared = SharedRows(files, 0)
    formats = ParquetFormat(shared=shared)
    with shared.planning():
        assert read(formats, source, 0, 64, schema).num_rows == 64
    return formats


def test_processes_do_not_fetch_what_planning_has_decoded(tmp_path: Path, files: list[BinaryIO]) -> None:
    data = table()
    store, source = put(tmp_path, data)
    planner = plan(files, source, data.schema)
    assert store.asked <= 1.1 * source.size
    other = ParquetFormat(shared=SharedRows(files, 1))
    other.survey(source)
    store.asked = 0
    plan(files[::-1], source, data.schema)  # planning another job with the object fetches it, and shares it again
    assert store.asked > source.size
    store.asked = 0
    for formats, start, stop in ((planner, 0, 7_000), (other, 7_000, 13_333), (other, 13_333, ROWS)):
        found = list(batches(formats, source, start, stop, data.schema))
        assert pa.Table.from_batches([rows.batch for rows in found]).equals(data.slice(start, stop - start))
        starts = [int(rows.numbers[0]) for rows in found]
        assert starts == [start, *range((start // BATCH + 1) * BATCH, stop, BATCH)]
    assert store.asked < 1_000


def test_columns_are_decoded_while_earlier_ones_are_written(
    tmp_path: Path, files: list[BinaryIO], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = table()
    _, source = put(tmp_path, data)
    add, first_rows = ColumnFile.add, windows._first_rows
    writers, decoders = set[int](), set[int]()

    def write(self: ColumnFile, name: str, column: pa.ChunkedArray) -> None:
        writers.add(threading.get_ident())
        add(self, name, column)

    def decode(*arguments: Any) -> pa.Table:
        decoders.add(threading.get_ident())
        return first_rows(*arguments)

    monkeypatch.setattr(ColumnFile, "add", write)
    monkeypatch.setattr(windows, "_first_rows", decode)
    plan(files, source, data.schema)
    assert writers == {threading.get_ident()}
    assert len(decoders) == 1
    assert not writers & decoders


def test_batches_of_a_wide_row_group_have_the_metadata_of_the_requested_columns(tmp_path: Path) -> None:
    """Otherwise, an object of Python would be made of each of thousands of columns to give the batch this schema."""
    data = table()
    _, source = put(tmp_path, data)
    wanted = pa.schema([field.with_metadata({"feature": "1"}) for field in data.schema])
    (first, *_) = batches(ParquetFormat(), source, 0, BATCH, wanted)
    assert first.batch.schema.equals(wanted, check_metadata=True)
    other = wanted.set(0, pa.field("f0", pa.float32()))
    (first, *_) = batches(ParquetFormat(), source, 0, BATCH, other)
    assert first.batch.schema.equals(data.schema, check_metadata=True)


def test_the_memory_of_fetched_bytes_is_released_when_all_columns_are_decoded(
    tmp_path: Path, files: list[BinaryIO]
) -> None:
    """The rows of the parts that this process scores next take as much memory."""
    data = table()
    _, source = put(tmp_path, data)
    MEMORY.array(1 << 20)
    plan(files, source, data.schema)
    assert MEMORY.unused_bytes == 0


def test_the_thread_that_deletes_rows_ends_without_a_word_if_its_file_is_closed() -> None:
    opened = open_files(1)
    shared = SharedRows(opened, 0)
    opened[0].close()
    cleared = shared._expiry._emptied = SimpleQueue[None]()
    shared._expiry._run(cleared)
    assert shared._expiry._emptied is None


def test_rows_of_other_columns_versions_or_without_planning_are_not_shared(
    tmp_path: Path, files: list[BinaryIO]
) -> None:
    data = table()
    _, source = put(tmp_path, data)
    plan(files, source, data.schema)
    some = pa.schema([data.schema.field(name) for name in ("f3", "some")])
    other = ParquetFormat(shared=SharedRows(files, 1))
    assert read(other, source, 5, ROWS, some).equals(data.select(some.names).slice(5))
    changed = data.set_column(0, "f0", pa.array(np.zeros(ROWS)))
    store, later = put(tmp_path, changed)
    assert read(other, later, 5, ROWS, data.schema).equals(changed.slice(5))
    store.asked = 0
    read(ParquetFormat(shared=SharedRows(files, 1)), later, 0, 64, data.schema)
    read(ParquetFormat(shared=SharedRows(files, 1)), later, 64, 128, data.schema)
    assert store.asked > 1.8 * source.size


def test_an_object_that_has_changed_is_noticed(tmp_path: Path, files: list[BinaryIO]) -> None:
    data = table()
    _, source = put(tmp_path, data)
    planner = plan(files, source, data.schema)
    put(tmp_path, data.slice(1))
    with pytest.raises(InputChanged):
        read(planner, source, 0, 1_000, data.schema)


def test_a_process_reads_on_if_the_rows_are_deleted_meanwhile(
    tmp_path: Path, files: list[BinaryIO], caplog: pytest.LogCaptureFixture
) -> None:
    data = table()
    others = data.take(np.arange(ROWS)[::-1])  # as many bytes
    _, source = put(tmp_path / "a", data)
    _, source_of_others = put(tmp_path / "b", others)
    plan(files, source, data.schema)
    found: list[pa.RecordBatch] = []
    for rows in batches(ParquetFormat(shared=SharedRows(files, 1)), source, 0, ROWS, data.schema):
        found.append(rows.batch)
        if len(found) == 3:
            plan(files, source_of_others, others.schema)  # with the same file
    assert pa.Table.from_batches(found).equals(data)
    assert "wide.unwritable" in caplog.text


def test_rows_are_written_over_those_of_the_job_before(
    tmp_path: Path, files: list[BinaryIO], monkeypatch: pytest.MonkeyPatch
) -> None:
    data, fewer = table(), table(ROWS // 2)
    _, source = put(tmp_path / "a", data)
    _, source_of_fewer = put(tmp_path / "b", fewer)
    shared = SharedRows(files, 0)
    formats = ParquetFormat(shared=shared)
    with shared.planning():
        read(formats, source, 0, 64, data.schema)
    before = os.fstat(files[0].fileno()).st_size
    other = ParquetFormat(shared=SharedRows(files, 1))
    add, sizes = ColumnFile.add, set[int]()

    def measure(self: ColumnFile, name: str, column: pa.ChunkedArray) -> None:
        add(self, name, column)
        sizes.add(os.fstat(files[0].fileno()).st_size)
        if self.mark and name == "f7":
            assert read(other, source, 0, ROWS, data.schema).equals(data)

    monkeypatch.setattr(ColumnFile, "add", measure)
    with shared.planning():
        read(formats, source_of_fewer, 0, 64, fewer.schema)
    assert sizes == {before}
    assert os.fstat(files[0].fileno()).st_size < 0.6 * before
    assert read(other, source_of_fewer, 0, ROWS // 2, fewer.schema).equals(fewer)


@pytest.mark.parametrize("damage", ["header", "places", "empty"])
def test_a_file_of_a_process_that_died_is_not_used(tmp_path: Path, files: list[BinaryIO], damage: str) -> None:
    data = table()
    _, source = put(tmp_path, data)
    plan(files, source, data.schema)
    size = os.fstat(files[0].fileno()).st_size
    if damage == "header":
        os.pwrite(files[0].fileno(), b"\0" * 16, 48)
    elif damage == "places":
        os.pwrite(files[0].fileno(), b"?", size - 5)
    else:
        os.ftruncate(files[0].fileno(), 0)
    other = ParquetFormat(shared=SharedRows(files, 1))
    assert read(other, source, 100, ROWS, data.schema).equals(data.slice(100))


def test_the_next_process_with_the_number_of_one_that_died_deletes_its_rows(files: list[BinaryIO]) -> None:
    os.pwrite(files[1].fileno(), b"rows", 0)
    SharedRows(files, 1)
    assert os.fstat(files[1].fileno()).st_size == 0


def test_unused_rows_are_deleted(tmp_path: Path, files: list[BinaryIO]) -> None:
    data = table()
    _, source = put(tmp_path, data)
    shared = SharedRows(files, 0, unused_s=0.0)
    with shared.planning():
        read(ParquetFormat(shared=shared), source, 0, 64, data.schema)
    while os.fstat(files[0].fileno()).st_size:  # until the thread has deleted them
        pass


def test_planning_does_not_fail_because_of_rows_that_it_does_not_need(tmp_path: Path, files: list[BinaryIO]) -> None:
    data = table()
    store, sink = CountingStore(tmp_path, "bucket"), io.BytesIO()
    pages: dict[str, Any] = {"use_dictionary": False, "data_page_size": 1_000, "write_page_checksum": True}
    pq.write_table(data, sink, row_group_size=ROWS, **pages)
    file = bytearray(sink.getvalue())
    column = pq.ParquetFile(io.BytesIO(file)).metadata.row_group(0).column(3)
    last = column.data_page_offset + column.total_compressed_size
    file[last - 30 : last] = b"\0" * 30
    source = Pinned.of(store, store.put("a.parquet", bytes(file)))
    planner = plan(files, source, data.schema)
    with pytest.raises(UnreadableInput):
        read(planner, source, 0, ROWS, data.schema)


def test_a_full_disk_leaves_planning_and_parts_as_they_were(tmp_path: Path) -> None:
    data = table()
    _, source = put(tmp_path, data)
    with Path("/dev/full").open("r+b", buffering=0) as full, tempfile.TemporaryFile(buffering=0) as other:
        planner = plan([full, other], source, data.schema)
        assert read(planner, source, 0, ROWS, data.schema).equals(data)


def test_rows_are_not_shared_if_the_thread_that_deletes_earlier_ones_is_late(
    tmp_path: Path, files: list[BinaryIO], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = table()
    _, source = put(tmp_path, data)
    add = ColumnFile.add

    def delete_late(self: ColumnFile, name: str, column: pa.ChunkedArray) -> None:
        add(self, name, column)
        if name == "f7":
            os.ftruncate(files[0].fileno(), 0)  # as this thread does

    monkeypatch.setattr(ColumnFile, "add", delete_late)
    planner = plan(files, source, data.schema)
    for formats in (planner, ParquetFormat(shared=SharedRows(files, 1))):
        assert read(formats, source, 0, ROWS, data.schema).equals(data)


def test_a_full_disk_gets_back_what_could_not_be_shared(
    tmp_path: Path, files: list[BinaryIO], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = table()
    _, source = put(tmp_path, data)
    add = ColumnFile.add

    def fail_late(self: ColumnFile, name: str, column: pa.ChunkedArray) -> None:
        if name == "f7" and os.fstat(files[0].fileno()).st_size:
            raise OSError(errno.ENOSPC, "No space left on device")
        add(self, name, column)

    monkeypatch.setattr(ColumnFile, "add", fail_late)
    plan(files, source, data.schema)
    assert os.fstat(files[0].fileno()).st_size == 0


def test_only_the_thread_that_plans_shares_rows(tmp_path: Path, files: list[BinaryIO]) -> None:
    """A part that lets a plan pass goes on reading in another thread."""
    data = table()
    _, source = put(tmp_path, data)
    shared = SharedRows(files, 0)
    part = threading.Thread(target=read, args=(ParquetFormat(shared=shared), source, 0, 64, data.schema))
    with shared.planning():
        part.start()
        part.join(HANG_S)
    assert os.fstat(files[0].fileno()).st_size == 0
