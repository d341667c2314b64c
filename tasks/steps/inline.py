"""A small job from its plan to its end in one process, so that whoever waits for it waits for one message."""

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

_OURS = frozenset({"scoreline.score_part", "scoreline.finalize"})


def score_small(engine: Engine, job_id: str, holder: str) -> None:
    """Plan a job, and score and finalize it too where it has one part; a larger one is dispatched as ever.

    Each step is the one that the queue would have brought, with the same leases and attempts: whoever dies here, the
    same message or the reconciler goes on.

    Parameters
    ----------
    holder : str
        As `scoreline.tasks.steps.score_part.score_part`.

    Raises
    ------
    ScorelineError
        Marked transient: the message has to come again.
    """
    fixed = {keys.job(job_id), keys.plan(job_id)}
    engine = replace(engine, buckets=engine.buckets.caching(fixed), _documents=OrderedDict())
    job = read_job(engine.buckets.main, job_id)
    fixed |= {parse_uri(job.spec.inputs[0])[1], ResultsLayout.of(engine.buckets, job).part(0)}
    kept_back: list[tuple[str, dict[str, Any]]] = []

    def send(name: str, **kwargs: Any) -> None:
        if name in _OURS:
            kept_back.append((name, kwargs))
        else:
            engine.send(name, **kwargs)

    here = replace(engine, send=send)
    plan_job(here, job_id)
    try:
        count = engine.documents(job_id).plan.parts
    except ObjectNotFound:  # it failed before there was a plan
        return
    if count > 1:
        for name, kwargs in kept_back:
            engine.send(name, **kwargs)
        return
    if count:
        score_part(here, job_id, 0, holder)
    finalize(engine, job_id)
