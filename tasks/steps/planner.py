"""Plans a job: reads ``job.json``, writes ``plan.json.gz``, and puts the first parts into the queue."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from scoreline.storage import keys
from scoreline.storage.errors import (
    UNLOADABLE_HERE,
    LedgerUnavailable,
    PreconditionFailed,
    ScorelineError,
)
from scoreline.storage.ledger.base import Ledger
from scoreline.storage.models.bundle import Bundle
from scoreline.storage.models.manifest import Manifest
from scoreline.storage.objects.base import CREATE, StoredObject, exists
from scoreline.storage.objects.requests import Requests
from scoreline.storage.tables.base import Pinned
from scoreline.storage.tables.schemas import to_text
from scoreline.storage.wording import plural
from scoreline.tasks.databases.source.staging import pinned_files, staged_rows
from scoreline.tasks.dispatch.dispatcher import Documents
from scoreline.tasks.dispatch.leases import STEP_ATTEMPTS, hold_step, object_notes
from scoreline.tasks.dispatch.outcome import clean_up_if_ended, fail_job
from scoreline.tasks.dispatch.reconcile import dispatch_due, fail_if_late, open_ledger, reconcile_job
from scoreline.tasks.inputs.columns import (
    available_columns,
    check_partition,
    check_segment,
    choose_features,
    named_features,
    resolve_columns,
    warn_of_other_columns,
)
from scoreline.tasks.inputs.listing import SurveyedObject, list_inputs, survey_inputs
from scoreline.tasks.inputs.only_new import unseen
from scoreline.tasks.job.chosen_cut import Work, choose_cut
from scoreline.tasks.job.documents import Job, Run, read_job, read_last_outcome, read_outcome, read_run
from scoreline.tasks.job.part_sizes import PART_ROWS, SLOW_ROWS_PER_S
from scoreline.tasks.job.places import check_output
from scoreline.tasks.job.plan import BATCH_ROWS, Columns, Part
from scoreline.tasks.job.plan_file import PlanFile, encode
from scoreline.tasks.job.uris import parse_uri
from scoreline.tasks.records.staging import stage_records
from scoreline.tasks.rejects.rescore import parts_to_rescore, pinned_objects
from scoreline.tasks.scoring.feature_names import match_names
from scoreline.tasks.scoring.interruptions import SoftTimeLimitExceeded
from scoreline.tasks.scoring.settled_types import describe_types
from scoreline.tasks.steps.call_time import MIN_BATCH_ROWS, measure_call
from scoreline.tasks.steps.engine import Engine
from scoreline.tasks.steps.job_checks import with_rules
from scoreline.tasks.steps.known_columns import KnownColumns
from scoreline.tasks.steps.plan_challenger import resolve_challenger, try_challenger, try_rows_of_both
from scoreline.tasks.steps.sampling import (
    SAMPLE_ROWS,
    Draft,
    parts_to_sample,
    result_bytes,
    row_bytes,
    score_rows_of,
    try_pace,
)
from scoreline.tasks.steps.unchanged.accepted_run import carry_over

log = logging.getLogger(__name__)

BATCH_S = 0.5
"""Maximum number of seconds that a batch should take, because a process does short steps of other jobs only between two
batches."""


def plan_job(engine: Engine, job_id: str, survey: Callable[[Engine, Job], Surveyed] | None = None) -> None:
    """Plan a job and dispatch its first parts. If the job cannot be scored, it fails. Repeated calls do no harm.

    Parameters
    ----------
    survey : callable, optional
        Returns what `survey_job` returns, or raises its errors. By default, it is called.

    Raises
    ------
    ModelUnloadable, ModelUntrusted
        This process cannot load the model, but another worker may be able to.
    ScorelineError
        A transient error: the step must be retried.
    """
    main, planned = engine.buckets.main, None
    with hold_step(engine, job_id, "plan") as attempt:
        notes = object_notes(engine, job_id, "plan") if attempt == STEP_ATTEMPTS else None
        engine = engine.for_attempt(attempt, at_object=notes)
        with ThreadPoolExecutor(2, thread_name_prefix="documents") as pool:
            job, outcome = pool.submit(read_job, main, job_id), pool.submit(read_outcome, main, job_id)
            is_planned = exists(main, keys.plan(job_id))
        if not is_planned and outcome.result() is None:
            can_continue, planned = _plan(engine, job.result(), survey)
            if not can_continue:
                return
    if planned is not None:
        documents, run = planned
        with ThreadPoolExecutor(1, thread_name_prefix="outcome") as pool:
            # A job that is cancelled, or resumed, from now on closes its ledger, or forgets it
            is_outdated = pool.submit(_another_run_began, engine, job_id, run)
            dispatch_due(engine, documents)
        if not is_outdated.result():
            return
        engine.ledger.forget(job_id)  # it has the budget and the deadline of the earlier run
    reconcile_job(engine, job_id)


def _another_run_began(engine: Engine, job_id: str, run: Run) -> bool:
    """Return whether a job was cancelled and resumed while `run` was planned. If it has ended, close its ledger."""
    main = engine.buckets.main
    if read_last_outcome(main, job_id) is None or clean_up_if_ended(engine, job_id):  # only a job that ended is resumed
        return False
    return read_run(main, job_id)[0] != run


def _plan(
    engine: Engine, job: Job, survey: Callable[[Engine, Job], Surveyed] | None
) -> tuple[bool, tuple[Documents, Run] | None]:
    """Write the plan and open the ledger.

    Return whether the job can continue, and its documents and run unless another process has written the plan.
    """
    job_id, before = job.spec.job_id, engine.requests_so_far()
    if fail_if_late(engine, job):
        return False, None
    try:
        data = make_plan(engine, job, hand_on=True, survey=survey)
    except UNLOADABLE_HERE:  # another worker may be able to load the model
        raise
    except ScorelineError as error:
        if error.transient:
            raise
        fail_job(engine, job_id, error)
        return False, None
    except SoftTimeLimitExceeded:
        raise
    except Exception as error:  # an estimator may raise any exception; the job must end with the reason
        log.exception("plan.failed", extra={"job_id": job_id})
        fail_job(engine, job_id, error)
        return False, None
    main = engine.buckets.main
    try:
        with ThreadPoolExecutor(1, thread_name_prefix="run") as pool:
            found = pool.submit(read_run, main, job_id)
            info = main.put(keys.plan(job_id), data, mode=CREATE)
    except PreconditionFailed:
        log.info("plan.exists", extra={"job_id": job_id})
        return True, None
    plan = PlanFile(main, job_id, StoredObject(info=info, data=data))
    documents = Documents(job=job, plan=plan)
    engine.remember(documents)
    planning = engine.requests_so_far() - before
    if survey is not None:
        planning += survey(engine, job).requests
    run, _ = found.result()
    open_ledger(engine, documents, planning=planning, run=run)  # a new plan has no results yet
    return True, (documents, run)


def make_plan(
    engine: Engine,
    job: Job,
    pace: Pace | None = None,
    known_columns: KnownColumns | None = None,
    *,
    hand_on: bool = False,
    survey: Callable[[Engine, Job], Surveyed] | None = None,
) -> bytes:
    """Draft a plan and encode it.

    Parameters and errors are those of `draft`. By default, the pace is read from the ledger.
    """
    made = draft(engine, job, pace or Pace.of(engine.ledger, job), known_columns, hand_on=hand_on, survey=survey)
    identity = {
        "bucket": engine.buckets.main.bucket,
        "job_id": job.spec.job_id,
        "submitted": job.submitted,
        "model": job.model.ref,
        "manifest_sha256": job.model.manifest_sha256,
    }
    return encode(made.columns, made.parts, made.warnings, identity=identity)


@dataclass(frozen=True, kw_only=True)
class Pace:
    """The expected speed of a job, as far as it is known."""

    rows_per_s: float | None = None
    """Rows per second of one process in earlier jobs of the same model version and method."""
    scored_per_s: float | None = None
    """The same pace without fetching and decoding the rows, because these depend on the input."""
    processes: int = 0
    """Total number of processes of all workers; 0 if it is unknown."""

    @classmethod
    def of(cls, ledger: Ledger, job: Job) -> Pace:
        """Return the pace that the ledger has recorded for the model version and method. All values may be unknown."""
        try:
            processes = ledger.processes()
        except LedgerUnavailable:
            return cls()
        paces = ledger.counters.paces([job.work, job.scoring_work])
        return cls(rows_per_s=paces.get(job.work), scored_per_s=paces.get(job.scoring_work), processes=processes)


def draft(
    engine: Engine,
    job: Job,
    pace: Pace | None = None,
    known_columns: KnownColumns | None = None,
    *,
    hand_on: bool = False,
    survey: Callable[[Engine, Job], Surveyed] | None = None,
    measure_pace: bool = False,
) -> Draft:
    """List the input, check it against the model, score a sample, and cut the input into parts.

    This function does not use the ledger or the queue, and writes nothing.

    Parameters
    ----------
    pace : Pace, optional
        The known pace, which determines the size of parts unless the job sets this size. By default, the pace is
        unknown.
    known_columns : KnownColumns, optional
        The columns of the results of earlier jobs. A job with a few records and the columns of an earlier job is not
        sampled. The caller must compare the columns with those of the results (see `KnownColumns`).
    hand_on : bool
        Whether small objects and wide row groups are kept for the parts of the job, which this worker may score next.
    survey : callable, optional
        As for `plan_job`.
    measure_pace : bool
        Whether to measure an unknown pace on more rows than the sample, even if the cut does not depend on it.

    Raises
    ------
    ScorelineError
        The job cannot be scored. Other exceptions from an estimator are not caught.
    """
    is_drafted = False
    try:
        found_input = (survey or survey_job)(engine, job)
        with engine.tables.planning() if hand_on else contextlib.nullcontext():
            made = _draft(engine, job, pace or Pace(), known_columns, found_input, measure_pace)
        is_drafted = True
        return made
    finally:
        if is_drafted and hand_on:
            engine.kept.hand_on()
        else:
            engine.kept.clear()


@dataclass(frozen=True, kw_only=True)
class Surveyed:
    """What planning has read of the input of a job, before it needs the model in memory."""

    manifest: Manifest
    named: tuple[str, ...] | None
    """The features, if they are known without the input (see `named_features`)."""
    few_records: Pinned | None
    rescored: tuple[Part, ...] | None
    objects: tuple[SurveyedObject, ...]
    requests: Requests
    """Requests that were sent."""


def survey_job(engine: Engine, job: Job) -> Surveyed:
    """List and survey the input of a job. Steps of other jobs may pass meanwhile (see `Engine.let_others_work`).

    Raises
    ------
    ScorelineError
        The job cannot be scored.
    """
    spec, before = job.spec, engine.requests_so_far()
    _ = engine.buckets[parse_uri(spec.output)[0]]  # raises an error if the bucket is not allowed
    check_output(spec.output, engine.buckets.main.bucket, engine.buckets.allowed_outputs)
    manifest = engine.models.manifest(job.model)
    named = named_features(manifest, spec.features)
    few_records = stage_records(engine.buckets.main, job)
    rescored = None if spec.rejected_of is None else parts_to_rescore(engine, spec.rejected_of)
    objects = _survey(engine, job, rescored, few_records, named or ())
    return Surveyed(
        manifest=manifest,
        named=named,
        few_records=few_records,
        rescored=rescored,
        objects=objects,
        requests=engine.requests_so_far() - before,
    )


def _draft(
    engine: Engine,
    job: Job,
    pace: Pace,
    known_columns: KnownColumns | None,
    found_input: Surveyed,
    measure_pace: bool,
) -> Draft:
    spec, manifest, named, surveyed = job.spec, found_input.manifest, found_input.named, found_input.objects
    few_records, rescored = found_input.few_records, found_input.rescored
    warnings = (*_warn_of_empty(surveyed), *_warn_of_no_rows(job, surveyed))
    if not any(len(item.schema) for item in surveyed):  # an empty plan: the job succeeds without any parts
        columns = Columns(features=named or (), keep=(), schema="")
        return Draft(columns=columns, surveyed=surveyed, warnings=warnings)
    features, more = choose_features(manifest, spec.features, available_columns(surveyed), keep=spec.keep)
    bundle = engine.models.get(job.model) if any(item.file.spans for item in surveyed) else None
    if spec.features is None and bundle is not None:
        features = match_names(features, available_columns(surveyed).names, lambda: bundle.replaces_blanks)
    known = bundle.categories(features) if bundle is not None else {}
    words = [name for name in features if name in known and known[name].are_texts]
    resolved = resolve_columns(surveyed, features, spec.keep, spec.read.types, words)
    warnings += (
        more
        + warn_of_other_columns(surveyed, spec.keep)
        + tuple(
            f"{name!r} has leading zeros and is read as numbers, as pandas does: --types {name}=string keeps the zeros"
            for name in resolved.zero_padded
        )
    )
    check_partition(spec, resolved.reads, resolved.keep)
    check_segment(spec, resolved.reads, resolved.keep)
    challenger = None
    if bundle is not None:
        challenger, resolved = resolve_challenger(engine, job, bundle, surveyed, features, resolved)
    columns = Columns(
        features=features,
        keep=resolved.keep,
        schema="",
        challenger=challenger,
        reads=to_text(resolved.reads),
        folders=resolved.folders,
        types=describe_types(resolved.reads, features),
    )
    columns = with_rules(engine, job, columns, manifest)
    files = [item.file for item in surveyed]
    parts = rescored or parts_to_sample(files, spec.part_rows)
    made = Draft(columns=columns, parts=parts, surveyed=surveyed, warnings=warnings)
    if not made.parts or bundle is None:
        return made
    if known_columns is None or few_records is None or sum(part.rows for part in made.parts) > SAMPLE_ROWS:
        made = try_rows_of_both(engine, job, bundle, made, resolved)
    elif (found := known_columns.find(job, manifest, columns)) is not None:
        return replace(made, columns=found, warnings=(*made.warnings, *bundle.warnings))
    else:
        made = try_rows_of_both(engine, job, bundle, made, resolved)
        known_columns.add(job, manifest, columns, made.columns)
    made = try_challenger(engine, job, bundle, made)
    made = _carry_over(engine, job, bundle, made)
    if not rescored and few_records is None:  # a few records are always one part
        made = _cut(job, bundle, made, pace, measure_pace)
    return replace(made, ahead=None)


def _carry_over(engine: Engine, job: Job, bundle: Bundle, made: Draft) -> Draft:
    """Decide from which accepted run scores are carried over, if the job asks for it."""
    if not job.spec.only_changed or made.ahead is None:
        return made
    rows = made.ahead.slice(0, max(SAMPLE_ROWS, int((made.rows_per_s or 0) * BATCH_S)))
    columns = made.columns
    carry = carry_over(
        engine.buckets, job, columns, bundle, lambda some: score_rows_of(job, bundle, some, columns), rows
    )
    return replace(made, columns=replace(columns, carry=carry))


def _survey(
    engine: Engine, job: Job, rescored: Sequence[Part] | None, few_records: Pinned | None, features: Sequence[str]
) -> tuple[SurveyedObject, ...]:
    """Survey the objects that the job reads. If a job that reads only new objects finds none, return an empty list."""
    spec = job.spec
    if rescored is not None:
        objects = pinned_objects(engine.buckets, rescored)
    elif few_records is not None:
        objects = [few_records]
    elif spec.reads_database:
        objects = pinned_files(engine.buckets.main, staged_rows(engine.buckets.main, engine.databases, job))
    else:
        objects = list_inputs(engine.buckets, spec.inputs, spec.job_id)
    if spec.only_new is not None:
        objects = unseen(engine.buckets.main, spec.only_new, job, objects)
    if few_records is not None:
        return tuple(survey_inputs(engine.tables, objects, spec.read, features, engine.kept))

    def may_pause() -> None:
        engine.let_others_work(job.model)

    surveyed = survey_inputs(
        engine.tables, objects, spec.read, features, engine.kept, may_pause, engine.gate, engine.at_object
    )
    if engine.at_object is not None:
        engine.at_object("")  # if the model ends the process, the last object is not the reason
    return tuple(surveyed)


def _cut(job: Job, bundle: Bundle, made: Draft, pace: Pace, measure_pace: bool) -> Draft:
    """Cut the input into parts, based on the sizes of rows and results in the sample.

    If no earlier job has recorded a pace of the model version, the pace is measured on a sample, but only if the cut
    depends on it, because the model seems slow or row groups are large enough to be divided, or if `measure_pace` is
    set.
    """
    files = [item.file for item in made.surveyed]
    large = any(rows > PART_ROWS for file in files for rows in file.row_counts)
    rows_per_s, scored_per_s = pace.rows_per_s, pace.scored_per_s
    tried = None if rows_per_s else made.rows_per_s

    def decides(rate: float) -> bool:
        return not job.spec.part_rows and (large or rate < SLOW_ROWS_PER_S)

    if tried is not None and (measure_pace or decides(tried)):
        tried = try_pace(job, bundle, made)  # needed with many columns, where even a call with few rows takes long
        if decides(tried):
            rows_per_s = scored_per_s = tried
    made = replace(made, columns=replace(made.columns, batch_rows=_batch_rows(job, bundle, made, pace)))
    work = Work(
        rows_per_s=rows_per_s,
        scored_per_s=scored_per_s,
        processes=pace.processes,
        row_bytes=row_bytes(made.sample),
        columns=made.sample.num_columns if made.sample is not None else 0,
        result_bytes=result_bytes(made, encode=large),
    )
    chosen = choose_cut(files, work, job.spec.part_rows)
    return replace(made, parts=chosen.parts, chosen=chosen, rows_per_s=tried or made.rows_per_s)


def _batch_rows(job: Job, bundle: Bundle, made: Draft, pace: Pace) -> int:
    """Return the maximum number of rows of a batch, so that it takes about `BATCH_S`; 0 for `BATCH_ROWS`.

    The time of a call is measured on some rows, unless the known pace says that a batch of all rows is fast enough. A
    recorded pace is not used otherwise, because small batches may be the reason why it is low.
    """
    most = min(BATCH_ROWS, sum(sum(item.file.row_counts) for item in made.surveyed))
    known = pace.scored_per_s or pace.rows_per_s or made.rows_per_s
    if known is None or most <= max(MIN_BATCH_ROWS, BATCH_S * known):
        return 0
    measured = measure_call(job, bundle, made)
    rows = most if measured is None else measured.rows_in(BATCH_S)
    return rows if rows < most else 0


def _warn_of_no_rows(job: Job, surveyed: Sequence[SurveyedObject]) -> tuple[str, ...]:
    if not job.spec.reads_database or any(item.file.spans for item in surveyed):
        return ()
    return (f"{job.spec.source_name} has no rows",)


def _warn_of_empty(surveyed: Sequence[SurveyedObject]) -> tuple[str, ...]:
    empty = [item.uri for item in surveyed if not item.file.size]
    if not empty:
        return ()
    have = "has" if len(surveyed) == 1 else "have"
    return (f"{len(empty)} of {plural(len(surveyed), 'object')} {have} no bytes: {', '.join(empty[:3])}",)
