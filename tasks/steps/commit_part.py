"""Writes the objects of a part: its rejected rows, and then its results, which commit the part."""

from __future__ import annotations

import contextlib
import json
import logging
import time
from collections.abc import Callable
from dataclasses import replace

import pyarrow as pa

from scoreline.storage.errors import PreconditionFailed, ScoringError, StoreUnavailable
from scoreline.storage.hashing import sha256_hex
from scoreline.storage.models.introspection import library_versions
from scoreline.storage.objects import requests
from scoreline.storage.objects.base import CREATE, IfMatch
from scoreline.storage.objects.requests import Requests
from scoreline.storage.tables import parquet
from scoreline.storage.tables.schemas import from_text
from scoreline.storage.wording import plural
from scoreline.tasks.dispatch.dispatcher import Documents
from scoreline.tasks.job.commits import read_commit
from scoreline.tasks.job.documents import Job, read_success
from scoreline.tasks.job.layout import ResultsLayout
from scoreline.tasks.job.plan import Part
from scoreline.tasks.job.receipt import Receipt
from scoreline.tasks.rejects.report import keys_in_manifest
from scoreline.tasks.steps.challenger_limits import ExtraUnreadable
from scoreline.tasks.steps.engine import Engine
from scoreline.tasks.steps.job_profile import PartProfile
from scoreline.tasks.steps.parquet_buffer import ResultsBuffer
from scoreline.tasks.steps.part_challenger import PartChallenger
from scoreline.tasks.steps.score_rows import PartStopped, score_rows
from scoreline.tasks.steps.scored_notes import ScoredNotes
from scoreline.tasks.steps.unchanged.carrier import Carrier

log = logging.getLogger(__name__)


def commit_part(
    engine: Engine,
    documents: Documents,
    part: int,
    budget: int,
    note: Callable[[int], int] | None = None,
    note_scored: Callable[[int], None] | None = None,
    requests_before: Requests | None = None,
    before_writing: Callable[[Receipt], None] | None = None,
    exact: bool = False,
    challenged: bool = True,
) -> Receipt:
    """Score a part and write its objects, the rejected rows first. Return the receipt of the committed part.

    If another process commits the part first, the receipt of that process is returned.

    Parameters
    ----------
    budget : int
        Number of rows that the job may reject.
    note : callable, optional
        Records the rejected rows of the part in the ledger (see `score_rows`).
    note_scored : callable, optional
        Records in the ledger how many rows of the part are scored (see `ScoredNotes`).
    requests_before : Requests, optional
        Number of requests of this process before it began the part; by default, before this call.
    before_writing : callable, optional
        Called with the numbers of rows when the part is scored and nothing of it is written yet. Its exceptions are not
        caught.
    exact : bool
        Whether the results must have the planned types (see `score_rows`).
    challenged : bool
        Whether the challenger of the job, if there is one, may be tried.

    Raises
    ------
    PartStopped
        The job ended meanwhile, and the part does not leave results behind.
    RejectBudgetExceeded
        Too many rows were rejected.
    ScoringError
        The number of rows differs from the plan, or another program has written the part's object.
    StoreUnavailable
        The store refused to create the object, although it does not exist. The caller must retry.
    """
    job, plan = documents.job, documents.plan
    layout = ResultsLayout.of(engine.buckets, job)
    started = time.perf_counter()
    requests_before = requests_before or requests.so_far()
    planned = plan.part(part)
    timings = engine.history.begin(job.spec.job_id)
    footer = _footer(job, part, planned)
    challenger = PartChallenger(engine, documents, part, footer, challenged)

    def score() -> tuple[ResultsBuffer, PartProfile, pa.Table, Carrier | None]:
        carrier = engine.carrier(plan.columns, part / plan.parts)
        results = ResultsBuffer(from_text(plan.columns.schema), footer)
        progress, profile = ScoredNotes(note=note_scored), PartProfile(engine, documents, part)

        def write(scored: pa.Table) -> None:
            with timings("encode"):
                results.add(scored)
            progress(results.rows)

        _, rejects = score_rows(
            engine,
            documents,
            planned,
            budget,
            timings,
            note,
            write,
            profile.add,
            challenger.add,
            exact=exact,
            columns=challenger.read,
            carrier=carrier,
        )
        return results, profile, rejects, carrier

    predicted_s = timings.seconds["predict"]
    try:
        results, profile, rejects, carrier = score()
    except ExtraUnreadable as error:
        challenger.give_up(error)
        results, profile, rejects, carrier = score()
    if results.rows + rejects.num_rows != planned.rows:
        raise ScoringError(
            f"part {part} was planned with {plural(planned.rows, 'row')}, but {results.rows} were scored and "
            f"{rejects.num_rows} rejected: the objects read differently now. Submit them as a new job"
        )
    receipt = Receipt(plan_sha256=plan.sha256, part=part, rows=results.rows, rejected=rejects.num_rows)
    _stop_if_arranged(engine, documents)
    if before_writing is not None:
        before_writing(receipt)
    if rejects.num_rows:
        with timings("encode"):
            rejects_body = parquet.write(rejects, footer)
        with timings("upload"):
            receipt = _put_rejects(layout, receipt, rejects_body)
    if carrier is not None:
        with timings("upload"):
            receipt = _put_scores(layout, receipt, carrier)
    with timings("encode"):
        body = results.finish(profile.footer())
        receipt = replace(receipt, sha256=sha256_hex(body))
    with timings("upload"):
        challenger.write(layout, receipt, timings.seconds["predict"] - predicted_s)
    counted = requests.so_far() - requests_before
    if engine.between_batches is not None:
        counted -= engine.between_batches.requests  # the other jobs count these requests
    timings.class_a, timings.class_b = counted.class_a + 1, counted.class_b  # one more request writes the results
    receipt = replace(receipt, seconds=timings.to_text())
    begun = time.perf_counter()
    committed = _put_results(engine, documents, layout, receipt, body)
    if committed is not receipt:
        return committed
    engine.history.end(job.spec.job_id, time.perf_counter() - begun)
    try:
        _stop_if_arranged(engine, documents)
    except PartStopped:
        layout.store.delete(layout.part(part))
        if receipt.rejected and _rejects_key(layout, receipt) not in keys_in_manifest(layout):
            layout.store.delete(_rejects_key(layout, receipt))
        raise
    seconds = round(time.perf_counter() - started, 3)
    log.info(
        "part.scored",
        extra={"job_id": job.spec.job_id, "part": part, "rows": results.rows, "seconds": seconds},
    )
    return receipt


def read_receipt(engine: Engine, documents: Documents, part: int) -> Receipt | None:
    """Return the receipt of a part; None if the part has to be scored.

    A part is scored again if the object with its rejected rows is missing. The results of the part are then replaced.

    Raises
    ------
    ScoringError
        The object was written for another part, by another job or by another program.
    """
    layout, plan = ResultsLayout.of(engine.buckets, documents.job), documents.plan
    commit = read_commit(layout, plan.sha256, part, plan.part(part).rows)
    if commit is None:
        return None
    if commit.fault:
        log.warning("part.broken", extra={"job_id": documents.job.spec.job_id, "part": part, "error": commit.fault})
        return None
    return commit.receipt


def _footer(job: Job, part: int, planned: Part) -> dict[str, str]:
    """Return the metadata for the Parquet footer of a part.

    The metadata is equal whenever the same libraries score the part.
    """
    return {
        "scoreline.job_id": job.spec.job_id,
        "scoreline.part": str(part),
        "scoreline.model": job.model.name,
        "scoreline.model_version": job.model.version,
        "scoreline.manifest_sha256": job.model.manifest_sha256,
        "scoreline.submitted_at": job.submitted,
        "scoreline.libraries": json.dumps(library_versions() | {"pyarrow": pa.__version__}, sort_keys=True),
        "scoreline.source": json.dumps([[s.key, s.etag, *s.scope] for s in planned.slices]),
    }


def _put_results(engine: Engine, documents: Documents, layout: ResultsLayout, receipt: Receipt, body: bytes) -> Receipt:
    """Write the results of a part. Return their receipt, or the receipt of results that another process wrote first."""
    store, key = layout.store, layout.part(receipt.part)
    try:
        store.put(key, body, mode=CREATE, metadata=receipt.to_metadata())
    except PreconditionFailed:
        plan = documents.plan
        found = read_commit(layout, plan.sha256, receipt.part, plan.part(receipt.part).rows)
        if found is None:  # the write failed for another reason, or the object was deleted meanwhile
            raise StoreUnavailable(f"{store.uri(key)} could not be created, but does not exist: try again") from None
        if found.fault:  # replace the object; deleting it could delete the work of another process
            try:
                store.put(key, body, mode=IfMatch(found.info.etag), metadata=receipt.to_metadata())
            except PreconditionFailed:
                raise StoreUnavailable(f"{store.uri(key)} was replaced by another process: try again") from None
            return receipt
        committed = found.receipt
        if receipt.rejected and receipt.rejects_sha256 != committed.rejects_sha256:
            store.delete(_rejects_key(layout, receipt))
        return committed
    return receipt


def _put_rejects(layout: ResultsLayout, receipt: Receipt, body: bytes) -> Receipt:
    """Write the rejected rows of an uncommitted part. Return the receipt of the part, with the digest of these rows."""
    named = replace(receipt, rejects_sha256=sha256_hex(body))
    store, key = layout.store, _rejects_key(layout, named)
    metadata = replace(receipt, sha256=named.rejects_sha256).to_metadata()
    try:
        store.put(key, body, mode=CREATE, metadata=metadata)
    except PreconditionFailed:  # the key contains the digest: another attempt has written the same rows
        if dict(store.head(key).metadata) != metadata:
            store.put(key, body, metadata=metadata)
    return named


def _put_scores(layout: ResultsLayout, receipt: Receipt, carrier: Carrier) -> Receipt:
    """Write the scores of an uncommitted part for a later job. Return the receipt of the part, with their digest."""
    receipt, stored = replace(receipt, carried=carrier.carried, carry_fault=carrier.fault), carrier.finish()
    if stored is None:
        return receipt
    with contextlib.suppress(PreconditionFailed):  # the key contains the digest: they are there already
        key, metadata = layout.carry_part(receipt.part, stored.sha256), replace(receipt, sha256=stored.sha256)
        layout.store.put(key, stored.body, mode=CREATE, metadata=metadata.to_metadata())
    return replace(receipt, carry_sha256=stored.sha256, carry_sketch=stored.sketch)


def _rejects_key(layout: ResultsLayout, receipt: Receipt) -> str:
    return layout.rejected_part(receipt.part, receipt.rejects_sha256)


def _stop_if_arranged(engine: Engine, documents: Documents) -> None:
    """Raise `PartStopped` if the results are arranged and the parts deleted, so that no part is written afterwards."""
    if documents.job.spec.arranged:
        layout = ResultsLayout.of(engine.buckets, documents.job)
        if read_success(layout.store, layout.folder, documents.plan.sha256) is not None:
            raise PartStopped
