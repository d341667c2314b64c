"""Scores the rows of a part with the challenger of the job, and compares its scores with those of the job's model.

The challenger never makes a part fail. If anything goes wrong, its results of the part are dropped, and a document says
why. Its results are written before those of the job's model, which commit the part. They have the same rows in the same
order; the scores of a row that the challenger cannot score are null.
"""

from __future__ import annotations

import base64
import json
import logging
import time
import zlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pyarrow as pa

from scoreline.storage.errors import DocumentCorrupt, PreconditionFailed, ScoringError
from scoreline.storage.models.bundle import Bundle
from scoreline.storage.objects.base import CREATE, IfMatch
from scoreline.storage.tables.schemas import from_text
from scoreline.storage.typed_json import MALFORMED_GZIP, decode_object
from scoreline.storage.wording import plural
from scoreline.tasks.dispatch.dispatcher import Documents
from scoreline.tasks.job.layout import ResultsLayout
from scoreline.tasks.job.plan import ChallengerColumns, Columns
from scoreline.tasks.job.receipt import Receipt
from scoreline.tasks.quality.challengers.comparing import ComparedColumns, PartComparison
from scoreline.tasks.quality.challengers.comparison import ChallengerFailure, Comparison
from scoreline.tasks.quality.profiles.footers import decompressed
from scoreline.tasks.scoring.interruptions import SoftTimeLimitExceeded
from scoreline.tasks.scoring.score import score_batch
from scoreline.tasks.scoring.timings import Timings
from scoreline.tasks.steps.challenger_limits import (
    MAX_REJECTED,
    PART_S,
    ExtraUnreadable,
    fails_again,
    limited,
    load_beside,
    reason_of,
)
from scoreline.tasks.steps.challenger_rows import aligned, rows_for, without_extra
from scoreline.tasks.steps.engine import Engine
from scoreline.tasks.steps.parquet_buffer import ResultsBuffer
from scoreline.tasks.steps.read_part import Batch

log = logging.getLogger(__name__)

KEY = "scoreline.comparison"
"""Key of the packed comparison in the metadata of the footer of the challenger's results."""
DIED = "a worker process died in each attempt at the part, so the part was scored without it"


def no_rows(documents: Documents) -> Comparison:
    """Return the comparison of no rows of a job, whose challenger is known."""
    job = documents.job
    assert job.challenger is not None
    return Comparison(
        champion=job.model.ref,
        challenger=job.challenger.ref,
        champion_sha256=job.model.manifest_sha256,
        challenger_sha256=job.challenger.manifest_sha256,
        segment=job.spec.segment or "",
    )


def pack(comparison: Comparison) -> str:
    """Return a comparison as a text of ASCII characters."""
    text = json.dumps(comparison.to_dict(derived=False), ensure_ascii=False, separators=(",", ":"))
    return base64.b64encode(zlib.compress(text.encode("utf-8", "surrogatepass"))).decode()


def unpack(text: str, where: str) -> Comparison:
    """Return the comparison that was packed; raises `DocumentCorrupt`."""
    try:
        return Comparison.from_dict(decode_object(decompressed(text)), where)
    except MALFORMED_GZIP as error:
        raise DocumentCorrupt(f"{where} is damaged: {type(error).__name__}: {error}") from None


class PartChallenger:
    """Scores the rows of a part. Without a challenger, it does nothing.

    Parameters
    ----------
    enabled : bool
        Whether the challenger is tried. It is not if the process died in each of the attempts before.
    """

    def __init__(self, engine: Engine, documents: Documents, part: int, footer: Mapping[str, str], enabled: bool):
        job, plan = documents.job, documents.plan
        self._engine, self._documents, self._part = engine, documents, part
        self._columns: ChallengerColumns | None = None
        self._failure = ""
        engine.challengers.spent_s = 0.0
        columns = plan.columns.challenger
        if job.challenger is None or columns is None or columns.failure:
            return  # the plan says why
        self._columns, self._reads = columns, from_text(columns.reads)
        self._schema = from_text(columns.schema)
        self._failure = engine.challengers.reason(job.spec.job_id) if enabled else DIED
        own = {
            "scoreline.model": job.challenger.name,
            "scoreline.model_version": job.challenger.version,
            "scoreline.manifest_sha256": job.challenger.manifest_sha256,
            "scoreline.champion": job.model.ref,
        }
        self._results = ResultsBuffer(self._schema, {**footer, **own})
        self._comparison: PartComparison | None = None
        self._timings = Timings()
        self._challenger_only = self._missed = 0
        self._example = ""

    @property
    def read(self) -> Columns:
        """The columns to read. Those that only the challenger needs are left out if it is not tried."""
        columns = self._documents.plan.columns
        return without_extra(columns, ChallengerColumns(failure=self._failure)) if self._failure else columns

    def give_up(self, error: ExtraUnreadable) -> None:
        """Leave the challenger out of the part, which is then read again without its columns."""
        self._fail(error)

    def add(self, batch: Batch, champion: pa.Table | None, rejected: Any, timings: Timings) -> None:
        """Score a batch after the model of the job has scored it.

        Parameters
        ----------
        champion : pyarrow.Table, optional
            The results of the job's model in the planned schema; None if it has rejected all rows.
        rejected : ndarray of int
            Numbers of the rows that it has rejected, within the batch.
        timings : Timings
            The timings of the part. The time that this takes is not counted as that of the job's model.
        """
        if self._columns is None or self._failure:
            return
        engine, begun = self._engine, time.perf_counter()
        try:
            with limited(PART_S - engine.challengers.spent_s, PART_S):
                self._add(self._columns, batch, champion, rejected)
        except SoftTimeLimitExceeded:
            raise
        except Exception as error:  # noqa: BLE001  # the job does not depend on its challenger
            self._fail(error)
        finally:
            spent_s = time.perf_counter() - begun
            engine.challengers.spent_s += spent_s
            timings.pause(spent_s)

    def _add(self, columns: ChallengerColumns, batch: Batch, champion: pa.Table | None, rejected: Any) -> None:
        job, plan = self._documents.job, self._documents.plan
        bundle = self._bundle()
        rows, contract = rows_for(batch.rows, plan.columns, columns, self._reads)
        done = score_batch(
            bundle,
            rows,
            features=columns.features,
            keep=plan.columns.keep,
            method=job.spec.method,
            frames=columns.frames,
            max_rejected=MAX_REJECTED + len(rejected),
            describe_row=batch.describe,
            contract=contract,
            timings=self._timings,
        )
        if champion is None:
            self._challenger_only += done.table.num_rows
            return
        scores, present = aligned(champion, rejected, done.table, done.rejected.rows, self._schema, plan.columns.keep)
        self._challenger_only += done.table.num_rows - int(present.sum())
        missed = int(len(present) - present.sum())
        if missed:
            self._missed += missed
            own = set(rejected.tolist())
            first = next(row for row in done.rejected.rows.tolist() if row not in own)
            self._example = self._example or f"{batch.describe(first)}: {done.rejected[first]}"
        self._results.add(scores)
        if self._comparison is None:
            manifest = self._engine.models.manifest(job.model)
            compared = ComparedColumns.of(champion.schema, self._schema, plan.columns.keep, manifest)
            self._comparison = PartComparison(no_rows(self._documents), compared)
        self._comparison.add(champion, scores, present)

    def _bundle(self) -> Bundle:
        job, models = self._documents.job, self._engine.models
        assert job.challenger is not None
        return load_beside(models, job.challenger, models.get(job.model))

    def _fail(self, error: Exception) -> None:
        job_id = self._documents.job.spec.job_id
        self._failure = reason_of(error)
        log.warning("challenger.failed", extra={"job_id": job_id, "part": self._part, "error": self._failure})
        if fails_again(error):
            self._engine.challengers.add(job_id, f"{self._failure} (in part {self._part})")
        self._results = ResultsBuffer(self._schema, {})  # frees the memory of its results

    def write(self, layout: ResultsLayout, receipt: Receipt, champion_s: float) -> None:
        """Write the challenger's results, or why there are none. Errors of the store are logged.

        Parameters
        ----------
        receipt : Receipt
            The receipt of the results of the job's model, which are written afterwards.
        champion_s : float
            Seconds for which the job's model was called.
        """
        if self._columns is None:
            return
        try:
            if not self._failure:
                if self._results.rows != receipt.rows:
                    raise ScoringError(f"{plural(self._results.rows, 'row')} of {receipt.rows} were compared")
                self._write_results(layout, receipt, champion_s)
        except SoftTimeLimitExceeded:
            raise
        except Exception as error:  # noqa: BLE001  # the job does not depend on its challenger
            self._fail(error)
        if self._failure:
            self._write_failure(layout)

    def _write_results(self, layout: ResultsLayout, receipt: Receipt, champion_s: float) -> None:
        failures: tuple[ChallengerFailure, ...] = ()
        if self._missed:
            failures = (ChallengerFailure(part=self._part, reason=self._example, rows=self._missed),)
        more: dict[str, Any] = {"challenger_only": self._challenger_only, "parts": 1, "failures": failures}
        if self._comparison is None:  # the job's model has rejected every row of the part
            comparison = replace(no_rows(self._documents), **more)
        else:
            comparison = self._comparison.comparison(**more)
        body = self._results.finish({KEY: pack(comparison)})
        metadata = {
            "plan": self._documents.plan.sha256,
            "part": str(self._part),
            "of": receipt.sha256,
            # Microseconds. Servers change names with underscores
            "champion": str(round(champion_s * 1e6)),
            "challenger": str(round(self._timings.seconds["predict"] * 1e6)),
        }
        store, key = layout.store, layout.challenger_part(self._part)
        try:
            store.put(key, body, mode=CREATE, metadata=metadata)
        except PreconditionFailed:
            found = store.head(key)
            if found.metadata.get("plan") != metadata["plan"]:
                raise ScoringError(f"{store.uri(key)} exists already and was not written for this job") from None
            if found.metadata.get("of") != metadata["of"]:  # of an attempt with other results, which did not commit
                store.put(key, body, mode=IfMatch(found.etag), metadata=metadata)

    def _write_failure(self, layout: ResultsLayout) -> None:
        document = {"part": self._part, "reason": self._failure}
        body = json.dumps(document, ensure_ascii=False).encode("utf-8", "surrogatepass")
        key, metadata = layout.challenger_failure(self._part), {"plan": self._documents.plan.sha256}
        try:
            layout.store.put(key, body, metadata=metadata)
        except SoftTimeLimitExceeded:
            raise
        except Exception:  # the comparison then says that the reason is not known
            log.exception("challenger.failed", extra={"job_id": self._documents.job.spec.job_id, "part": self._part})
