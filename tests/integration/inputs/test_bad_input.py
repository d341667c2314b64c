"""Whatever is wrong with an input, and however it is read: each row is scored or rejected once, or the error names it.

Each test runs over all shapes of an input. Rejected rows keep their object and their number in it, an error names the
object and the place, and nothing is scored of an object that was replaced after the job was planned.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from scoreline.storage.tables import text
from scoreline.storage.tables.arrow_layout import read_footer, record_batches
from scoreline.worker.dev.stack import Stack
from tests.support.small_shapes import BATCH_ROWS, ROWS, SHAPES, UNIT_ROWS, ShapedJob, SmallShape, encoded, rows_of

BROKEN = 310
"""The row at which objects are damaged. It is not among the rows that planning samples."""
CHANGED = "was replaced or deleted after the job was planned: submit a new job for the new object"
OF_FILES = [name for name, shape in SHAPES.items() if shape.file_rows < ROWS]
PARQUET = [name for name, shape in SHAPES.items() if shape.suffix == "parquet"]
PLAIN_TEXT = [name for name, shape in SHAPES.items() if shape.is_text and not shape.is_compressed]
HANDED_ON = [name for name in OF_FILES if name != "files of other workers"]
"""Shapes whose objects the planner hands to all parts, in the version that it has read."""
IN_S3 = ["groups as blocks", "wide, shared", "files of other workers", "csv.gz, two processes", "arrow, sliced"]
"""Shapes that are read with different kinds of requests."""


@pytest.fixture
def open_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., ShapedJob]]:
    """Return a function that begins a job with an input of a shape, in a directory unless it is given another store."""
    opened: list[ShapedJob] = []
    directory = {"ENVIRONMENT": "development", "R2_BUCKET": "data", "STORE_DIR": str(tmp_path)}

    def begin(name: str, environ: Mapping[str, str] = directory, place: str = "bad", **options: str) -> ShapedJob:
        SHAPES[name].lower_limits(monkeypatch)
        opened.append(ShapedJob(SHAPES[name], environ, place, profile="off", **options).__enter__())
        return opened[-1]

    yield begin
    for job in opened:
        job.__exit__()


def verify(job: ShapedJob, scored: list[int], rejected: list[tuple[str, int]]) -> None:
    """Check which rows are scored and rejected, and that the outcome counts them."""
    results = job.scored()
    assert results["id"].to_pylist() == scored
    np.testing.assert_allclose(results["prediction"], np.array(scored) + 1.0, rtol=1e-12)
    assert [(name, row) for name, row, _ in job.rejected()] == rejected
    assert (job.outcome.rows, job.outcome.rejected) == (len(scored), len(rejected))


def place(shape: SmallShape, row: int) -> tuple[str, int]:
    """Return the object of a row, and the number of the row in it."""
    number, inside = divmod(row, shape.file_rows)
    return f"{number:03}.{shape.suffix}", inside


# Rejected rows


def reject_at_seams(job: ShapedJob) -> None:
    """Score rows of which those at both sides of each seam are rejected: seams of units, of parts and of batches."""
    shape = job.shape
    seams = {*range(0, ROWS, UNIT_ROWS), *range(BATCH_ROWS, ROWS, BATCH_ROWS)}
    bad = sorted({row for seam in seams for row in (seam - 1, seam) if row >= 0} | {ROWS - 1})
    words = bad[::2] if shape.is_text else ()
    assert job.score(shape.objects(rows_of(missing=bad, words=words))).state == "partial"
    verify(job, [row for row in range(ROWS) if row not in bad], [place(shape, row) for row in bad])
    assert all("'x' is" in message for _, _, message in job.rejected())


@pytest.mark.parametrize("name", SHAPES)
def test_rejected_rows_at_all_seams_keep_their_object_and_row(open_job: Callable[..., ShapedJob], name: str) -> None:
    reject_at_seams(open_job(name))


@pytest.mark.parametrize("name", IN_S3)
def test_rejected_rows_of_objects_in_s3_keep_their_object_and_row(
    open_job: Callable[..., ShapedJob], stack: Stack, name: str
) -> None:
    reject_at_seams(open_job(name, stack.environ, f"rejected-{IN_S3.index(name)}"))


@pytest.mark.parametrize("name", SHAPES)
def test_a_row_of_many_bytes_is_scored_or_named(
    open_job: Callable[..., ShapedJob], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    # Given a row that is larger than a batch, and than a record of a text may be
    job = open_job(name)
    monkeypatch.setattr(text, "MAX_RECORD_BYTES", 16_384)
    for engine in job.engines:
        engine.batch_bytes = 16_384
    notes = ["n" * (40_000 if row == BROKEN else 1) for row in range(ROWS)]
    outcome = job.score(job.shape.objects(rows_of().append_column("note", pa.array(notes))))
    if not job.shape.is_text:
        assert outcome.state == "succeeded"
        verify(job, list(range(ROWS)), [])
        assert job.scored()["note"].to_pylist() == notes
        return
    assert outcome.state == "failed"
    where, row = place(job.shape, BROKEN)
    assert re.search(rf"{job.uri(where)}: row {row}, which begins at byte [\d,]+, is longer than", outcome.error)
    verify(job, [], [])


# Damage


def damaged(shape: SmallShape, objects: dict[str, bytes]) -> tuple[str, bytes, str]:
    """Damage the unit with the row `BROKEN`. Return the name and bytes of its object, and what an error says of it."""
    name, row = place(shape, BROKEN)
    data, unit = objects[name], row // shape.unit_rows
    match shape.suffix:
        case "parquet":
            chunk = pq.read_metadata(io.BytesIO(data)).row_group(unit).column(1)
            at = chunk.data_page_offset + chunk.total_compressed_size * (row % shape.unit_rows) // shape.unit_rows + 30
            says = f"cannot be decoded in row group {unit}: could not verify page integrity"
        case "arrow":
            at = record_batches(read_footer(io.BytesIO(data), len(data)))[unit][0] + 8
            says = f"cannot be decoded in record batch {unit}: "
        case "arrows":
            at = data.rindex(b"\xff\xff\xff\xff", 0, len(data) // 2) + 8
            says = "cannot be decoded in record batch 2: "
        case _:
            at, says = len(data) // 2, "cannot be decompressed: "
    return name, data[:at] + bytes(255 - byte for byte in data[at : at + 8]) + data[at + 8 :], says


@pytest.mark.parametrize("name", [name for name in SHAPES if name not in PLAIN_TEXT])
def test_a_broken_unit_among_sound_ones_is_named_and_other_parts_are_scored(
    open_job: Callable[..., ShapedJob], name: str
) -> None:
    job = open_job(name)
    objects = job.shape.objects(rows_of())
    where, data, says = damaged(job.shape, objects)
    outcome = job.score(objects | {where: data})
    assert outcome.state == "failed"
    assert f"{job.uri(where)} {says}" in outcome.error
    found: list[int] = job.scored()["id"].to_pylist()
    verify(job, found, [])
    if name in PARQUET:  # only parts read the values
        first = BROKEN // job.shape.part_rows * job.shape.part_rows
        assert found[:first] == list(range(first))
        assert not set(found) & set(range(first, first + job.shape.part_rows))
    else:
        assert found == []


@pytest.mark.parametrize("name", PARQUET)
def test_a_column_outside_of_the_object_is_named_even_if_it_is_not_read(
    open_job: Callable[..., ShapedJob], name: str
) -> None:
    # Given an object without the bytes of its last column chunk, which is larger than the footer
    job = open_job(name, keep="id")
    random = np.random.default_rng(1)
    notes = [random.bytes(400).hex() for _ in range(ROWS)]
    objects = job.shape.objects(rows_of().append_column("note", pa.array(notes)))
    where, _ = place(job.shape, BROKEN)
    data, metadata = objects[where], pq.read_metadata(io.BytesIO(objects[where]))
    group = metadata.num_row_groups - 1
    footer = len(data) - 8 - metadata.serialized_size
    data = data[: metadata.row_group(group).column(2).data_page_offset] + data[footer:]
    outcome = job.score(objects | {where: data})
    assert outcome.state == "failed"
    says = f"is damaged: its footer says that column 'note' of row group {group} is outside of the object, which has "
    assert f"{job.uri(where)} {says}{len(data):,} bytes" in outcome.error
    verify(job, [], [])


@pytest.mark.parametrize("name", [name for name in SHAPES if name not in PLAIN_TEXT])
def test_an_object_that_is_cut_short_is_refused(open_job: Callable[..., ShapedJob], name: str) -> None:
    job = open_job(name)
    objects = job.shape.objects(rows_of())
    where, _ = place(job.shape, BROKEN)
    outcome = job.score(objects | {where: objects[where][: len(objects[where]) // 2]})
    assert outcome.state == "failed"
    assert re.search(rf"{job.uri(where)} (is not \S+ \S+|cannot be deco\w+).*: ", outcome.error)
    verify(job, [], [])


@pytest.mark.parametrize("name", PLAIN_TEXT)
def test_the_last_row_of_a_text_that_is_cut_short_is_rejected(open_job: Callable[..., ShapedJob], name: str) -> None:
    job = open_job(name)
    objects = job.shape.objects(rows_of())
    where, row = place(job.shape, BROKEN)
    lines = objects[where].splitlines(keepends=True)
    before = lines[: row + job.shape.suffix.startswith("csv")]
    outcome = job.score(objects | {where: b"".join(before) + lines[len(before)][:2]})
    assert outcome.state == "partial"
    later = range((BROKEN // job.shape.file_rows + 1) * job.shape.file_rows, ROWS)
    verify(job, [*range(BROKEN), *later], [(where, row)])


# Objects that change while the job runs


def replace_while_running(job: ShapedJob, messages: int) -> list[int]:
    """Replace the objects after so many messages. Check that the new rows are not scored, and return those that are."""
    job.put(job.shape.objects(rows_of()))
    job.submit()
    job.run(messages)
    job.put(job.shape.objects(rows_of(range(10_000, 10_000 + ROWS))))
    job.run()
    found: list[int] = job.scored()["id"].to_pylist()
    assert set(found) <= set(range(ROWS))
    verify(job, found, [])
    if len(found) == ROWS:
        assert job.outcome.state == "succeeded"
    else:
        assert job.outcome.state == "failed"
        assert re.search(rf"part \d: {job.uri('')}\d+\.\S+ {CHANGED}", job.outcome.error)
    return found


@pytest.mark.parametrize("name", SHAPES)
def test_an_object_that_was_replaced_after_planning_is_named(open_job: Callable[..., ShapedJob], name: str) -> None:
    found = replace_while_running(open_job(name), messages=1)
    assert (len(found) == ROWS) is (name in HANDED_ON)


@pytest.mark.parametrize("name", [name for name in SHAPES if name not in HANDED_ON])
def test_an_object_that_was_replaced_after_a_part_is_named_or_in_memory(
    open_job: Callable[..., ShapedJob], name: str
) -> None:
    replace_while_running(open_job(name), messages=2)


@pytest.mark.parametrize("name", IN_S3)
def test_an_object_that_was_replaced_in_s3_is_named(
    open_job: Callable[..., ShapedJob], stack: Stack, name: str
) -> None:
    job = open_job(name, stack.environ, f"replaced-{IN_S3.index(name)}")
    assert len(replace_while_running(job, messages=2)) < ROWS


# Objects unlike the others


@pytest.mark.parametrize(
    "name", ["groups", "files", "files in a spool", "csv", "csv files", "json lines", "arrow files"]
)
def test_an_object_with_other_columns_is_named_or_its_rows_are_scored_or_rejected(
    open_job: Callable[..., ShapedJob], name: str
) -> None:
    objects = SHAPES[name].objects(rows_of())
    last, suffix = place(SHAPES[name], ROWS - 1)[0].partition(".")[::2]
    odd = f"{last}a.{suffix}"

    def score(number: int, **columns: list[object]) -> ShapedJob:
        job = open_job(name, place=f"odd{number}")
        job.score(objects | {odd: encoded(pa.table(columns), suffix)})
        return job

    # A column that is missing
    job = score(1, id=[ROWS], y=[1.0])
    if name.startswith("json lines"):  # any row may lack a key
        verify(job, list(range(ROWS)), [(odd, 0)])
    else:
        assert job.outcome.state == "failed"
        assert f"{job.uri(odd)} lacks 'x'; it has 'id', 'y'" in job.outcome.error
    # A feature of another type
    verify(score(2, id=[ROWS, ROWS], x=["word", str(ROWS / 2)]), list(range(ROWS + 1)), [(odd, 0)])
    # A kept column of another type
    job = score(3, id=["word"], x=[1.0])
    if SHAPES[name].is_text:
        assert job.scored()["id"].to_pylist() == [*map(str, range(ROWS)), "word"]
    else:
        assert f"{job.uri(odd)} has 'id' as string, but {job.uri('000.')}" in job.outcome.error


@pytest.mark.parametrize("name", OF_FILES)
def test_many_empty_objects_among_others_change_nothing(open_job: Callable[..., ShapedJob], name: str) -> None:
    job = open_job(name)
    objects = job.shape.objects(rows_of())
    without_rows = encoded(rows_of().slice(0, 0), job.shape.suffix)
    for number in range(200):
        objects[f"{number % 6:03}-{number}.{job.shape.suffix}"] = b"" if number % 2 else without_rows
    assert job.score(objects).state == "succeeded"
    verify(job, list(range(ROWS)), [])
