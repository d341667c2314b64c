"""Ends a job: checks every part, then writes the manifest, ``_SUCCESS``, ``latest.json``, the outcome and the report.

Between the manifest and ``_SUCCESS``, the gate runs the checks of the job. If a finding blocks, the job ends as
blocked: ``_SUCCESS`` and ``latest.json`` are not written. The claim of the end contains the verdict, so that all
finalizers follow the same one.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial

from scoreline.storage.errors import DocumentCorrupt, LedgerCorrupt, ScorelineError, describe
from scoreline.storage.ledger.base import Progress
from scoreline.storage.objects.base import ObjectInfo, create_once
from scoreline.storage.objects.requests import Requests
from scoreline.storage.wording import plural
from scoreline.tasks.backlog.workload import Workload
from scoreline.tasks.dispatch.dispatcher import Documents
from scoreline.tasks.dispatch.leases import hold_step
from scoreline.tasks.dispatch.outcome import end_job, record_outcome
from scoreline.tasks.dispatch.reconcile import late_error, open_ledger, reconcile_job, recover
from scoreline.tasks.inputs.only_new import remember_scored
from scoreline.tasks.job.documents import (
    WITH_RESULTS,
    Job,
    Outcome,
    Reason,
    Run,
    State,
    claim_end,
    read_claim,
    read_outcome,
    read_run,
    read_success,
    seconds_since,
)
from scoreline.tasks.job.layout import ResultsLayout
from scoreline.tasks.job.part_failures import read_failures
from scoreline.tasks.job.spec import budget_rows
from scoreline.tasks.quality.gate.decisions import repeat_decision
from scoreline.tasks.quality.gate.judging import Evidence, judge, recorded
from scoreline.tasks.quality.gate.latest import Published
from scoreline.tasks.quality.gate.pointer import LatestRead, publish_latest
from scoreline.tasks.quality.profiles.profile import Profile
from scoreline.tasks.records.staging import write_answer
from scoreline.tasks.scoring.interruptions import SoftTimeLimitExceeded
from scoreline.tasks.steps.arrange import arrange, remove_parts
from scoreline.tasks.steps.before_end import published_now, read_before_end, write_before_end
from scoreline.tasks.steps.check_job import check_job
from scoreline.tasks.steps.checked_blocks import CheckedParts, remove_blocks
from scoreline.tasks.steps.engine import Engine
from scoreline.tasks.steps.job_report import REQUESTS as REPORT_REQUESTS
from scoreline.tasks.steps.job_report import has_report, leave_report
from scoreline.tasks.steps.merge_comparison import merge_comparison
from scoreline.tasks.steps.result_files import File
from scoreline.tasks.steps.results_manifest import Entry, PartTotals, check_parts

log = logging.getLogger(__name__)

_PACE_MIN_ROWS = 1_000
_PACE_MIN_S = 0.01
_PACE_ALWAYS_S = 1.0
"""The pace of a job is recorded if its average part takes at least `_PACE_ALWAYS_S` seconds. It is also recorded if the
average part has at least `_PACE_MIN_ROWS` rows and takes at least `_PACE_MIN_S` seconds. In shorter parts, overhead
dominates."""
AROUND_PARTS = Requests(class_a=9, class_b=9)
"""Requests of each job that no step counts: those of its submission, of the steps' own documents, and those with which
the job ends, also for ``latest.json``. ``tests/unit/steps/test_costs.py`` compares them with the requests of a job."""
_PAUSE_EVERY = 32
"""Number of parts after which steps of other jobs may pass. Checking so many takes a tenth of a second."""
_MAX_UNCOUNTED = 3
"""Maximum number of times that counted but incomplete parts are scored again. If parts are still incomplete, another
program keeps deleting objects of the job."""


def finalize(engine: Engine, job_id: str) -> None:
    """Check every part, then write the manifest, ``_SUCCESS`` and the outcome. Repeated calls do no harm.

    If the job has already ended, or is still being scored according to the ledger, it is reconciled and not finalized.
    """
    main = engine.buckets.main
    with ThreadPoolExecutor(2, thread_name_prefix="documents") as pool:
        found, ended = pool.submit(engine.documents, job_id, fresh=True), pool.submit(read_outcome, main, job_id)
        run, _ = read_run(main, job_id)  # read before the progress, which may already be that of a later run
    try:
        progress = engine.ledger.progress(job_id)
    except LedgerCorrupt:  # another program has overwritten keys of the ledger, perhaps a key that only this step reads
        engine.ledger.forget(job_id)
        progress = None
    if progress is None or not progress.over or ended.result() is not None:
        engine.ledger.end_step(job_id, "finalize")
        reconcile_job(engine, job_id)
        return
    documents = found.result()
    with hold_step(engine, job_id, "finalize", only_first=engine.gate is not None) as attempt:
        engine = engine.for_attempt(attempt)
        progress = replace(progress, failures=read_failures(main, job_id, progress.failures))
        end = _stopped(documents, run, progress) if progress.stopped else _close(engine, documents, run, progress)
        if end is not None:
            remove_blocks(main, documents, run)
        if end is not None and end.outcome.state in WITH_RESULTS:
            _complete(engine, documents, end)
        elif end is not None:
            end_job(engine, job_id, end.outcome)
    if end is not None:
        leave_report(engine, documents, end.outcome)
    else:  # the job has ended meanwhile, or some of its parts have to be scored again
        reconcile_job(engine, job_id)


@dataclass(frozen=True, kw_only=True)
class _End:
    """How a job ends, and what this process knows from ending it."""

    outcome: Outcome
    latest: LatestRead | None = None
    """See `BeforeEnd.latest`."""
    results: Published | None = None
    """What readers need of the job; None if it has to be read from the bucket."""
    profiles: Sequence[Profile | None] = ()
    """The profile of the job and the one that it was compared with, which the report needs (see `stored_profiles`)."""


def _complete(engine: Engine, documents: Documents, end: _End) -> None:
    """End a job whose ``_SUCCESS`` exists, or which is blocked.

    The parts of a blocked job stay even if they are arranged: they show a later finalizer that they are done. The
    outcome is written last, because readers of an outcome expect that everything else is written.
    """
    job, main, outcome = documents.job, engine.buckets.main, end.outcome
    write_answer(engine.buckets, documents, outcome)
    if job.spec.only_new is not None:
        try:
            remember_scored(main, job.spec.only_new, job.spec.job_id)
        except DocumentCorrupt as error:  # until the record is repaired, no later job of the schedule can be planned
            log.error("only_new.not_recorded", extra={"job_id": job.spec.job_id, "error": describe(error)})
    if outcome.state != "blocked":
        publish_latest(engine.buckets, job, outcome, read=end.latest, results=end.results)
        if job.spec.arranged:
            remove_parts(engine, job)
    if not record_outcome(engine, job.spec.job_id, outcome, job=job):
        repeat_decision(engine.buckets, job)


def _stopped(documents: Documents, run: Run, progress: Progress) -> _End:
    """Return the end of a job that stopped before all parts were scored."""
    plan = documents.plan
    why: Reason
    if progress.stopped == "budget":
        allowed = run.max_rejected or documents.job.spec.max_rejected
        error = (
            f"stopped after {progress.parts_done} of {plural(plan.parts, 'part')}: "
            f"{plural(progress.rejected, 'row')} {'was' if progress.rejected == 1 else 'were'} rejected, and the job "
            f"allows {allowed} of {plan.rows}. Correct the input, or raise --max-rejected"
        )
        summary, why = error, "rejected"
    elif progress.stopped == "deadline":
        job_id = documents.job.spec.job_id
        done = f"stopped after {progress.parts_done} of {plural(plan.parts, 'part')}"
        error = f"{done}: {late_error(job_id, run.deadline_of(documents.job) or '')}"
        summary, why = error, "deadline"
    else:
        why = "parts"
        part, reason = min(progress.failures.items())
        summary = f"stopped after {plural(len(progress.failures), 'part')} failed"
        error = f"{summary}; part {part}: {reason}"
    outcome = Outcome(
        state="failed",
        rows=progress.rows,
        rejected=progress.rejected,
        parts=plan.parts,
        parts_done=progress.parts_done - len(progress.failures),
        seconds=seconds_since(documents.job.submitted),
        error=error,
        summary=summary,
        reason=why,
        failures={str(part): reason for part, reason in progress.failures.items()},
        run=run.number,
    )
    return _End(outcome=outcome)


def _close(engine: Engine, documents: Documents, run: Run, progress: Progress) -> _End | None:
    """Check and publish the results, unless they are arranged and ``_SUCCESS`` already exists."""
    if not documents.job.spec.arranged:
        return _publish(engine, documents, run, progress)
    if (end := _succeeded(engine, documents, run)) is not None:
        return end
    end = _publish(engine, documents, run, progress)
    if end is not None and end.outcome.state == "failed":  # another finalizer may have succeeded and deleted the parts
        return _succeeded(engine, documents, run) or end
    return end


def _succeeded(engine: Engine, documents: Documents, run: Run) -> _End | None:
    """Return the end of a job whose ``_SUCCESS`` exists; None if it does not."""
    layout = ResultsLayout.of(engine.buckets, documents.job)
    success = read_success(layout.store, layout.folder, documents.plan.sha256)
    if success is None:
        return None
    claimed = read_claim(engine.buckets.main, documents.job.spec.job_id, run.number)
    outcome = Outcome(
        state="partial" if success["rejected"] else "succeeded",
        rows=success["rows"],
        rejected=success["rejected"],
        parts=success["parts"],
        parts_done=success["parts"],
        seconds=seconds_since(documents.job.submitted),
        failures={},
        run=run.number,
        checks=None if claimed is None else claimed.checks,
    )
    return _End(outcome=outcome)


def _publish(engine: Engine, documents: Documents, run: Run, progress: Progress) -> _End | None:
    """Check every part; if none is missing, write the manifest, run the checks of the job, and claim its end.

    Then write ``_SUCCESS``, unless the job is blocked.

    Returns
    -------
    _End, optional
        The end of the job; None if the job has ended meanwhile, or if parts must be scored again.
    """
    job, plan, before = documents.job, documents.plan, engine.requests_so_far()
    parts, checked = _check(engine, documents, run, progress.failures)
    if parts.broken:
        if job.spec.arranged and (done := _succeeded(engine, documents, run)) is not None:
            return done  # another finalizer has deleted the parts
        if _score_again(engine, documents, parts, progress):
            return None
    reason, error, summary = _fault(documents, run, parts)
    files: tuple[File, ...] | None = None
    if not error and job.spec.arranged:
        files, error = _arrange(engine, documents, parts.infos)
        if error:
            reason, summary = "error", "the results could not be arranged"
        elif files is None:
            return None
    state: State = "failed" if error else "partial" if parts.rejected else "succeeded"
    outcome = Outcome(
        state=state,
        rows=parts.rows,
        rejected=parts.rejected,
        parts=plan.parts,
        parts_done=parts.complete,
        seconds=seconds_since(documents.job.submitted),
        error=error,
        summary=summary,
        reason=reason,
        failures=parts.failures,
        run=run.number,
        work_s=round(parts.timings.work, 3),
        result_bytes=parts.bytes,
    )
    if (carry := plan.columns.carry) is not None:
        outcome = replace(outcome, carried=parts.carried, not_carried=carry.why_not or parts.carry_fault)
    if error:
        return _End(outcome=outcome)
    main, job_id, layout = engine.buckets.main, job.spec.job_id, ResultsLayout.of(engine.buckets, job)

    def entries() -> Iterator[Entry]:
        return _with_pauses(engine, job, checked.entries())

    found = read_before_end(engine, documents, entries())
    if found.has_ended:
        return None
    written = write_before_end(layout, documents, parts, entries, files, found.merged)
    merge_comparison(engine, documents, entries())
    counted = _requests(parts, progress) + engine.requests_so_far() - before
    counted += REPORT_REQUESTS if has_report(engine, documents) else Requests()
    evidence = Evidence(
        buckets=engine.buckets,
        documents=documents,
        rows=parts.rows,
        rejected=parts.rejected,
        profile=None if found.merged is None else found.merged.profile,
        latest=found.latest,
    )
    verdict = judge(evidence, engine.checker or partial(check_job, engine))
    state = "blocked" if verdict.blocked else outcome.state
    outcome = replace(outcome, state=state, checks=recorded(verdict), class_a=counted.class_a, class_b=counted.class_b)
    decided = claim_end(main, job_id, outcome)
    if decided is not outcome and read_outcome(main, job_id) is not None:
        return None  # another finalizer has ended the job, and a person may have withdrawn it since
    if decided.state not in WITH_RESULTS:  # another process cancelled or failed the job, and may have died since
        return _End(outcome=decided)
    outcome = replace(outcome, state=decided.state, checks=decided.checks)  # another finalizer may have found more
    end = _End(outcome=outcome, profiles=(evidence.profile, *evidence.compared_with))
    if outcome.state != "blocked":
        create_once(layout.store, layout.success, written.success)
        if found.latest is not None:
            results = published_now(layout, documents, written, entries, files)
            end = replace(end, latest=found.latest, results=results)
    if not parts.carried:
        _note_pace(engine, job, parts, plan.parts)
    return end


def _requests(parts: PartTotals, progress: Progress) -> Requests:
    """Return the requests of a job, except those of this step so far."""
    planning = Workload.of_text(progress.work)
    counted = Requests(class_a=parts.timings.class_a, class_b=parts.timings.class_b)
    return counted + AROUND_PARTS + (planning.requests if planning is not None else Requests())


def _score_again(engine: Engine, documents: Documents, parts: PartTotals, progress: Progress) -> bool:
    """Rebuild the ledger without broken parts, so that they are scored again. Return False if the job must fail.

    The job fails if other parts have failed, or if broken parts were already scored again `_MAX_UNCOUNTED` times.
    `scoreline resume` then scores the broken parts.
    """
    job_id = documents.job.spec.job_id
    if read_outcome(engine.buckets.main, job_id) is not None:
        return True  # the job has ended, and the reconciler cleans up
    for number in sorted(parts.broken):
        if (reason := parts.failures.get(str(number))) is not None:
            log.warning("part.broken", extra={"job_id": job_id, "part": number, "error": reason})
    if progress.failures or progress.uncounted >= _MAX_UNCOUNTED:
        return False
    engine.ledger.forget(job_id)
    known = recover(engine, documents, parts.broken)
    open_ledger(engine, documents, replace(known, uncounted=progress.uncounted + 1))
    return True


def _check(
    engine: Engine, documents: Documents, run: Run, failed: Mapping[int, str]
) -> tuple[PartTotals, CheckedParts]:
    """Check every part. Return what the parts add up to, and their entries, which are read again for the manifest."""
    layout = ResultsLayout.of(engine.buckets, documents.job)

    def check(first: int) -> Iterator[Entry]:
        return check_parts(layout, documents, failed, first)

    checked, parts = CheckedParts(engine.buckets.main, documents, run, check), PartTotals()
    for number, entry in enumerate(_with_pauses(engine, documents.job, checked.check())):
        parts.add(number, entry)
    return parts, checked


def _with_pauses(engine: Engine, job: Job, entries: Iterator[Entry]) -> Iterator[Entry]:
    """Yield entries, and let steps of other jobs pass after some of them."""
    for number, entry in enumerate(entries, 1):
        yield entry
        if number % _PAUSE_EVERY == 0:
            engine.let_others_work(job.model)


def _fault(documents: Documents, run: Run, parts: PartTotals) -> tuple[Reason, str, str]:
    """Return the reason, the error and the summary if the job fails after the check; otherwise empty texts."""
    plan = documents.plan
    allowed = run.max_rejected or documents.job.spec.max_rejected
    if parts.failures:
        part, failure = next(iter(parts.failures.items()))
        summary = f"{parts.missing} of {plural(plan.parts, 'part')} failed"
        return "parts", f"{summary}; part {part}: {failure}", summary
    if parts.rejected > budget_rows(allowed, plan.rows):
        error = (
            f"{parts.rejected} of {plural(plan.rows, 'row')} {'was' if plan.rows == 1 else 'were'} rejected, and the "
            f"job allows {allowed}: correct the input, or raise --max-rejected"
        )
        return "rejected", error, error
    return "", "", ""


def _arrange(
    engine: Engine, documents: Documents, written: Sequence[ObjectInfo]
) -> tuple[tuple[File, ...] | None, str]:
    """Arrange the results.

    Return the files and an error message; the files are None if arranging fails or the job has ended.
    """
    try:
        return arrange(engine, documents, written), ""
    except SoftTimeLimitExceeded:
        job_id, layout = documents.job.spec.job_id, ResultsLayout.of(engine.buckets, documents.job)
        return None, (
            "arranging the results took too long: all of them can be read as "
            f"{layout.uri(layout.parts_folder)}part-*.parquet. `scoreline resume {job_id}` tries again; if that takes "
            "too long as well, score fewer objects in one job"
        )
    except ScorelineError as error:
        if error.transient:
            raise
        return None, describe(error)


def _note_pace(engine: Engine, job: Job, parts: PartTotals, count: int) -> None:
    """Record the pace of a job, with and without reading the input, if its parts are long enough.

    If a pace is already recorded, record the geometric mean of both.
    """
    rows, timings = parts.rows, parts.timings
    seconds = timings.scoring
    if job.spec.rejected_of is not None or not rows:  # rescoring reads many rows to score only a few
        return
    if seconds < _PACE_ALWAYS_S * count and (rows < _PACE_MIN_ROWS * count or seconds < _PACE_MIN_S * count):
        return
    counters = engine.ledger.counters
    before = counters.paces([job.work, job.scoring_work])
    for what, took in ((job.work, seconds), (job.scoring_work, timings.scoring_alone)):
        if took > 0:
            pace, known = rows / took, before.get(what)
            counters.note_pace(what, math.sqrt(known * pace) if known else pace)
