"""Runs all steps of a small job in one process, so that its submitter waits for only one message."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import replace
from typing import Any

from scoreline.storage import keys
from scoreline.storage.errors import ObjectNotFound
from scoreline.tasks.job.documents import read_job
from scoreline.tasks.job.layout import ResultsLayout
from scoreline.tasks.job.uris import parse_uri
from scoreline.tasks.steps.engine import Engine
from scoreline.tasks.steps.finalize import finalize
from scoreline.tasks.steps.planner import plan_job
from scoreline.tasks.steps.score_part import score_part

_STEPS_RUN_HERE = frozenset({"scoreline.score_part", "scoreline.finalize"})


def score_small(engine: Engine, job_id: str, holder: str) -> None:
    """Plan a job. If the job has only one part, also score and finalize it; otherwise dispatch its parts.

    Each step uses leases and counts attempts in the same way as a step that the queue delivers. If the process dies,
    the redelivered message or the reconciler continues.

    Parameters
    ----------
    holder : str
        Identifies the message (see `score_part`).

    Raises
    ------
    ScorelineError
        A transient error: the message must be delivered again.
    """
    fixed = {keys.job(job_id), keys.plan(job_id)}
    engine = replace(engine, buckets=engine.buckets.caching(fixed), _documents=OrderedDict())
    job = read_job(engine.buckets.main, job_id)
    fixed |= {parse_uri(job.spec.inputs[0])[1], ResultsLayout.of(engine.buckets, job).part(0)}
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
        return
    if parts > 1:
        for name, kwargs in kept_back:
            engine.send(name, **kwargs)
        return
    if parts:
        score_part(local, job_id, 0, holder)
    finalize(engine, job_id)
