"""Estimates how many bytes the parts of a job read, and with how many requests."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from scoreline.storage.tables.base import SMALL_BYTES, Pinned, Span
from scoreline.storage.tables.options import ReadOptions
from scoreline.storage.tables.small_objects import KeptObjects
from scoreline.storage.tables.stored_columns import stored_share
from scoreline.tasks.job.plan import InputFile, Slice
from scoreline.tasks.steps.engine import Engine
from scoreline.tasks.steps.sampling import Draft

REQUEST_BYTES = 8 << 20
"""Typical size of a request for the rows of a large object."""
SPOOL_BYTES = 256 << 20
"""Maximum size of the small objects that a planner hands to its worker, unless ``SMALL_OBJECTS_MB`` is set."""
_PLANNED_RUNS = 100
"""Maximum number of runs whose requests are planned as a part plans them. Other runs are taken to be like these."""


@dataclass(frozen=True, kw_only=True)
class ExpectedReads:
    """The bytes that the parts of a job are expected to read, and the number of requests."""

    needed_bytes: int
    """Stored bytes of the columns that are needed. Text is needed as a whole."""
    bytes: int
    """Bytes that are read. It is more than `needed_bytes` if processes share row groups."""
    requests: int
    """Number of requests for `bytes`, and for footers."""


@dataclass(frozen=True, kw_only=True)
class _Run:
    """What one process reads of an object: slices of the same row group of Parquet, or all of its slices of others."""

    file: InputFile
    slices: Sequence[Slice]
    first_row: int
    """The first row of the row group."""

    @property
    def estimate(self) -> float:
        """The stored bytes of the rows, all columns included."""
        size, rows = self.file.size, max(1, sum(self.file.row_counts))
        if _by_rows(self.file):  # earlier rows of the row group must be read, too
            return size * (self.slices[-1].first_row + self.slices[-1].rows - self.first_row) / rows
        return sum(size * piece.count / rows for piece in self.slices)

    @property
    def spans(self) -> list[Span]:
        """The slices as spans."""
        return [piece.span(piece.only if isinstance(piece.only, range) else None) for piece in self.slices]


def expect_reads(
    engine: Engine, made: Draft, options: ReadOptions, processes: int = 0, worker_size: int = 1
) -> ExpectedReads:
    """Estimate the bytes that the parts of a job read, and the number of requests.

    The requests for the first object are planned as its parts plan them. The fraction of the bytes that belongs to the
    needed columns, and the sizes of requests, are taken to be the same in other objects. Bytes that planning reads are
    not included. It is assumed that processes take turns with the parts.

    Parameters
    ----------
    processes : int
        Number of processes that score parts; 0 if it is unknown.
    worker_size : int
        Number of processes of each worker.

    Raises
    ------
    ScorelineError
        The first object cannot be read.
    """
    read = Counter(key for part in made.parts for key in {(piece.bucket, piece.key) for piece in part.slices})
    objects = [item.file for item in made.surveyed if (item.file.bucket, item.file.key) in read]
    if not objects:
        return ExpectedReads(needed_bytes=0, bytes=0, requests=0)
    first, share = objects[0], 1.0
    names = (*made.columns.names, *made.columns.extra)
    source = Pinned.of(engine.buckets[first.bucket], first)
    if _by_rows(first):
        share = stored_share(source, names)
    columns = [name for name in names if name not in made.columns.folders]
    batch_rows = engine.batch_size(made.columns).rows_to_read
    requests = total = 0
    heads = 0.0
    is_kept, sharing = _kept_by_planner([item.file for item in made.surveyed], worker_size)
    again = again_bytes = 0
    for item in objects:
        parts = read[item.bucket, item.key]
        if is_kept(item) and parts == 1:  # the worker or the process that planned the job does not fetch it again
            again, again_bytes = again + 1, again_bytes + item.size
        elif item.size <= SMALL_BYTES:  # each part fetches the whole object
            requests, total = requests + parts, total + parts * item.size
        else:
            heads += _head_requests(engine, item, min(parts, processes or 1), processes or 1, options)
    by_others = 1 - min(1, sharing / (processes or 1))
    requests += math.ceil(by_others * again) + math.ceil(heads)
    total += int(by_others * again_bytes)
    planned: list[int] = []
    estimates = 0.0
    ratio, request_bytes = 1.0, float(REQUEST_BYTES)
    for number, run in enumerate(_runs(made, objects, processes)):
        if run.file is first and number < _PLANNED_RUNS:
            sizes = engine.tables.expect_requests(source, columns, run.spans, first.spans, batch_rows, options)
            if worker_size > 1 and engine.tables.shares_rows(source, columns, run.spans, options):
                sizes = [1] * len(run.slices)  # a part only looks whether the object has changed
            planned += sizes
            estimates += share * run.estimate
            ratio, request_bytes = sum(planned) / max(1.0, estimates), sum(planned) / max(1, len(planned))
        else:
            estimate = ratio * share * run.estimate
            requests += max(1, math.ceil(estimate / max(1.0, request_bytes)))
            total += int(estimate)
    needed = sum((share if _by_rows(item) else 1.0) * item.size for item in objects)
    return ExpectedReads(needed_bytes=int(needed), bytes=total + sum(planned), requests=requests + len(planned))


def _kept_by_planner(files: Sequence[InputFile], worker_size: int) -> tuple[Callable[[InputFile], bool], int]:
    """Return how many processes share what the planner keeps, and a function that says whether it keeps an object.

    Each object counts from when the function is called with it.
    """
    kept, left = KeptObjects(for_parts=True), SPOOL_BYTES
    kept.begin(files)

    def is_spooled(item: InputFile) -> bool:
        nonlocal left
        fits = 0 < item.size <= left
        left -= item.size if fits else 0
        return fits

    if worker_size > 1 and len(files) > 1 and all(item.size <= SMALL_BYTES for item in files):
        return is_spooled, worker_size
    return lambda item: bool(kept.reserve(item)), 1


def _head_requests(engine: Engine, item: InputFile, readers: int, processes: int, options: ReadOptions) -> float:
    """Return how many requests so many readers of an object send for its beginning or end.

    One of the processes plans the job, and may have read them to do so.
    """
    count, is_known = engine.tables.head_requests(Pinned.of(engine.buckets[item.bucket], item), options)
    return count * readers * (1 - is_known / processes)


def _by_rows(file: InputFile) -> bool:
    return any(span.by_rows for span in file.spans[:1])


def _runs(made: Draft, objects: Sequence[InputFile], processes: int) -> Iterator[_Run]:
    """Yield what each process reads of each large object.

    A process keeps the reader of a row group open for its next slice, and may continue in a compressed text.
    """
    files = {(item.bucket, item.key): item for item in objects if item.size > SMALL_BYTES}
    firsts = {key: [span.first_row for span in item.spans] for key, item in files.items() if _by_rows(item)}
    groups: dict[tuple[str, str, int], list[Slice]] = {}
    for part in made.parts:
        for piece in part.slices:
            if (key := (piece.bucket, piece.key)) in files:
                place = bisect_right(firsts[key], piece.first_row) - 1 if key in firsts else 0
                groups.setdefault((*key, place), []).append(piece)
    for (bucket, key_, place), pieces in groups.items():
        file, readers = files[bucket, key_], min(len(pieces), processes or 1)
        first_row = firsts[bucket, key_][place] if (bucket, key_) in firsts else 0
        for number in range(readers):
            yield _Run(file=file, first_row=first_row, slices=pieces[number::readers])
