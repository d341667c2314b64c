"""Merges the comparisons of a job's parts when the job ends, and writes ``_challenger/_comparison.json``."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import chain, islice

from scoreline.storage.errors import DocumentCorrupt, ObjectNotFound, PreconditionFailed, ScorelineError, describe
from scoreline.storage.prefetch import map_ahead
from scoreline.storage.typed_json import MALFORMED, convert, decode_object
from scoreline.tasks.dispatch.dispatcher import Documents
from scoreline.tasks.job.layout import ResultsLayout
from scoreline.tasks.quality.challengers.comparison import MAX_FAILURES, ChallengerFailure, Comparison, encode
from scoreline.tasks.scoring.interruptions import SoftTimeLimitExceeded
from scoreline.tasks.steps.engine import Engine
from scoreline.tasks.steps.footer_metadata import FooterReader
from scoreline.tasks.steps.part_challenger import KEY, no_rows, unpack
from scoreline.tasks.steps.results_manifest import Entry

log = logging.getLogger(__name__)

MAX_SCORES = 20_000
"""Maximum number of columns with scores in all comparisons that are merged, some 1 ms each. Of a job with more, every
n-th part is read, because finalizing must not take longer than a step may. A part without scores counts as one column,
because reading it takes a request."""
_THREADS = 16
_UNKNOWN = "its results are missing, and so is the reason"


def merge_comparison(engine: Engine, documents: Documents, entries: Iterable[Entry]) -> Comparison | None:
    """Merge the comparisons of a job's parts, and write the document. Repeated calls write the same bytes.

    Parameters
    ----------
    entries : iterable of Entry
        The entries of all parts, in order.

    Returns
    -------
    Comparison, optional
        The comparison; None if the job has no challenger, or no rows, or if the comparison cannot be made. This is
        logged, and does not make the job fail. Transient errors of the store are raised.
    """
    try:
        return _merge(engine, documents, entries)
    except SoftTimeLimitExceeded:
        raise
    except Exception as error:
        if isinstance(error, ScorelineError) and error.transient:
            raise
        log.exception("challenger.failed", extra={"job_id": documents.job.spec.job_id})
        return None


def _merge(engine: Engine, documents: Documents, entries: Iterable[Entry]) -> Comparison | None:
    plan, challenger = documents.plan, documents.plan.columns.challenger
    if documents.job.challenger is None or challenger is None or not plan.parts:
        return None
    layout = ResultsLayout.of(engine.buckets, documents.job)
    found = no_rows(documents)
    if challenger.failure:
        failures = (ChallengerFailure(part=0, reason=challenger.failure),)
        found = replace(found, failed_parts=plan.parts, failures=failures)
    else:
        for number, comparison in _comparisons(layout, documents, entries):
            try:
                found = found.merge(comparison)
            except MALFORMED as error:  # the job does not depend on its challenger
                log.warning("challenger.skipped", extra={"job_id": documents.job.spec.job_id, "error": describe(error)})
                found = found.merge(_failed(layout, documents, number, with_reason=False))
    if plan.columns.carry is not None and plan.columns.carry.job_id:  # the champion did not score all of the rows
        found = replace(found, champion_us=0)
    layout.store.put(layout.comparison, encode(found), metadata={"plan": plan.sha256})
    return found


def _comparisons(
    layout: ResultsLayout, documents: Documents, entries: Iterable[Entry]
) -> Iterator[tuple[int, Comparison]]:
    """Yield the numbers of the parts with their comparisons. Some parts are read at the same time."""
    listed = {info.key: info.size for info in layout.store.list(layout.challenger_folder)}
    reader, failed, every = FooterReader(layout.store), 0, 1

    def read(item: tuple[int, Entry]) -> tuple[int, Comparison | None]:
        number, entry = item
        key = layout.challenger_part(number)
        if key not in listed:
            return number, None
        try:
            return number, _read(layout, documents, reader, number, key, listed[key], entry)
        except (DocumentCorrupt, ObjectNotFound, PreconditionFailed) as error:
            log.warning("challenger.skipped", extra={"job_id": documents.job.spec.job_id, "error": describe(error)})
            return number, None

    chosen = (item for item in enumerate(entries) if item[0] % every == 0)
    first = map(read, islice(chosen, 1))  # says how many scores the others have
    with contextlib.closing(map_ahead(read, chosen, threads=_THREADS, budget=2 * _THREADS)) as others:
        for number, comparison in chain(first, others):
            if comparison is None:
                failed += 1
                comparison = _failed(layout, documents, number, with_reason=failed <= MAX_FAILURES)
            elif every == 1:
                every = max(1, documents.plan.parts * max(1, len(comparison.scores)) // MAX_SCORES)
            yield number, comparison


def _read(
    layout: ResultsLayout,
    documents: Documents,
    reader: FooterReader,
    number: int,
    key: str,
    size: int,
    entry: Entry,
) -> Comparison | None:
    """Return the comparison of a part; None if it is of results that were not committed."""
    footer, metadata = reader.read_with_metadata(key, size)
    committed = json.loads(entry.text)["sha256"]
    if (metadata.get("plan"), metadata.get("part")) != (documents.plan.sha256, str(number)):
        raise DocumentCorrupt(f"{layout.uri(key)} was not written for this part of this job")
    if metadata.get("of") != committed:
        return None
    if KEY not in footer:
        raise DocumentCorrupt(f"{layout.uri(key)} has no comparison in its footer")
    found = unpack(footer[KEY], f"the comparison in {layout.uri(key)}")
    try:
        champion_us, challenger_us = int(metadata["champion"]), int(metadata["challenger"])
        return no_rows(documents).merge(replace(found, champion_us=champion_us, challenger_us=challenger_us))
    except (ValueError, KeyError) as error:
        raise DocumentCorrupt(f"{layout.uri(key)} does not fit its job: {describe(error)}") from None


def _failed(layout: ResultsLayout, documents: Documents, number: int, *, with_reason: bool) -> Comparison:
    """Return the comparison of a part that the challenger has not scored."""
    reason = _UNKNOWN
    if with_reason:
        try:
            raw = decode_object(layout.store.get(layout.challenger_failure(number)).data)
            reason = convert(raw["reason"], str, "reason")
        except (ObjectNotFound, *MALFORMED) as error:
            log.warning("challenger.skipped", extra={"job_id": documents.job.spec.job_id, "error": describe(error)})
    return replace(no_rows(documents), failed_parts=1, failures=(ChallengerFailure(part=number, reason=reason),))
