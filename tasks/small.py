"""A small job from its plan to its end in one process, so that whoever waits for it waits for one message."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tasks.engine import Engine
from tasks.finalize import finalize
from tasks.part import score_part
from tasks.planner import plan_job
from tasks.records import read_outcome

_OURS = frozenset({"scoreline.score_part", "scoreline.finalize"})


def score_small(engine: Engine, job_id: str, holder: str) -> None:
    """Plan a job, and score and finalize it too where it has one part; a larger one is dispatched as ever.

    Each step is the one that the queue would have brought, with the same leases and attempts: whoever dies here, the
    same message or the reconciler goes on.

    Parameters
    ----------
    holder : str
        As `tasks.part.score_part`.

    Raises
    ------
    ScorelineError
        Marked transient: the message has to come again.
    """
    kept_back: list[tuple[str, dict[str, Any]]] = []

    def send(name: str, **kwargs: Any) -> None:
        if name in _OURS:
            kept_back.append((name, kwargs))
        else:
            engine.send(name, **kwargs)

    here = replace(engine, send=send)
    plan_job(here, job_id)
    if read_outcome(engine.buckets.main, job_id) is not None:
        return
    if engine.documents(job_id).plan.parts > 1:
        for name, kwargs in kept_back:
            engine.send(name, **kwargs)
        return
    if engine.documents(job_id).plan.parts:
        score_part(here, job_id, 0, holder)
    finalize(engine, job_id)
