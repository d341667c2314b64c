"""Runs all steps of a small job in one process, so that its submitter waits for only one message."""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from dataclasses import replace
from typing import Any

from scoreline.storage import keys
from scoreline.storage.errors import LedgerError, ObjectNotFound
from scoreline.storage.ledger.answers import Answer
from scoreline.storage.objects.requests import Requests
from scoreline.tasks.job.documents import read_job, read_outcome
from scoreline.tasks.job.layout import ResultsLayout
from scoreline.tasks.job.uris import parse_uri
from scoreline.tasks.records.carried import Carried, records_key
from scoreline.tasks.steps.engine import BetweenBatches, Engine, ModelInUse
from scoreline.tasks.steps.finalize import finalize
from scoreline.tasks.steps.planner import plan_job
from scoreline.tasks.steps.score_carried import score_carried, takes_longer
from scoreline.tasks.steps.score_part import score_part

_LONGEST_CARRIED_S = 2.0
"""If scoring carried records seems to take longer, they are scored from the bucket, batch by batch."""
_STEPS_RUN_HERE = frozenset({"scoreline.score_part", "scoreline.finalize"})


class _Between:
    """Does the work of other jobs between two batches of records, with the engine of the process.

    The engine with which the records are scored keeps back messages, and those of other jobs must be sent.
    """

    def __init__(self, engine: Engine, steps: BetweenBatches) -> None:
        self._engine, self._steps = engine, steps
        self._is_first = True
        self.spent_s, self.requests = 0.0, Requests()

    def begin_part(self) -> None:
        """Record that the process begins the only part of the records."""
        self._steps.begin_part()

    def end_part(self, engine: Engine, *, interrupted: bool = False) -> None:
        """Record that the only part of the records has ended."""
        self._steps.end_part(self._engine, interrupted=interrupted)

    def __call__(self, engine: Engine, model: ModelInUse) -> float:
        """Work for other jobs, except before the first batch. Return the number of seconds that this took."""
        if self._is_first:  # the records must not wait for the steps that wait behind them
            self._is_first = False
            return 0.0
        seconds = self._steps(self._engine, model)
        self.spent_s, self.requests = self._steps.spent_s, self._steps.requests
        return seconds


def score_records(
    engine: Engine, job_id: str, holder: str, carried: Carried | None, *, longest_s: float | None = None
) -> bool:
    """Score a job of records from what it carries, if it carries anything; otherwise from the bucket.

    The other parameters, the result and the errors are those of `score_small`.
    """
    if carried is None:
        return score_small(engine, job_id, holder, longest_s=longest_s)
    # Other steps cannot pass while carried records are scored
    longest_carried_s = _LONGEST_CARRIED_S if longest_s is not None or engine.between_batches is not None else None
    if score_carried(engine, job_id, carried, longest_s=longest_carried_s):
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

    between = None if engine.between_batches is None else _Between(engine, engine.between_batches)
    local = replace(engine, send=send, lists_steps=False, between_batches=between)
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
