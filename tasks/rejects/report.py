"""Counts the rejected rows of a job by reason, with one batch in memory at a time."""

from __future__ import annotations

import contextlib
import functools
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import pyarrow as pa

from scoreline.storage.errors import ObjectNotFound, ScoringError
from scoreline.storage.objects.base import ObjectInfo, ObjectStore
from scoreline.storage.prefetch import map_ahead
from scoreline.storage.tables.base import Pinned, Rows
from scoreline.storage.tables.parquet import ParquetFormat, read_table
from scoreline.storage.typed_json import convert, decode_object
from scoreline.tasks.job.commits import find_rejects
from scoreline.tasks.job.documents import decoding
from scoreline.tasks.job.layout import ResultsLayout
from scoreline.tasks.job.listed_rejects import ListedRejects
from scoreline.tasks.job.object_lines import lines_of
from scoreline.tasks.job.plan import Columns
from scoreline.tasks.job.receipt import Receipt
from scoreline.tasks.rejects.json_values import to_json_value
from scoreline.tasks.rejects.table import rejection_columns

MAX_REASONS = 500
MAX_SOURCES = 50
"""Maximum number of distinct reasons, and of objects for each reason. Further reasons and objects are counted together
as `OTHER`."""
MAX_MESSAGE = 500
"""Number of characters of a message that are compared. A longer message consists mostly of a value."""
OTHER = "(others)"
_BATCH_ROWS = 8_192
_THREADS = 8

_GAP = "…"
_VALUES = re.compile(
    r"""(?<!\w)'(?:[^'\\]|\\.)*'(?!\w) | "(?:[^"\\]|\\.)*"  # a quoted text, but not an apostrophe
    | \b0x[0-9a-f]+\b
    | \b\d{4}-\d\d-\d\d(?:[T ][\d:.]+)?(?:Z|[+-]\d\d:?\d\d)?
    | (?<![\w.])[-+]?(?:\d[\d_,]*)?\.?\d+(?:e[-+]?\d+)?(?!\w)""",
    re.IGNORECASE | re.VERBOSE,
)
_GAPS = re.compile(rf"{_GAP}(?:,?\s+{_GAP})+")


@dataclass(frozen=True, kw_only=True)
class Example:
    """A rejected row."""

    source: str
    row: int
    """Number within the object, from 0."""
    message: str
    columns: Mapping[str, Any]
    """The row's own columns. Values that JSON cannot represent are texts."""
    record: str | None = None
    """Raw text of the row if it could not be decoded. Its columns are then unknown."""


@dataclass(kw_only=True)
class ReasonCount:
    """A reason for rejection, and the number of rows rejected for it."""

    stage: str
    """``decode``, ``contract``, ``schema`` or ``predict``."""
    column: str
    """The column at fault; empty if it is not known."""
    message: str
    """The message, with ``…`` in place of values, because these differ from row to row."""
    rows: int = 0
    sources: dict[str, int] = field(default_factory=dict)
    """Number of rows by input object; objects beyond `MAX_SOURCES` are counted together."""
    examples: list[Example] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class RejectedRows:
    """The rejected rows of a job, counted."""

    job_id: str
    state: str
    rows: int
    reasons: tuple[ReasonCount, ...]
    stages: Mapping[str, int]
    """Number of rows by stage."""
    columns: Mapping[str, int]
    """Number of rows by the column at fault, for rows where that column is known."""
    sources: Mapping[str, int]
    """Number of rows by input object."""

    def to_dict(self) -> dict[str, Any]:
        """Return what ``scoreline rejected --json`` prints."""
        return asdict(self)


@functools.lru_cache(4_096)
def mask_values(message: str) -> str:
    """Replace the values in a message with ``…``, so that rows rejected for the same reason have the same message.

    >>> mask_values("ValueError: could not convert string to float: 'n/a'")
    'ValueError: could not convert string to float: …'
    >>> mask_values("ValueError: X2 is -1.5e3, float64 can't hold ['a', 'b'] of row 1,207")
    "ValueError: X2 is …, float64 can't hold […] of row …"
    """
    return _GAPS.sub(_GAP, _VALUES.sub(_GAP, message[:MAX_MESSAGE]))


class Tally:
    """Counts rejected rows. The memory of a tally does not grow with the number of rows.

    Parameters
    ----------
    own : tuple of str
        The columns that the job read from the input.
    examples : int
        Number of rows to keep as examples of each reason.
    """

    def __init__(self, own: tuple[str, ...], examples: int) -> None:
        self._fields = rejection_columns(own)
        self._examples = examples
        self.rows = 0
        self._reasons: dict[tuple[str, str, str], ReasonCount] = {}
        self._stages: dict[str, int] = {}
        self._columns: dict[str, int] = {}
        self._sources: dict[str, int] = {}

    def add(self, batch: pa.RecordBatch) -> None:
        """Count a batch of rejected rows."""
        values = {
            field: batch.column(name).to_pylist() if name in batch.schema.names else [None] * batch.num_rows
            for field, name in self._fields.items()
        }
        for number, (source, row, stage, column, message, record) in enumerate(zip(*values.values(), strict=True)):
            self.rows += 1
            for counts, name in (self._stages, stage), (self._columns, column), (self._sources, source):
                _count(counts, name, MAX_REASONS)
            reason = self._reason(stage or "", column or "", message or "")
            reason.rows += 1
            _count(reason.sources, source, MAX_SOURCES)
            if len(reason.examples) < self._examples:
                reason.examples.append(
                    Example(
                        source=source, row=row, message=message, columns=self._own_columns(batch, number), record=record
                    )
                )

    def report(self, job_id: str, state: str) -> RejectedRows:
        """Return the counts, with the most frequent first."""
        for reason in self._reasons.values():
            reason.sources = _sort_by_count(reason.sources)
        return RejectedRows(
            job_id=job_id,
            state=state,
            rows=self.rows,
            stages=_sort_by_count(self._stages),
            columns=_sort_by_count(self._columns),
            sources=_sort_by_count(self._sources),
            reasons=tuple(sorted(self._reasons.values(), key=lambda r: -r.rows)),
        )

    def _reason(self, stage: str, column: str, message: str) -> ReasonCount:
        key = (stage, column, mask_values(message))
        if key not in self._reasons and len(self._reasons) >= MAX_REASONS:
            key = ("", "", OTHER)
        return self._reasons.setdefault(key, ReasonCount(stage=key[0], column=key[1], message=key[2]))

    def _own_columns(self, batch: pa.RecordBatch, number: int) -> dict[str, Any]:
        (row,) = batch.slice(number, 1).to_pylist()
        return {name: to_json_value(value) for name, value in row.items() if name not in self._fields.values()}


def count_rejects(layout: ResultsLayout, plan_sha256: str, tally: Tally) -> None:
    """Count the rejected rows of a job's committed parts."""
    for rows in read_rejects(layout.store, committed_rejects(layout, plan_sha256)):
        tally.add(rows.batch)


def read_rejects(store: ObjectStore, infos: Iterable[ObjectInfo]) -> Iterator[Rows]:
    """Yield the content of objects with rejected rows, in batches of at most `_BATCH_ROWS` rows."""
    tables = ParquetFormat()
    for info in infos:
        source = Pinned.of(store, info)
        survey = tables.survey(source)
        for span in survey.spans:
            yield from tables.read(source, span, survey.schema, _BATCH_ROWS)


def reasons_by_row(layout: ResultsLayout, results: ObjectInfo, columns: Columns) -> dict[int, str]:
    """Return the message of each rejected row of a part, by row number in the input; empty if no row was rejected.

    Parameters
    ----------
    results : ObjectInfo
        The object with the results of the part, whose receipt names the rejected rows.
    """
    rejects = find_rejects(layout, Receipt.from_metadata(results.metadata, layout.uri(results.key)))
    if rejects is None:
        return {}
    table = read_table(Pinned.of(layout.store, rejects))
    fields = rejection_columns(columns.names)
    return dict(zip(table[fields["row"]].to_pylist(), table[fields["message"]].to_pylist(), strict=True))


def committed_rejects(layout: ResultsLayout, plan_sha256: str) -> Iterator[ObjectInfo]:
    """Yield the objects with the rejected rows of a job's committed parts, in the order of the parts.

    Objects that no receipt names are skipped, because attempts that did not commit left them behind. If the results
    were arranged, the parts and their receipts may no longer exist. The manifest then lists the objects with rejected
    rows.
    """
    listed = ListedRejects(layout)
    find = functools.partial(_rejects_of_part, layout, plan_sha256)
    in_manifest: set[str] | None = None
    with contextlib.closing(map_ahead(find, listed.parts(), threads=_THREADS, budget=2 * _THREADS)) as found:
        for number, committed, rejects in found:
            if rejects is not None:
                yield rejects
            elif not committed and not layout.keeps_parts:
                in_manifest = keys_in_manifest(layout) if in_manifest is None else in_manifest
                yield from (layout.store.head(key) for key in sorted(listed.of_part(number) & in_manifest))


def _rejects_of_part(layout: ResultsLayout, plan_sha256: str, number: int) -> tuple[int, bool, ObjectInfo | None]:
    """Return the number of a part, whether its results exist, and the object with its rejected rows."""
    try:
        part = layout.store.head(layout.part(number))
    except ObjectNotFound:
        return number, False, None
    try:
        uri = layout.uri(part.key)
        receipt = Receipt.from_metadata(part.metadata, uri).check(plan_sha256, number, uri)
    except ScoringError:  # Scoreline did not write that object
        return number, True, None
    return number, True, find_rejects(layout, receipt)


def keys_in_manifest(layout: ResultsLayout) -> set[str]:
    """Return the keys of the objects with rejected rows in a job's manifest; empty if there is no manifest yet.

    Each part has a line of its own, so that the manifest, which may be large, is not in memory as a whole.
    """
    try:
        with decoding(layout.store, layout.manifest):
            lines = lines_of(layout.store, layout.store.head(layout.manifest))
            entries = (decode_object(line.rstrip(b",\n")) for line in lines if b'"rejected_key"' in line)
            return {convert(entry["rejected_key"], str, "key") for entry in entries if entry["rejected"]}
    except ObjectNotFound:
        return set()


def _count(counts: dict[str, int], name: str | None, most: int) -> None:
    """Add 1 to the count of a name. If `counts` already has `most` names, count further names as `OTHER`."""
    if name:
        if name not in counts and len(counts) >= most:
            name = OTHER
        counts[name] = counts.get(name, 0) + 1


def _sort_by_count(counts: Mapping[str, int]) -> dict[str, int]:
    return dict(sorted(counts.items(), key=lambda item: -item[1]))
