"""Carries out what a person decides about the results of a job: accept, reject, or go back to an earlier run.

The decision itself is ``review.json`` of the job, changed by compare-and-swap; everything else follows from it, and may
be done again by any process. A process that is killed leaves a decision that is carried out in part, and the same
command again does the rest. If two people decide at once, the later decision counts, and both processes carry it out.

An accepted job gets its ``_SUCCESS`` first, then its place in ``latest.json``, and its outcome last. A withdrawn job
first loses its place in ``latest.json``, then its ``_SUCCESS``, and its outcome changes last.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from scoreline.storage import audit, keys
from scoreline.storage.errors import (
    DocumentCorrupt,
    InvalidRequest,
    JobRemoved,
    NothingToResume,
    ObjectNotFound,
    PlanPending,
    PreconditionFailed,
    StoreUnavailable,
    describe,
)
from scoreline.storage.objects.base import IfMatch, ObjectStore, create_once, if_unchanged
from scoreline.storage.objects.buckets import Buckets
from scoreline.tasks.dispatch.job_index import note_decision
from scoreline.tasks.inputs.only_new import check_still_new, claim_objects, forget_scored, remember_scored
from scoreline.tasks.job.documents import (
    WITH_RESULTS,
    Job,
    Outcome,
    State,
    decoding,
    read_job,
    read_outcome,
    read_review,
    read_tombstone,
)
from scoreline.tasks.job.ended import check_has_results, ended_outcome
from scoreline.tasks.job.findings import Checks, Decision, Review
from scoreline.tasks.job.layout import ResultsLayout
from scoreline.tasks.job.plan_file import PlanFile
from scoreline.tasks.job.success import encode_success
from scoreline.tasks.quality.gate.latest import Latest, RunEntry, before
from scoreline.tasks.quality.gate.pointer import Pointer, publishes
from scoreline.tasks.quality.gate.published import read_manifest

MAX_REASON = 1_000
"""Maximum number of characters of a reason."""
_TRIES = 20


@dataclass(frozen=True, kw_only=True)
class Decided:
    """What became of a job after a decision."""

    outcome: Outcome
    latest: str | None
    """The job that readers of the output take now; None if there is none."""
    publishes: bool
    """Whether the job can become the latest run of its output."""


def decide(buckets: Buckets, job_id: str, decision: Decision, reason: str) -> Decided:
    """Accept or withdraw the results of a job. The same call again does no harm, and finishes an interrupted one.

    Raises
    ------
    JobNotFound
        No job has that id, or its results were removed.
    InvalidRequest
        The job has not ended, its results are not complete, or there is no reason. Or the job was withdrawn, and a
        later job of its schedule has scored its objects since, or is about to (`only_new`).
    PlanPending
        Transient: another job of that schedule is being planned, and may score the same objects.
    StoreUnavailable
        Transient: try again.
    """
    main, reason = buckets.main, check_reason(reason)
    job = read_job(main, job_id)
    outcome = ended_outcome(main, job_id)
    check_has_results(job_id, outcome, WITH_RESULTS)
    if decision == "accepted":
        _check_not_scored_since(buckets, job)
    _record(main, job_id, outcome, decision, reason)
    outcome = _carry_out_last(buckets, job)
    return Decided(outcome=outcome, latest=_latest_of(buckets, job), publishes=publishes(job, main.bucket))


def repeat_decision(buckets: Buckets, job: Job) -> None:
    """Carry out the last decision about a job again, if there is one.

    A finalizer that finds an outcome where it writes its own does so: since it wrote ``_SUCCESS``, or before, a person
    may have withdrawn the job.
    """
    if read_review(buckets.main, job.spec.job_id)[0] is not None:
        with suppress(JobRemoved):
            _carry_out_last(buckets, job)


def _carry_out_last(buckets: Buckets, job: Job) -> Outcome:
    """Carry out the last decision about a job, until no other is made meanwhile. Return the outcome of the job."""
    main, job_id = buckets.main, job.spec.job_id
    for _ in range(_TRIES):
        review, etag = read_review(main, job_id)
        if review is None:
            raise JobRemoved(f"job {job_id!r} was removed meanwhile, because its results are no longer kept")
        outcome = _carry_out(buckets, job, review)
        if read_review(main, job_id)[1] == etag:
            return outcome
    raise StoreUnavailable(f"{main.uri(keys.review(job_id))} was changed {_TRIES} times meanwhile: try again")


def _check_not_scored_since(buckets: Buckets, job: Job) -> None:
    """Raise an error if another job has scored, or may be about to score, objects of a job that was withdrawn.

    Otherwise, two accepted runs of a schedule that scores each object only once would have the same rows.
    """
    main, job_id = buckets.main, job.spec.job_id
    last, _ = read_review(main, job_id)
    if job.spec.only_new is None or last is None or last.decision == "accepted":
        return
    if not _says_withdrawn(ended_outcome(main, job_id)):  # the process that withdrew the job has not finished
        _carry_out(buckets, job, last)
    check_still_new(main, job.spec.only_new, job_id)


def _says_withdrawn(outcome: Outcome) -> bool:
    review = None if outcome.checks is None else outcome.checks.review
    return review is not None and review.decision == "withdrawn"


def _claim(buckets: Buckets, job: Job, schedule: str, review: Review) -> None:
    """Claim the objects of a withdrawn job that is accepted again. If another job has them, withdraw the job again.

    The other job was planned between the check and the decision.
    """
    main, job_id = buckets.main, job.spec.job_id
    try:
        claim_objects(main, schedule, job_id, review.number)
    except (NothingToResume, PlanPending) as error:
        if not _says_withdrawn(ended_outcome(main, job_id)):
            return  # another process has accepted the job meanwhile, and the objects are those of this job
        back = replace(review, decision="withdrawn", number=review.number + 1, reason=_shortened(describe(error)))
        audit.record(main, action="job.reject", target=job_id, details={"reason": back.reason, "from": "accepted"})
        if _replace_review(main, job_id, back):
            _carry_out(buckets, job, back)
        raise


def _replace_review(main: ObjectStore, job_id: str, review: Review) -> bool:
    """Write a decision that follows from the one before. Return whether no other decision was made meanwhile."""
    last, etag = read_review(main, job_id)
    if last is None or last.number != review.number - 1:
        return False
    try:
        main.put(keys.review(job_id), review.to_json(), mode=if_unchanged(etag))
    except PreconditionFailed:
        return False
    return True


def _shortened(reason: str) -> str:
    return reason if len(reason) <= MAX_REASON else f"{reason[: MAX_REASON - 1]}…"


def check_reason(reason: str) -> str:
    """Return a reason without blanks around it; raises `InvalidRequest` if it is empty or too long."""
    if not (found := reason.strip()):
        raise InvalidRequest("the reason is empty: say why, for those who read the audit later")
    if len(found) > MAX_REASON:
        raise InvalidRequest(f"the reason has {len(found):,} characters, and may have {MAX_REASON:,}: shorten it")
    return found


def _record(main: ObjectStore, job_id: str, outcome: Outcome, decision: Decision, reason: str) -> None:
    """Write the decision, after its line in the audit, unless the latest decision is the same."""
    person = audit.submitter()
    for _ in range(_TRIES):
        last, etag = read_review(main, job_id)
        if last is not None and (last.decision, last.who, last.reason) == (decision, person.who, reason):
            return
        review = Review(
            decision=decision,
            who=person.who,
            where=person.where,
            at=datetime.now(UTC).isoformat(timespec="milliseconds"),
            reason=reason,
            number=1 if last is None else last.number + 1,
        )
        action = "job.accept" if decision == "accepted" else "job.reject"
        audit.record(main, action=action, target=job_id, details={"reason": reason, "from": outcome.state})
        try:
            main.put(keys.review(job_id), review.to_json(), mode=if_unchanged(etag))
            return
        except PreconditionFailed:  # another person has decided meanwhile, or the answer to this write was lost
            continue
    raise StoreUnavailable(f"{main.uri(keys.review(job_id))} was changed {_TRIES} times meanwhile: try again")


def _carry_out(buckets: Buckets, job: Job, review: Review) -> Outcome:
    """Do what follows from a decision, and return the outcome of the job."""
    main, job_id = buckets.main, job.spec.job_id
    outcome = read_outcome(main, job_id)
    if outcome is None:
        raise JobRemoved(f"job {job_id!r} was removed meanwhile, because its results are no longer kept")
    layout = ResultsLayout.of(buckets, job)
    pointer = Pointer.of(buckets, job.spec.output) if publishes(job, main.bucket) else None
    entry, schedule = RunEntry.of(job, outcome, review), job.spec.only_new
    if review.decision == "accepted":
        if schedule is not None and _says_withdrawn(outcome):
            _claim(buckets, job, schedule, review)
        if pointer is not None:
            pointer.protect(entry)
        _write_success(main, layout, job, outcome)
        if pointer is not None:
            pointer.accept(entry, replace(outcome.checks or Checks(), review=review))
    else:
        if pointer is not None:
            pointer.withdraw(entry)
        layout.store.delete(layout.success)
        if schedule is not None and not _says_withdrawn(outcome):  # or a later job may have scored the objects
            forget_scored(main, schedule, job_id)
    decided = _replace_outcome(main, job_id, review)
    if schedule is not None and review.decision == "accepted":
        remember_scored(main, schedule, job_id)  # last: while the outcome says withdrawn, nothing is recorded
    note_decision(main, job, decided)
    return decided


def _write_success(main: ObjectStore, layout: ResultsLayout, job: Job, outcome: Outcome) -> None:
    """Write ``_SUCCESS`` of a job whose manifest exists, unless the job is being removed."""
    job_id = job.spec.job_id
    try:
        found = read_manifest(layout.store, layout.folder)
    except ObjectNotFound as error:
        raise DocumentCorrupt(f"the results of job {job_id} cannot be accepted: {error}") from error
    success = encode_success(
        job,
        rows=outcome.rows,
        rejected=outcome.rejected,
        parts=outcome.parts_done,
        manifest_sha256=found.sha256,
        plan_sha256=PlanFile(main, job_id).sha256 if job.spec.arranged else "",
        files=len(found.files) if job.spec.arranged else None,
    )
    create_once(layout.store, layout.success, success)
    if read_tombstone(main, job_id) is not None:  # retention has listed the results before this write
        layout.store.delete(layout.success)
        raise JobRemoved(f"job {job_id!r} is being removed, because its results are no longer kept")
    if job.spec.arranged:  # finalize has kept the parts of a blocked job
        layout.store.delete_many([info.key for info in layout.store.list(layout.parts_folder)])


def _replace_outcome(main: ObjectStore, job_id: str, review: Review) -> Outcome:
    """Record a decision in the outcome, unless a later decision is recorded there. Return the outcome."""
    key = keys.outcome(job_id)
    for _ in range(_TRIES):
        got = main.get(key)
        with decoding(main, key):
            known = Outcome.from_json(got.data)
        checks = known.checks or Checks()
        if checks.review is not None and checks.review.number >= review.number:
            return known
        complete: State = "partial" if known.rejected else "succeeded"
        state: State = complete if review.decision == "accepted" else "blocked"
        decided = replace(known, state=state, checks=replace(checks, review=review))
        try:
            main.put(key, decided.to_json(), mode=IfMatch(got.info.etag))
            return decided
        except PreconditionFailed:
            continue
    raise StoreUnavailable(f"{main.uri(key)} was changed {_TRIES} times meanwhile: try again")


def _latest_of(buckets: Buckets, job: Job) -> str | None:
    if not publishes(job, buckets.main.bucket):
        return None
    found, _ = Pointer.of(buckets, job.spec.output).read()
    return None if found is None else found.job_id


def roll_back(buckets: Buckets, output: str, job_id: str | None, reason: str) -> Latest:
    """Let readers of an output take an earlier run again. Return the new content of ``latest.json``.

    Parameters
    ----------
    output : str
        URI of the output; ends in ``/``.
    job_id : str, optional
        The run; by default, the newest accepted run before the one that readers take now.

    Raises
    ------
    InvalidRequest
        There is no such run, or it is not accepted, or its results no longer exist.
    """
    pointer, reason = Pointer.of(buckets, output), check_reason(reason)
    document, _ = pointer.read()
    if document is None:
        raise InvalidRequest(f"no run of {output} is accepted: there is no {pointer.uri}")
    to = _run_before(document, output) if job_id is None else _run_of(buckets, document, output, job_id)
    person = audit.submitter()
    details = {"from": document.job_id, "to": to.job_id, "reason": reason}
    audit.record(buckets.main, action="results.rollback", target=output, details=details)
    pointer.roll_back(to, person.who, person.where, reason)
    after, _ = pointer.read()
    return after or document


def _run_before(document: Latest, output: str) -> RunEntry:
    run = document.run
    found = None if run is None else before(document, run.place)
    if found is None:
        raise InvalidRequest(f"no accepted run of {output} is older than {document.job_id or 'the withdrawn ones'}")
    return found


def _run_of(buckets: Buckets, document: Latest, output: str, job_id: str) -> RunEntry:
    """Return the entry of a run that a person names, also if the run is too old to be listed."""
    if (known := document.entry(job_id)) is not None and known.decision == "accepted":
        return known
    job, outcome = read_job(buckets.main, job_id), read_outcome(buckets.main, job_id)
    if job.spec.output != output:
        raise InvalidRequest(f"job {job_id} is no run of {output}: its output is {job.spec.output}")
    if outcome is None or outcome.state not in WITH_RESULTS:
        state = "is under way" if outcome is None else outcome.state
        raise InvalidRequest(f"job {job_id} {state}, so its results are not complete: name an accepted run")
    if outcome.state == "blocked" or not publishes(job, buckets.main.bucket):
        raise InvalidRequest(
            f"job {job_id} is not accepted: look at `scoreline status {job_id}`, then accept it with `scoreline accept "
            f"{job_id} --reason TEXT`"
        )
    return RunEntry.of(job, outcome)
