"""Why the rows of a job were rejected: counted by reason, a batch in memory at a time."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import pyarrow as pa

from scoreline.storage.errors import ObjectNotFound
from scoreline.storage.objects.base import ObjectInfo, ObjectStore
from scoreline.storage.tables.base import Pinned, Rows
from scoreline.storage.tables.parquet import ParquetFormat, read_table
from scoreline.tasks.job.layout import ResultsLayout
from scoreline.tasks.job.plan import Columns
from scoreline.tasks.job.receipt import Receipt
from scoreline.tasks.rejects.json_values import to_json_value
from scoreline.tasks.rejects.table import note_columns

MAX_REASONS = 500
MAX_SOURCES = 50
"""Reasons, and objects with rows of one reason, that are told apart: the rest are counted as `OTHER`."""
MAX_MESSAGE = 500
"""Characters of a message: the rest of a long one would be a value."""
OTHER = "(others)"
_BATCH_ROWS = 8_192

_GAP = "…"
_VALUES = re.compile(
    r"""(?<!\w)'(?:[^'\\]|\\.)*'(?!\w) | "(?:[^"\\]|\\.)*"  # a text in quotes, and no apostrophe
    | \b0x[0-9a-f]+\b
    | \b\d{4}-\d\d-\d\d(?:[T ][\d:.]+)?(?:Z|[+-]\d\d:?\d\d)?
    | (?<![\w.])[-+]?(?:\d[\d_,]*)?\.?\d+(?:e[-+]?\d+)?(?!\w)""",
    re.IGNORECASE | re.VERBOSE,
)
_SERIES = re.compile(rf"{_GAP}(?:,?\s+{_GAP})+")


@dataclass(frozen=True, kw_only=True)
class Example:
    """A rejected row."""

    source: str
    row: int
    """Number within the object, from 0."""
    message: str
    columns: Mapping[str, Any]
    """As the input has them; what JSON has no form for is text."""
    record: str | None = None
    """Text of a row that could not be decoded, whose columns are unknown."""


@dataclass(kw_only=True)
class ReasonCount:
    """Rows that were rejected for the same thing."""

    stage: str
    column: str
    """The column at fault, where it is known."""
    message: str
    """With a gap where the values differ from row to row."""
    rows: int = 0
    sources: dict[str, int] = field(default_factory=dict)
    """Rows by input object; beyond `MAX_SOURCES`, the rest are counted together."""
    examples: list[Example] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class RejectedRows:
    """What was rejected of a job."""

    job_id: str
    state: str
    rows: int
    reasons: tuple[ReasonCount, ...]
    stages: Mapping[str, int]
    columns: Mapping[str, int]
    """Rows by the column at fault, where it is known."""
    sources: Mapping[str, int]

    def to_dict(self) -> dict[str, Any]:
        """Return what ``scoreline rejected --json`` prints."""
        return asdict(self)


@functools.lru_cache(4_096)
def normalised(message: str) -> str:
    """Return a message without the values in it, so that rows rejected for the same thing have the same.

    >>> normalised("ValueError: could not convert string to float: 'n/a'")
    'ValueError: could not convert string to float: …'
    >>> normalised("ValueError: X2 is -1.5e3, float64 can't hold ['a', 'b'] of row 1,207")
    "ValueError: X2 is …, float64 can't hold […] of row …"
    """
    return _SERIES.sub(_GAP, _VALUES.sub(_GAP, message[:MAX_MESSAGE]))


class Tally:
    """Counts rejected rows; its size does not grow with their number.

    Parameters
    ----------
    own : sequence of str
        Columns of the input that the job read.
    examples : int
        Rows to keep of each reason.
    """

    def __init__(self, own: tuple[str, ...], examples: int) -> None:
        self._notes = note_columns(own)
        self._examples = examples
        self.rows = 0
        self._reasons: dict[tuple[str, str, str], ReasonCount] = {}
        self._stages: dict[str, int] = {}
        self._columns: dict[str, int] = {}
        self._sources: dict[str, int] = {}

    def add(self, batch: pa.RecordBatch) -> None:
        """Count a batch of an object of rejected rows."""
        notes = {
            note: batch.column(name).to_pylist() if name in batch.schema.names else [None] * batch.num_rows
            for note, name in self._notes.items()
        }
        for number, (source, row, stage, column, message, record) in enumerate(zip(*notes.values(), strict=True)):
            self.rows += 1
            for counts, name in (self._stages, stage), (self._columns, column), (self._sources, source):
                _count(counts, name, MAX_REASONS)
            reason = self._reason(stage or "", column or "", message or "")
            reason.rows += 1
            _count(reason.sources, source, MAX_SOURCES)
            if len(reason.examples) < self._examples:
                reason.examples.append(
                    Example(source=source, row=row, message=message, columns=self._own(batch, number), record=record)
                )

    def report(self, job_id: str, state: str) -> RejectedRows:
        """Return what was counted, the most frequent first."""
        for reason in self._reasons.values():
            reason.sources = _most(reason.sources)
        return RejectedRows(
            job_id=job_id,
            state=state,
            rows=self.rows,
            stages=_most(self._stages),
            columns=_most(self._columns),
            sources=_most(self._sources),
            reasons=tuple(sorted(self._reasons.values(), key=lambda r: -r.rows)),
        )

    def _reason(self, stage: str, column: str, message: str) -> ReasonCount:
        key = (stage, column, normalised(message))
        if key not in self._reasons and len(self._reasons) >= MAX_REASONS:
            key = ("", "", OTHER)
        return self._reasons.setdefault(key, ReasonCount(stage=key[0], column=key[1], message=key[2]))

    def _own(self, batch: pa.RecordBatch, number: int) -> dict[str, Any]:
        (row,) = batch.slice(number, 1).to_pylist()
        return {name: to_json_value(value) for name, value in row.items() if name not in self._notes.values()}


def count_rejected(layout: ResultsLayout, tally: Tally) -> None:
    """Count the rejected rows of a job, as far as their parts are committed."""
    for rows in rejected_rows(layout.store, committed(layout)):
        tally.add(rows.batch)


def rejected_rows(store: ObjectStore, infos: Iterable[ObjectInfo]) -> Iterator[Rows]:
    """Yield what is in objects of rejected rows, some rows at a time."""
    tables = ParquetFormat()
    for info in infos:
        source = Pinned.of(store, info)
        survey = tables.survey(source)
        for span in survey.spans:
            yield from tables.read(source, span, survey.schema, _BATCH_ROWS)


def reasons_by_row(store: ObjectStore, key: str, columns: Columns) -> dict[int, str]:
    """Return why rows of a part were rejected, by their number in the input; nothing where it has none."""
    try:
        table = read_table(Pinned.of(store, store.head(key)))
    except ObjectNotFound:
        return {}
    notes = note_columns(columns.names)
    return dict(zip(table[notes["row"]].to_pylist(), table[notes["message"]].to_pylist(), strict=True))


def committed(layout: ResultsLayout) -> Iterator[ObjectInfo]:
    """Yield the objects of rejected rows of a job, but for those of a part that died before its commit.

    Parts that results were arranged from are gone; then the manifest says what was committed.
    """
    store = layout.store
    listed: set[str] | None = None
    for info in store.list(layout.rejected_folder):
        try:
            part = store.head(layout.parts_folder + info.key.removeprefix(layout.rejected_folder))
        except ObjectNotFound:
            if layout.keeps_parts:
                continue
            listed = _in_manifest(layout) if listed is None else listed
            if info.key in listed:
                yield info
            continue
        if Receipt.from_metadata(part.metadata, store.uri(part.key)).rejected:
            yield info


def _in_manifest(layout: ResultsLayout) -> set[str]:
    """Keys of rejected rows that a job's manifest names; none where there is no manifest yet."""
    try:
        manifest = json.loads(layout.store.get(layout.manifest).data)
    except ObjectNotFound:
        return set()
    return {entry["rejected_key"] for entry in manifest["parts"] if entry["rejected"]}


def _count(counts: dict[str, int], name: str | None, most: int) -> None:
    if name:
        if name not in counts and len(counts) >= most:
            name = OTHER
        counts[name] = counts.get(name, 0) + 1


def _most(counts: Mapping[str, int]) -> dict[str, int]:
    return dict(sorted(counts.items(), key=lambda item: -item[1]))
