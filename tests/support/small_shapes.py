"""Inputs of a few hundred rows, in each layout that is read in a way of its own, and jobs that score them here.

Lowered limits let a small object take the way of a large one.
"""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import json
import lzma
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from scoreline.storage import keys
from scoreline.storage.ledger.memory_ledger import MemoryLedger
from scoreline.storage.models.manifest import PinnedModel
from scoreline.storage.objects.base import CREATE
from scoreline.storage.objects.buckets import Buckets
from scoreline.storage.scratch_files import open_files
from scoreline.storage.tables.compressed import DecompressedFile
from scoreline.storage.tables.delimited import DelimitedFormat
from scoreline.storage.tables.formats import Tables
from scoreline.storage.tables.jsonl import JsonLinesFormat
from scoreline.storage.tables.seek_points import SeekPoints
from scoreline.storage.tables.shared_rows import SharedRows
from scoreline.storage.tables.small_objects import KeptObjects
from scoreline.storage.tables.spool import Spool
from scoreline.tasks.dispatch.memory_queue import MemoryQueue, Message
from scoreline.tasks.job.documents import Job, Outcome, mark_active, read_outcome
from scoreline.tasks.job.layout import ResultsLayout
from scoreline.tasks.job.spec import JobSpec
from scoreline.tasks.records.format import RecordsFormat
from scoreline.tasks.steps.eager import EagerWorker
from scoreline.tasks.steps.engine import Engine
from scoreline.tasks.webhooks.settings import WebhookSettings
from tests.support.one_model import Models

ROWS = 600
UNIT_ROWS = 100
"""Number of rows of a row group, of a record batch, of a compressed stream, or of a small file."""
BATCH_ROWS = 64

_TABLES = "scoreline.storage.tables"
_LARGE: dict[str, Any] = {
    f"{_TABLES}.ranged.RangedFile.WHOLE_BYTES": 0,
    f"{_TABLES}.small_objects.SMALL_BYTES": 0,
    "scoreline.tasks.inputs.listing.SMALL_BYTES": 0,
    "scoreline.tasks.inputs.survey_ahead.SMALL_BYTES": 0,
    "scoreline.tasks.steps.read_part.SMALL_BYTES": 0,
    "scoreline.tasks.steps.expected_reads.SMALL_BYTES": 0,
}
"""Limits with which no object is small."""
_LITTLE_MEMORY: dict[str, Any] = {
    f"{_TABLES}.forward.READ_BYTES": 1_024,
    f"{_TABLES}.forward.KeepsFiles": (),  # a file would be read without requests, whatever the size of its row groups
}
_IN_PIECES: dict[str, Any] = _LITTLE_MEMORY | {f"{_TABLES}.row_groups._BLOCK_COLUMN_BYTES": 0}
_WIDE: dict[str, Any] = {f"{_TABLES}.row_groups.RowGroup.is_wide": True, f"{_TABLES}.row_groups.WINDOW_BYTES": 4_096}
_IN_MEMORY: dict[str, Any] = {"scoreline.storage.scratch_files.room": lambda: 0}
_ON_DISK: dict[str, Any] = {"scoreline.storage.scratch_files.room": lambda: 1 << 30}
_BLOCK_BYTES, _BUFFER_BYTES = 1_024, 256
_TEXT: dict[str, Any] = {
    f"{_TABLES}.text._SPAN_ROWS": UNIT_ROWS,
    f"{_TABLES}.read_ahead._LEAST_BYTES": 256,
    f"{_TABLES}.read_ahead.PIECE_BYTES": _BLOCK_BYTES,
    f"{_TABLES}.compressed._WORTH_SEEKING": 256,
    f"{_TABLES}.expected_text.BUFFER_BYTES": _BUFFER_BYTES,
}
_SHORT_ENDS: dict[str, Any] = {
    f"{_TABLES}.read_ahead._LEAST_BYTES": 256,
    f"{_TABLES}.read_ahead.PIECE_BYTES": _BLOCK_BYTES,
    f"{_TABLES}.ranged.RangedFile._END_BYTES": 256,
    f"{_TABLES}.ranged.RangedFile._TAIL_BYTES": 2_048,
}
_SHORT_BUFFER: dict[str, Any] = {f"{_TABLES}.arrow._BUFFER_BYTES": 256, f"{_TABLES}.arrow.PIECE_BYTES": _BLOCK_BYTES}
_SLICED: dict[str, Any] = {f"{_TABLES}.arrow.MIN_BYTES": 0, f"{_TABLES}.arrow.SLICE_BYTES": 1_024}

type Objects = dict[str, bytes]


_PACK: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    "gz": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zst": lambda text: bytes(pa.compress(text, "zstd", asbytes=True)),
}


def encoded(table: pa.Table, suffix: str, unit_rows: int = UNIT_ROWS) -> bytes:
    """Return a table in the format that a suffix names, in row groups, record batches or streams of `unit_rows`."""
    sink = io.BytesIO()
    kind, _, compression = suffix.partition(".")
    pieces = [table.slice(start, unit_rows) for start in range(0, table.num_rows, unit_rows)] or [table]
    match kind:
        case "parquet":
            pq.write_table(
                table,
                sink,
                row_group_size=unit_rows,
                write_page_checksum=True,
                use_dictionary=False,
                data_page_size=256,
                write_batch_size=16,
            )
        case "arrow" | "arrows":
            with (pa.ipc.new_file if kind == "arrow" else pa.ipc.new_stream)(sink, table.schema) as out:
                out.write_table(table, max_chunksize=unit_rows)
        case _:
            texts = [_text(piece, kind, header=number == 0) for number, piece in enumerate(pieces)]
            sink.write(b"".join(_PACK[compression](text) for text in texts))
    return sink.getvalue()


def _text(table: pa.Table, kind: str, *, header: bool) -> bytes:
    if kind == "jsonl":
        return "".join(f"{json.dumps(_with_numbers(row))}\n" for row in table.to_pylist()).encode()
    sink = io.BytesIO()
    pa.csv.write_csv(table, sink, pa.csv.WriteOptions(include_header=header, quoting_style="needed"))
    return sink.getvalue()


def _with_numbers(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row whose x is a number if it is the text of one."""
    with contextlib.suppress(KeyError, TypeError, ValueError):
        return row | {"x": float(row["x"])}
    return row


@dataclass(frozen=True, kw_only=True)
class SmallShape:
    """A layout of an input."""

    suffix: str = "parquet"
    unit_rows: int = UNIT_ROWS
    file_rows: int = ROWS
    part_rows: int = 2 * UNIT_ROWS
    processes: int = 1
    """Number of processes, which take turns with the parts. The first one plans the job."""
    shares: str = ""
    """What the processes share: ``objects`` in a spool, ``rows`` of wide row groups, or nothing."""
    limits: dict[str, Any] = field(default_factory=dict)

    @property
    def is_text(self) -> bool:
        return self.suffix.startswith(("csv", "jsonl"))

    @property
    def is_compressed(self) -> bool:
        return self.is_text and "." in self.suffix

    def lower_limits(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Let the objects of this shape take the way of large ones."""
        rows = BATCH_ROWS if self.file_rows == ROWS else 3 * UNIT_ROWS  # small files share batches
        monkeypatch.setattr("scoreline.tasks.steps.engine.BATCH_ROWS", rows)
        for name, value in self.limits.items():
            monkeypatch.setattr(name, value)
        if self.is_text:
            for reader in (DelimitedFormat, JsonLinesFormat):
                monkeypatch.setattr(reader.__init__, "__defaults__", (_BLOCK_BYTES,))
            monkeypatch.setattr(SeekPoints.__init__, "__defaults__", (2 * _BLOCK_BYTES,))
            usual = DecompressedFile.__init__.__kwdefaults__ or {}
            monkeypatch.setattr(DecompressedFile.__init__, "__kwdefaults__", usual | {"buffer_bytes": _BUFFER_BYTES})

    def objects(self, table: pa.Table) -> Objects:
        """Return the objects of a table, by name."""
        found = {}
        for number, start in enumerate(range(0, table.num_rows, self.file_rows)):
            found[f"{number:03}.{self.suffix}"] = encoded(
                table.slice(start, self.file_rows), self.suffix, self.unit_rows
            )
        return found


_GROUPS = SmallShape(limits=_LARGE)
_ONE = SmallShape(unit_rows=ROWS, limits=_LARGE)
_FILES = SmallShape(file_rows=UNIT_ROWS)
_CSV = SmallShape(suffix="csv", limits=_LARGE | _TEXT)
_ARROW = SmallShape(suffix="arrow", limits=_LARGE | _SHORT_ENDS)
SHAPES: Mapping[str, SmallShape] = {
    "groups": _GROUPS,
    "groups in pieces": replace(_GROUPS, limits=_LARGE | _IN_PIECES),
    "groups as blocks": replace(_GROUPS, limits=_LARGE | _LITTLE_MEMORY),
    "one group": _ONE,
    "one group, two processes": replace(_ONE, processes=2),
    "one group in pieces": replace(_ONE, processes=2, limits=_LARGE | _IN_PIECES),
    "wide, in memory": replace(_ONE, limits=_LARGE | _WIDE | _IN_MEMORY),
    "wide, on disk": replace(_ONE, limits=_LARGE | _WIDE | _ON_DISK),
    "wide, shared": replace(_ONE, processes=2, shares="rows", limits=_LARGE | _WIDE | _ON_DISK),
    "files": _FILES,
    "files of several groups": replace(_FILES, unit_rows=UNIT_ROWS // 4),
    "files of other workers": replace(_FILES, part_rows=UNIT_ROWS, processes=2),
    "files in a spool": replace(_FILES, processes=2, shares="objects"),
    "csv": _CSV,
    "csv files": replace(_FILES, suffix="csv"),
    "csv.gz": replace(_CSV, suffix="csv.gz"),
    "csv.gz, two processes": replace(_CSV, suffix="csv.gz", processes=2),
    "csv.bz2": replace(_CSV, suffix="csv.bz2"),
    "csv.xz": replace(_CSV, suffix="csv.xz"),
    "csv.zst": replace(_CSV, suffix="csv.zst"),
    "json lines": replace(_CSV, suffix="jsonl"),
    "json lines.gz": replace(_CSV, suffix="jsonl.gz"),
    "json lines files": replace(_FILES, suffix="jsonl"),
    "arrow": _ARROW,
    "arrow, sliced": replace(_ARROW, limits=_ARROW.limits | _SLICED),
    "arrow, shared": replace(_ARROW, unit_rows=ROWS, processes=2, limits=_ARROW.limits | _SLICED),
    "arrow stream": replace(_ARROW, suffix="arrows", limits=_ARROW.limits | _SHORT_BUFFER),
    "arrow files": replace(_FILES, suffix="arrow"),
}


def rows_of(
    numbers: Sequence[int] = range(ROWS), missing: Collection[int] = (), words: Collection[int] = ()
) -> pa.Table:
    """Return rows with an id, and a feature x that is half of it, or missing, or a word among texts of numbers."""
    ids = np.array(numbers, dtype=np.int64)
    x = [None if number in missing else number / 2 for number in ids.tolist()]
    if not words:
        return pa.table({"id": ids, "x": pa.array(x, pa.float64())})
    texts = [
        "word" if number in words else None if value is None else str(value)
        for number, value in zip(ids.tolist(), x, strict=True)
    ]
    return pa.table({"id": ids, "x": texts})


class ShapedJob:
    """A job with the model ``x -> 2 x + 1``, whose processes take turns with its parts.

    Parameters
    ----------
    environ : mapping of str to str
        The settings of the store.
    place : str
        Prefix of everything that the job reads and writes.
    """

    def __init__(self, shape: SmallShape, environ: Mapping[str, str], place: str, **options: Any) -> None:
        self.shape = shape
        self.buckets = Buckets.from_env(environ)
        self.store = self.buckets.main
        self.ledger = MemoryLedger()
        self.folder = f"{place}/in/"
        self.job_id = place
        given: dict[str, Any] = {
            "job_id": place,
            "model": "m",
            "inputs": (self.store.uri(self.folder),),
            "output": self.store.uri(f"{place}/out/"),
            "max_rejected": "100%",
            "part_rows": shape.part_rows,
        }
        pinned = PinnedModel(name="m", version="20260101T000000Z-00000", manifest_sha256="0" * 64)
        self.job = Job(spec=JobSpec(**given | options), model=pinned, submitted="2026-11-25T00:00:00+00:00")
        self.layout = ResultsLayout.of(self.buckets, self.job)
        self.messages = MemoryQueue(self._deliver, at_once=False)
        self._stack = ExitStack()
        self._turn = 0
        self.engines: list[Engine] = []

    def __enter__(self) -> ShapedJob:
        count, shares = self.shape.processes, self.shape.shares
        files = open_files(count) if shares else []
        for file in files:
            self._stack.callback(file.close)
        for own in range(count):
            spool = Spool(files, own, limit_bytes=1 << 20) if shares == "objects" else None
            shared = SharedRows(files, own) if shares == "rows" else None
            engine = Engine(
                buckets=self.buckets,
                ledger=self.ledger,
                send=self.messages.send,
                models=Models(),
                tables=Tables(RecordsFormat(), shared=shared),
                kept=KeptObjects(for_parts=True, spool=spool),
            )
            self.engines.append(engine)
            self._stack.callback(engine.kept.clear)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def put(self, objects: Mapping[str, bytes]) -> None:
        """Write objects of the input."""
        for name, data in objects.items():
            self.store.put(self.folder + name, data)

    def uri(self, name: str) -> str:
        """Return the URI of an object of the input."""
        return self.store.uri(self.folder + name)

    def score(self, objects: Mapping[str, bytes]) -> Outcome:
        """Write objects of the input, run the job on them, and return its outcome."""
        self.put(objects)
        self.submit()
        self.run()
        return self.outcome

    def submit(self) -> None:
        """Submit the job. It runs in `run`."""
        mark_active(self.store, self.job_id)
        self.store.put(keys.job(self.job_id), self.job.to_json(), mode=CREATE)
        self.messages.send("scoreline.plan", job_id=self.job_id)

    def run(self, messages: int | None = None) -> None:
        """Handle the waiting messages: the first plans the job, each of the following ones scores a part."""
        self.messages.run(messages)

    def _deliver(self, message: Message) -> None:
        engine = self.engines[0]
        if message.name == "scoreline.score_part":
            engine = self.engines[self._turn % len(self.engines)]
            self._turn += 1
        EagerWorker(engine=engine, webhooks=WebhookSettings(), send=lambda *_: None).do(message)

    @property
    def outcome(self) -> Outcome:
        found = read_outcome(self.store, self.job_id)
        assert found is not None, "the job has not ended"
        return found

    def scored(self) -> pa.Table:
        """Return the results of all parts that are done, in order."""
        found = [
            pq.read_table(io.BytesIO(self.store.get(info.key).data))
            for info in sorted(self.store.list(self.layout.parts_folder), key=lambda info: info.key)
            if info.key.removeprefix(self.layout.parts_folder).startswith("part-")
        ]
        return (
            pa.concat_tables(found) if found else pa.table({"id": np.array([], int), "prediction": np.array([], float)})
        )

    def rejected(self) -> list[tuple[str, int, str]]:
        """Return object, row and message of each rejected row."""
        found: list[tuple[str, int, str]] = []
        for info in sorted(self.store.list(self.layout.rejected_folder), key=lambda info: info.key):
            table = pq.read_table(io.BytesIO(self.store.get(info.key).data))
            found += zip(*(table[name].to_pylist() for name in ("source", "row", "message")), strict=True)
        return [(name.removeprefix(self.store.uri(self.folder)), number, text) for name, number, text in found]
