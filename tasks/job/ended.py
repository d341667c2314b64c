"""Refuses what can only be done with a job that has ended, or that has all its results."""

from __future__ import annotations

from collections.abc import Set

from scoreline.storage.errors import InvalidRequest
from scoreline.storage.objects.base import ObjectStore
from scoreline.tasks.job.documents import COMPLETE, Outcome, State, read_outcome


def ended_outcome(store: ObjectStore, job_id: str) -> Outcome:
    """Return the outcome of a job; raises `InvalidRequest` if the job is under way."""
    outcome = read_outcome(store, job_id)
    if outcome is None:
        raise InvalidRequest(f"job {job_id} is under way: wait for its end with `scoreline watch {job_id}`")
    return outcome


def check_has_results(job_id: str, outcome: Outcome, states: Set[State] = COMPLETE) -> None:
    """Raise `InvalidRequest` if a job ended without all its results, that is, in none of these states."""
    if outcome.state not in states:
        raise InvalidRequest(
            f"job {job_id} {outcome.state}, so its results are not complete: `scoreline resume {job_id}` scores the "
            "rest"
        )
