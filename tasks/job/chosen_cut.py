"""Chooses how an input is cut into parts, so that the job is expected to end as early as possible."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from scoreline.storage.wording import plural
from scoreline.tasks.job.end_time import (
    LEAST_SECONDS,
    READ_S_PER_BYTE,
    Costs,
    Cut,
    Forecast,
    Processes,
    Run,
    forecast,
    share,
)
from scoreline.tasks.job.part_sizes import (
    LEAST_PART_ROWS,
    PART_SECONDS,
    PART_SLICES,
    SHARES,
    SUPPOSED_PROCESSES,
    CutParts,
    divide,
    pack,
    target_part_rows,
)
from scoreline.tasks.job.plan import InputFile, Part

RESULT_BYTES = 64 << 20
"""Maximum size in bytes of the results of a part before encoding. The encoded results are in memory until they are
written."""
WIDE_COLUMNS = 100
WIDE_ROW_BYTES = 4 << 10
"""A table counts as wide if its rows have at least `WIDE_COLUMNS` columns and `WIDE_ROW_BYTES` bytes. A process that
reads some rows of a wide row group fetches the whole row group. Earlier rows therefore cost nothing more, and equal
shares end at the same time."""
_LEAST_GAIN = 0.05
"""Row groups are shared only if this shortens the job by at least this fraction, because shared row groups are read
more than once."""
_SHARED_PARTS = 32
"""Row groups are shared only in jobs with at most this many parts for each process. In larger jobs, processes wait at
the end for less than a thirtieth of the job's time."""
_SUPPOSED_SHARING = 2
"""Number of processes that are assumed to share row groups, if processes have not been counted recently. The number is
low, because fewer rows are read twice if fewer processes share a row group."""
_FORECAST_PARTS = 20_000
"""Maximum number of parts to forecast. The rest of a job is like its beginning, and planning must not take minutes."""
_SHARED_RUNS = 1_000
"""Row groups are shared only if there are at most this many row groups. If there are more, each row group is small
compared with the job."""
_NEARLY = 1.02
"""Cuts count as equally fast if their expected times differ by less than this factor. The cut that reads the fewest
rows is then chosen."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """The size and pace of the work in a job, as far as they are known."""

    rows_per_s: float | None = None
    """Rows per second of one process in earlier jobs of the model version, or on a sample; None if it is unknown."""
    scored_per_s: float | None = None
    """Rows per second without fetching and decoding; None if it is unknown."""
    processes: int = 0
    """Number of processes that score parts; 0 if they have not been counted recently."""
    row_bytes: int = 0
    """Average memory per row, in bytes, of the columns that are read."""
    columns: int = 0
    """Number of columns that are read."""
    result_bytes: int = 0
    """Average memory per row, in bytes, of the results."""

    @property
    def costs(self) -> Costs:
        """The estimated seconds that one process takes for a row and for a part.

        >>> Work(rows_per_s=1e5, row_bytes=400).costs
        Costs(read_s=1e-06, score_s=9e-06, part_s=0.009)
        """
        read_s = self.row_bytes * READ_S_PER_BYTE
        is_wide = self.columns >= WIDE_COLUMNS and self.row_bytes >= WIDE_ROW_BYTES
        skip_share = 0.0 if is_wide else 1.0
        if self.scored_per_s:
            return Costs(read_s=read_s, score_s=1 / self.scored_per_s, skip_share=skip_share)
        row_s = 1 / self.rows_per_s if self.rows_per_s else 0.0
        score_s = round(max(row_s - read_s, row_s / 4, 1e-8), 12)
        return Costs(read_s=read_s, score_s=score_s, skip_share=skip_share)

    @property
    def most_rows(self) -> int:
        """Maximum number of rows in a part, so that its results fit into `RESULT_BYTES`."""
        return max(1, RESULT_BYTES // max(1, self.result_bytes))


@dataclass(frozen=True, kw_only=True)
class ChosenCut:
    """The parts of a job, and the reason why the input is cut into these parts."""

    parts: Sequence[Part]
    reason: str
    """A sentence for people, without a full stop."""
    readings: float
    """Expected number of times that a row of the input is read and decoded, on average."""


def choose_cut(files: Sequence[InputFile], work: Work, part_rows: int | None = None) -> ChosenCut:
    """Cut files into parts so that the job is expected to end as early as possible.

    A part consists of whole row groups, and has about as many rows as `target_part_rows` returns. A row group is
    divided if scoring it takes more than `2 * PART_SECONDS`, or if its results take more than `RESULT_BYTES`. If some
    processes would wait while others score the last row groups, all processes share these row groups: each scores some
    consecutive rows.

    Parameters
    ----------
    part_rows : int, optional
        Number of rows per part that the job requests. Row groups with more than twice as many rows are divided evenly.
    """
    processes = work.processes or _SUPPOSED_SHARING
    if part_rows:
        parts = pack(files, part_rows, most_rows=2 * part_rows)
        reason = f"--part-rows asks for about {plural(part_rows, 'row')} in a part"
        return _chosen(files, parts, forecast(parts[:_FORECAST_PARTS], processes, work.costs), reason)
    rows = sum(sum(file.row_counts) for file in files)
    pace = 1 / work.costs.row_s if work.rows_per_s else None
    target = min(target_part_rows(rows, pace, work.processes), work.most_rows)
    limit = work.most_rows
    if work.rows_per_s and 2 * PART_SECONDS / work.costs.row_s < limit:
        limit = max(1, int(2 * PART_SECONDS / work.costs.row_s))
        run_rows = max(1, min(limit // 2, rows // (SHARES[0] * (work.processes or SUPPOSED_PROCESSES))))
        parts = pack(files, target, most_rows=limit, run_rows=run_rows)
    else:
        parts = pack(files, target, most_rows=limit, run_rows=limit)
    found = forecast(parts[:_FORECAST_PARTS], processes, work.costs)
    if not work.rows_per_s:
        return _chosen(files, parts, found, _reason(files, parts, work))
    shared = _best(_alternatives(parts, processes, work.costs, limit), found)
    if shared is None:
        return _chosen(files, parts, found, _reason(files, parts, work))
    return _chosen(files, *shared, _reason(files, shared[0], work, processes))


def _chosen(files: Sequence[InputFile], parts: Cut, found: Forecast, reason: str) -> ChosenCut:
    rows = sum(run.rows for part in parts[:_FORECAST_PARTS] for run in part)
    return ChosenCut(parts=CutParts(files, parts), reason=reason, readings=found.rows_read / max(1, rows))


def _best(cuts: Iterable[tuple[Cut, Forecast]], base: Forecast) -> tuple[Cut, Forecast] | None:
    """Return the cut with the earliest expected end, or a cut that reads fewer rows and ends almost as early."""
    found = list(cuts)
    end = min((later.seconds for _, later in found), default=base.seconds)
    if not found or end > (1 - _LEAST_GAIN) * base.seconds:
        return None
    return min(
        ((other, later) for other, later in found if later.seconds <= _NEARLY * end),
        key=lambda pair: (pair[1].rows_read, pair[1].seconds),
    )


def _alternatives(parts: Cut, processes: int, costs: Costs, limit: int) -> Iterator[tuple[Cut, Forecast]]:
    """Yield alternative cuts: some divide only the last row groups among the processes, others all row groups."""
    rows = sum(run.rows for part in parts for run in part)
    least = max(min(LEAST_PART_ROWS, 1 / costs.row_s), LEAST_SECONDS / costs.row_s)
    if processes < 2 or len(parts) > _SHARED_PARTS * processes or rows < 2 * least:
        return
    parts = list(parts)  # so that all cuts share the runs that they have in common
    pool = Processes(processes, costs)
    for number, part in enumerate(parts):
        if number >= len(parts) - 2 * processes:
            tail = _joined(run for later in parts[number:] for run in later)
            if len(tail) <= _SHARED_RUNS:
                shared = list(_limited(share(tail, pool.free, costs), limit))
                yield [*parts[:number], *shared], forecast(shared, processes, costs, pool)
        pool.take(part)
    whole = _joined(run for part in parts for run in part)
    if len(whole) <= _SHARED_RUNS:
        for counts in (
            [-(-one.rows // limit) for one in whole],
            [_equal_runs(one.rows, processes, costs, limit) for one in whole],
        ):
            divided = [[run] for one, count in zip(whole, counts, strict=True) for run in divide(one, count)]
            yield divided, forecast(divided, processes, costs)


def _equal_runs(rows: int, processes: int, costs: Costs, limit: int) -> int:
    """Return the number of equal runs into which to divide a row group.

    There is one run per process, unless the runs would be too short to be worth a part.
    """
    return max(-(-rows // limit), min(processes, int(rows * costs.row_s / LEAST_SECONDS)), 1)


def _joined(runs: Iterable[Run]) -> list[Run]:
    """Join consecutive runs of the same span."""
    joined: list[Run] = []
    for run in runs:
        if joined and joined[-1][:2] == run[:2]:
            joined[-1] = joined[-1]._replace(rows=joined[-1].rows + run.rows)
        else:
            joined.append(run)
    return joined


def _limited(shares: Iterable[Sequence[Run]], limit: int) -> Iterator[list[Run]]:
    """Cut the rows that each process is to score into parts of at most `limit` rows."""
    for share_ in shares:
        part: list[Run] = []
        rows = 0
        for run in (piece for one in share_ for piece in divide(one, -(-one.rows // limit))):
            if part and (len(part) == PART_SLICES or rows + run.rows > limit):
                yield part
                part, rows = [], 0
            part.append(run)
            rows += run.rows
        yield part


def _count_groups(parts: Cut) -> tuple[int, int]:
    """Return the number of row groups, and how many of them are in more than one part. Parts are in input order."""
    groups = divided = 0
    last, is_divided = (-1, -1), False
    for part in parts:
        for number, run in enumerate(part):
            if run[:2] != last:
                groups, last, is_divided = groups + 1, run[:2], False
            elif number == 0 and not is_divided:
                divided, is_divided = divided + 1, True
    return groups, divided


def _reason(files: Sequence[InputFile], parts: Cut, work: Work, sharing: int = 0) -> str:
    """Return the reason why the input is cut into these parts.

    Parameters
    ----------
    sharing : int
        Number of processes that share row groups; 0 if no row group is shared.
    """
    objects = len({run.file for part in parts for run in part})
    groups, divided = _count_groups(parts)
    by_rows = any(file.spans[0].by_rows for file in files if file.spans)
    count = plural(groups, "row group" if by_rows else "block")
    if divided and sharing:
        which = "it" if groups == 1 else "the last one" if divided == 1 else f"{divided} of them"
        reads = "reads it once" if divided == 1 else "reads what it shares once"
        return f"{count}: {sharing} processes can share {which}, and each {reads}"
    largest = max((sum(run.rows for run in part) for part in parts), default=0)
    if divided:
        seconds = work.costs.row_s * max(max(file.row_counts, default=0) for file in files)
        why = (
            f"its results take more than {RESULT_BYTES >> 20} MiB of memory"
            if not work.rows_per_s or largest >= work.most_rows // 2
            else f"the model takes about {seconds:,.0f} s for the largest"
        )
        return f"{count}: cut into runs of up to {plural(largest, 'row')}, because {why}"
    if len(parts) == 1:
        if work.rows_per_s:
            return f"{count}: one part, because the work takes about {largest * work.costs.row_s:,.1f} s"
        return f"{count}: one part, because the pace of the model is not known yet"
    if objects > len(parts):
        most = max(len({run.file for run in part}) for part in parts)
        return f"{plural(objects, 'object')}: {plural(len(parts), 'part')} of up to {plural(most, 'object')}"
    if groups == len(parts):
        return f"{count}: each is a part"
    most = max(len(part) for part in parts)
    return f"{count}: {plural(len(parts), 'part')} of up to {most:,} of them"
