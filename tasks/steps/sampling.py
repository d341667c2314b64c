"""Scores a few rows of a job while it is planned, to learn what the model accepts and what its results look like."""

from __future__ import annotations

import contextlib
import itertools
import math
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace

import pyarrow as pa

from scoreline.storage.errors import RejectBudgetExceeded, ScoringError
from scoreline.storage.models.bundle import Bundle
from scoreline.storage.tables import parquet
from scoreline.storage.tables.base import MalformedRow, Rows
from scoreline.storage.tables.schemas import to_text
from scoreline.storage.wording import plural
from scoreline.tasks.inputs.columns import (
    ResolvedColumns,
    read_as_numbers,
    rows_with_words,
)
from scoreline.tasks.inputs.listing import SurveyedObject
from scoreline.tasks.job.chosen_cut import ChosenCut
from scoreline.tasks.job.documents import Job
from scoreline.tasks.job.part_sizes import PART_ROWS, CutParts, pack
from scoreline.tasks.job.plan import BATCH_ROWS, Columns, InputFile, Part, Slice, evenly_spaced
from scoreline.tasks.scoring.contract import Contract
from scoreline.tasks.scoring.score import Scored, score_batch
from scoreline.tasks.scoring.settled_types import describe_types
from scoreline.tasks.scoring.timings import Timings
from scoreline.tasks.steps.engine import Engine

SAMPLE_ROWS = 64
"""Number of rows that are scored to learn the output schema."""
TRIAL_ROWS = 8_192
TRIAL_S = 0.25
"""To learn the pace of a model, as many rows are scored as are expected to take `TRIAL_S` seconds, but at most
`TRIAL_ROWS`."""
SAMPLED_PARTS = 8
"""Number of parts to sample if the first rows cannot be scored."""


@dataclass(frozen=True, kw_only=True)
class Draft:
    """A plan, with the findings from sampling the input."""

    columns: Columns
    parts: Sequence[Part] = ()
    warnings: tuple[str, ...] = ()
    surveyed: tuple[SurveyedObject, ...] = ()
    sample: pa.RecordBatch | None = None
    """The first batch with at least one row that could be scored; None for an input without rows."""
    scored: Scored | None = None
    """The results of the sample."""
    tried: int = 0
    """Number of rows that were tried, up to and including the sample."""
    rejected: int = 0
    """Number of tried rows that could not be scored."""
    reason: str = ""
    """Reason why the first rejected row could not be scored."""
    rows_per_s: float | None = None
    """Rows scored per second, without the time that reading them and finding rejected rows took. The pace on the sample
    is an underestimate, because with 64 rows a call is mostly overhead; `try_pace` measures it on more rows."""
    ahead: pa.RecordBatch | None = None
    """The rows of the sample and the later rows that were read with them; None after planning."""
    challenger: Scored | None = None
    """The results of the sample by the challenger; None without one, or if it failed."""
    challenger_rows_per_s: float | None = None
    """Rows that the challenger scores per second, on the sample."""
    chosen: ChosenCut | None = None
    """How the input is cut; None if only rejected rows are scored again."""


def parts_to_sample(files: Sequence[InputFile], part_rows: int | None) -> Sequence[Part]:
    """Return some parts, evenly spaced from the first to the last, to score the first rows of each."""
    parts = pack(files, part_rows or PART_ROWS, most_rows=2 * part_rows if part_rows else None)
    return CutParts(files, list(evenly_spaced(parts, SAMPLED_PARTS)))


def try_rows(engine: Engine, job: Job, bundle: Bundle, made: Draft, resolved: ResolvedColumns) -> Draft:
    """Score a few rows to learn the output schema, and what the model accepts.

    If a feature mixes numbers and words, some of the rows contain words in this feature. If the model does not accept
    these rows, the feature is read as numbers, and rows with words are rejected. If a model does not declare its form
    of input and all features are numbers, it first gets an array. If it accepts no row of the array, it gets a
    DataFrame.
    """
    try:
        return _try_words(engine, job, bundle, made, resolved)
    except ScoringError:
        if bundle.manifest.feature_names is not None or bundle.manifest.n_features is not None:
            raise
        with contextlib.suppress(ScoringError):
            return _try_words(engine, job, bundle, replace(made, columns=replace(made.columns, frames=True)), resolved)
        raise


def _try_words(engine: Engine, job: Job, bundle: Bundle, made: Draft, resolved: ResolvedColumns) -> Draft:
    if not resolved.mixed:
        return _score_sample(engine, job, bundle, made)
    columns = made.columns
    words = _sample_words(engine, job, made, resolved.mixed)
    if words is not None:
        scored = score_rows_of(job, bundle, words, replace(columns, rules=()))  # whether the model takes words
        if not scored.rejected:
            return _score_sample(engine, job, bundle, made)
    reads = read_as_numbers(resolved.reads, resolved.mixed)
    numbers = replace(columns, reads=to_text(reads), types=describe_types(reads, columns.features))
    try:
        return _score_sample(engine, job, bundle, replace(made, columns=numbers))
    except ScoringError:
        with contextlib.suppress(ScoringError):
            return _score_sample(engine, job, bundle, made)
        raise


def _sample_words(engine: Engine, job: Job, made: Draft, mixed: Collection[str]) -> pa.RecordBatch | None:
    """Return some rows with a word in one of the `mixed` columns; None if the sampled parts have no such rows."""
    for rows in _first_batches(engine, job, made, head=BATCH_ROWS):
        with_words = rows_with_words(rows.batch, mixed, SAMPLE_ROWS)
        if len(with_words):
            return rows.batch.take(with_words)
    return None


def _score_sample(engine: Engine, job: Job, bundle: Bundle, made: Draft) -> Draft:
    """Score one sample after another until one has a result, and add the findings to the draft.

    Raises
    ------
    ScoringError
        No row of any sample can be scored.
    """
    columns = made.columns
    tried, rejected, reason = 0, 0, ""
    for rows, ahead in _samples(engine, job, made):
        begun, timings = time.perf_counter(), Timings()
        scored = score_rows_of(job, bundle, rows.batch, columns, timings)
        seconds = time.perf_counter() - begun - timings.search
        reasons = [str(why) for why in scored.rejected.values()] + [_format_malformed(item) for item in rows.malformed]
        tried, rejected = tried + rows.batch.num_rows + len(rows.malformed), rejected + len(reasons)
        reason = reason or next(iter(reasons), "")
        if scored.table.num_rows:
            made = replace(made, ahead=ahead)
            break
    else:
        raise ScoringError(
            f"none of {plural(tried, 'row')} tried, from all parts of the input, can be scored: check that its columns "
            f"hold what the model was trained on. The first reason: {'; '.join((reason, *bundle.warnings))}"
        )
    schema = scored.table.schema.remove_metadata()
    parquet.check_writable(schema)
    return replace(
        made,
        columns=replace(columns, schema=to_text(schema)),
        warnings=(*made.warnings, *bundle.warnings),
        sample=rows.batch,
        scored=scored,
        tried=tried,
        rejected=rejected,
        reason=reason,
        rows_per_s=scored.table.num_rows / max(seconds, 1e-6),
    )


def try_pace(job: Job, bundle: Bundle, made: Draft) -> float:
    """Score more rows than the sample, and return how many rows per second the model scores.

    The pace is still an underestimate, because a whole batch has more rows. If some of the rows cannot be scored,
    return the pace that was measured on the sample.
    """
    assert made.rows_per_s is not None
    assert made.ahead is not None
    batch = made.ahead.slice(0, min(TRIAL_ROWS, int(TRIAL_S * made.rows_per_s)))
    if batch.num_rows <= SAMPLE_ROWS or (made.scored is not None and made.scored.rejected):
        return made.rows_per_s  # the sample is the beginning of the batch
    begun = time.perf_counter()
    try:
        scored = score_rows_of(job, bundle, batch, made.columns, max_rejected=0)
    except RejectBudgetExceeded:
        return made.rows_per_s
    seconds = time.perf_counter() - begun
    return max(made.rows_per_s, float(scored.table.num_rows) / max(seconds, 1e-6))


def result_bytes(made: Draft, *, encode: bool) -> int:
    """Return the average memory that a row of the results takes until the part is written.

    Parameters
    ----------
    encode : bool
        Whether to encode some rows, to measure how well kept columns can be compressed. This requires enough rows.
    """
    if made.scored is None or made.ahead is None:
        return 0
    keep = list(made.columns.keep)
    kept = pa.Table.from_batches([made.ahead.slice(0, TRIAL_ROWS)]).select(keep)
    if not encode or not keep or kept.num_rows < TRIAL_ROWS // 2:  # the sample may be in the first half of the rows
        return row_bytes(made.scored.table)
    encoded_bytes: float = len(parquet.write(kept, {})) / kept.num_rows
    return row_bytes(made.scored.table.drop_columns(keep)) + math.ceil(encoded_bytes)


def row_bytes(rows: pa.RecordBatch | pa.Table | None) -> int:
    """Return the average memory of a row, rounded up. A dictionary column has an index and an average value per row.

    >>> row_bytes(pa.table({"x": [1.0, 2.0], "y": pa.array(["a" * 30, "b" * 30]).dictionary_encode()}))
    46
    """
    if rows is None or not rows.num_rows:
        return 0
    size = sum(_column_bytes(column) for column in rows.columns)
    return math.ceil(size / int(rows.num_rows))


def _column_bytes(column: pa.Array | pa.ChunkedArray) -> int:
    if not pa.types.is_dictionary(column.type):
        return int(column.nbytes)
    chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    return sum(int(chunk.indices.nbytes) + len(chunk) * _value_bytes(chunk.dictionary) for chunk in chunks)


def _value_bytes(values: pa.Array) -> int:
    return int(values.nbytes) // max(1, len(values))


def score_rows_of(
    job: Job,
    bundle: Bundle,
    rows: pa.RecordBatch,
    columns: Columns,
    timings: Timings | None = None,
    max_rejected: int | None = None,
) -> Scored:
    """Score rows of the input as a part would, with the columns of a draft."""
    return score_batch(
        bundle,
        rows,
        features=columns.features,
        keep=columns.keep,
        method=job.spec.method,
        frames=columns.frames,
        max_rejected=max_rejected,
        timings=timings,
        contract=Contract(columns.rules),
    )


def _pieces(piece: Slice, head: int, batch_rows: int, *, is_by_rows: bool) -> Iterator[tuple[Slice, int]]:
    """Yield the first rows of a slice, which are usually enough, and then more of them, each with a number of rows.

    The number is that of the rows of a batch. Together, the pieces have at most `BATCH_ROWS` rows.

    Parameters
    ----------
    head : int
        Number of rows of the first piece.
    is_by_rows : bool
        Whether the object can be divided between any two rows, so that only the bytes of a piece are read.
    """
    if piece.only is not None or piece.rows <= head:
        yield piece, min(head, batch_rows)
        return
    for first, last in ((0, head), (head, min(piece.rows, BATCH_ROWS))):
        if first == last:
            return
        if is_by_rows:
            start, rows = piece.start + first, last - first
            part = replace(piece, start=start, stop=start + rows, first_row=piece.first_row + first, rows=rows)
        else:
            part = replace(piece, only=range(piece.first_row + first, piece.first_row + last))
        yield part, min(last, batch_rows)


def _samples(engine: Engine, job: Job, made: Draft) -> Iterator[tuple[Rows, pa.RecordBatch]]:
    """Yield samples of `SAMPLE_ROWS` rows: the first rows, then later rows, then rows of other parts.

    Each sample comes with a second batch, which has the rows of the sample and all later rows that were read with them.

    Rows that cannot be scored are often next to each other. Therefore the position within the rows doubles with each
    sample.

    The first rows that are read are `TRIAL_ROWS`, because nothing needs more of them if they can be scored. If the job
    carries scores over, they are as many as those of a part's batch, because scores could differ in a batch of another
    size.
    """
    for rows in _first_batches(engine, job, made, head=BATCH_ROWS if job.spec.only_changed else TRIAL_ROWS):
        malformed = rows.malformed
        start = 0
        while start < rows.batch.num_rows or malformed:
            batch = rows.batch.slice(start, SAMPLE_ROWS)
            sample = Rows(batch=batch, numbers=rows.numbers[start : start + SAMPLE_ROWS], malformed=malformed)
            yield sample, rows.batch.slice(start)
            start, malformed = max(SAMPLE_ROWS, 2 * start), ()


def _first_batches(engine: Engine, job: Job, made: Draft, head: int) -> Iterator[Rows]:
    """Yield the first batches of several parts, evenly spaced from the first part to the last.

    All batches of a part together have at most `BATCH_ROWS` rows.

    Parameters
    ----------
    head : int
        Maximum number of rows of the first batch of each part.
    """
    batch_rows = engine.batch_size(made.columns).rows_to_read
    head = min(head, batch_rows)
    files = [item.file for item in made.surveyed]
    by_rows = {(file.bucket, file.key) for file in files if any(span.by_rows for span in file.spans[:1])}
    for part in evenly_spaced(made.parts, SAMPLED_PARTS):
        piece, found = part.slices[0], 0
        pieces = _pieces(piece, head, batch_rows, is_by_rows=(piece.bucket, piece.key) in by_rows)
        for rows in itertools.chain.from_iterable(
            engine.read_slice(some, made.columns, job.spec.read, size) for some, size in pieces
        ):
            if count := rows.batch.num_rows + len(rows.malformed):
                yield rows
                found += count
            if found >= BATCH_ROWS:
                break


def beginning(piece: Slice, rows: int) -> Slice:
    """Return a slice of only the first rows, so that only the bytes of these rows are fetched."""
    if piece.only is not None or piece.rows <= rows:
        return piece
    return replace(piece, only=range(piece.first_row, piece.first_row + rows))


def first_rows(batches: Iterator[Rows]) -> Rows | None:
    """Return the first batch that is not empty; None if all are empty.

    A batch is empty if none of its rows is to be scored.
    """
    return next((rows for rows in batches if rows.batch.num_rows or rows.malformed), None)


def _format_malformed(malformed: MalformedRow) -> str:
    return f"row {malformed.row}: {malformed.message}"
