"""Runs all steps of a small job in one process, so that its submitter waits for only one message."""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from dataclasses import replace
from typing import Any

from scoreline.storage import keys
from scoreline.storage.errors import LedgerError, ObjectNotFound
from scoreline.storage.ledger.answers import Answer
from scoreline.tasks.job.documents import read_job, read_outcome
from scoreline.tasks.job.layout import ResultsLayout
from scoreline.tasks.job.uris import parse_uri
from scoreline.tasks.records.carried import Carried, records_key
from scoreline.tasks.steps.engine import Engine
from scoreline.tasks.steps.finalize import finalize
from scoreline.tasks.steps.planner import plan_job
from scoreline.tasks.steps.score_carried import score_carried, takes_longer
from scoreline.tasks.steps.score_part import score_part

_STEPS_RUN_HERE = frozenset({"scoreline.score_part", "scoreline.finalize"})


def score_records(
    engine: Engine, job_id: str, holder: str, carried: Carried | None, *, longest_s: float | None = None
) -> bool:
    """Score a job of records from what it carries, if it carries anything; otherwise from the bucket.

    The other parameters, the result and the errors are those of `score_small`.
    """
    if carried is None:
        return score_small(engine, job_id, holder, longest_s=longest_s)
    if score_carried(engine, job_id, carried, longest_s=longest_s):
        return True
    try:
        return score_small(engine, job_id, holder, longest_s=longest_s)
    finally:  # the application looks for the outcome now, and not only after a while
        if carried.reader:
            with contextlib.suppress(LedgerError):
                engine.ledger.answers.give(carried.reader, Answer(job_id=job_id))


def score_small(engine: Engine, job_id: str, holder: str, *, longest_s: float | None = None) -> bool:
    """Plan a job. If the job has only one part, also score and finalize it; otherwise dispatch its parts.

    Each step uses leases and counts attempts in the same way as a step that the queue delivers. If the process dies,
    the redelivered message or the reconciler continues.

    Parameters
    ----------
    holder : str
        Identifies the message (see `score_part`), or the process that does the step without its message.
    longest_s : float, optional
        Dispatch the part, too, if scoring it takes longer according to the pace of earlier jobs.

    Returns
    -------
    bool
        False if another process is scoring the job, or seems to: it may have died. The message must then come back.

    Raises
    ------
    ScorelineError
        A transient error: the message must be delivered again.
    """
    fixed = {keys.job(job_id), keys.plan(job_id)}
    engine = replace(engine, buckets=engine.buckets.caching(fixed), _documents=OrderedDict())
    job = read_job(engine.buckets.main, job_id)
    records = records_key(job, engine.buckets.main.bucket)
    fixed |= {parse_uri(job.spec.inputs[0])[1], *(records or ())[:1], ResultsLayout.of(engine.buckets, job).part(0)}
    kept_back: list[tuple[str, dict[str, Any]]] = []

    def send(name: str, **kwargs: Any) -> None:
        if name in _STEPS_RUN_HERE:
            kept_back.append((name, kwargs))
        else:
            engine.send(name, **kwargs)

    local = replace(engine, send=send, lists_steps=False, between_batches=None)
    plan_job(local, job_id)
    try:
        parts = engine.documents(job_id).plan.parts
    except ObjectNotFound:  # planning failed, and the job has ended
        return True
    if parts > 1 or (longest_s is not None and takes_longer(engine.ledger, engine.documents(job_id), longest_s)):
        for name, kwargs in kept_back:
            engine.send(name, **kwargs)
        return True
    scored_here = not parts or score_part(local, job_id, 0, holder) is not None
    finalize(engine, job_id)
    return scored_here or read_outcome(engine.buckets.main, job_id) is not None
