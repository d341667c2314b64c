"""Submits the jobs of rows: after the commit of their transaction, and again after an outage.

A job is submitted with the id in its row, each time with the same arguments. `Client.submit` then creates at most one
job, however many processes submit it, and whether or not an earlier attempt got through.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from django.apps import apps
from django.db import router, transaction
from django.utils import timezone

from scoreline.storage.audit import acting_as
from scoreline.storage.errors import InvalidRequest, JobConflict, ScorelineError, describe
from scoreline.tasks.django.project_client import client
from scoreline.tasks.django.scoring.defaults import REFUSED, SUBMITTING
from scoreline.tasks.django.scoring.job_row import JobRow
from scoreline.tasks.django.scoring.observed import Observed, observe, record
from scoreline.tasks.job.documents import read_job

log = logging.getLogger(__name__)

PASSING = 5
"""Maximum number of rows that a request submits in passing."""
_AGAIN_AFTER = timedelta(seconds=60)
"""Time after which another process may try a row: the first attempt has ended by then, because a client waits for at
most some ten seconds for each service."""


@dataclass(kw_only=True)
class Resent:
    """What `send_waiting` has done."""

    sent: int = 0
    refused: int = 0
    waiting: int = 0
    """Rows that could not be submitted."""
    error: str = ""
    """Why not; of several rows, the last one."""


def models() -> Iterator[type[JobRow]]:
    """Yield the models of the project that derive from `Scoring` and have a table of their own."""
    for model in apps.get_models():
        if issubclass(model, JobRow) and model._meta.get_field("job_id").model is model:
            yield model


def rows_of(model: type[JobRow]) -> Any:
    """Return the rows of a model in the database to which it is written, because a replica may lag behind."""
    return model._base_manager.using(router.db_for_write(model))


def send(row: JobRow) -> None:
    """Submit the job of a row, and record in the row what became of it.

    Raises
    ------
    ScorelineError
        The job could not be submitted. The row keeps its state and says why.
    """
    rows = type(row)._base_manager.using(row._state.db).filter(pk=row.pk, state=SUBMITTING)
    now = timezone.now()
    rows.update(tried=now)
    try:
        found = client()
        try:
            with acting_as(row.submitter):
                found.submit(row.model, row.inputs, **row.request)
        except JobConflict:
            # An earlier attempt may have submitted the job with the defaults of another release
            spec = read_job(found.buckets.main, row.job_id).spec
            if (spec.model, spec.inputs) != (row.model, tuple(row.inputs)):
                raise
        seen = observe(found, row.job_id, knows_run=0, now=now)
    except InvalidRequest as error:
        log.error("scoring.refused", extra={"job_id": row.job_id, "error": describe(error)})
        seen = Observed.without_job(REFUSED, describe(error), now)
    except ScorelineError as error:
        log.warning("scoring.waiting", extra={"job_id": row.job_id, "error": describe(error)})
        rows.update(error=describe(error))
        reload(row)
        raise
    record(row, seen)
    reload(row)


def after_commit(row: JobRow, using: str) -> None:
    """Submit the job of a row when the present transaction is committed. Errors are logged, and the row stays."""
    transaction.on_commit(lambda: send_first(row), using=using, robust=True)


def send_first(row: JobRow) -> None:
    """Submit the job of a row that was just committed. If that succeeds, submit a few others that wait."""
    try:
        send(row)
    except ScorelineError:
        return
    send_waiting(PASSING, waited=_AGAIN_AFTER)


def send_passing() -> None:
    """Submit a few jobs that wait, because the services answer."""
    send_waiting(PASSING, waited=_AGAIN_AFTER)


def send_waiting(limit: int | None = None, *, waited: timedelta = timedelta(0)) -> Resent:
    """Submit the jobs of rows that have the state ``submitting``, the oldest first. Stop at the first outage.

    Parameters
    ----------
    limit : int, optional
        Maximum number of rows.
    waited : timedelta
        Only rows that no process has tried for this long.
    """
    done = Resent()
    for model in models():
        due = rows_of(model).filter(state=SUBMITTING)
        due = due.filter(tried__lte=timezone.now() - waited).order_by("tried", "pk")
        left = None if limit is None else limit - done.sent - done.refused - done.waiting
        for row in list(due[:left]):
            try:
                send(row)
            except ScorelineError as error:
                done.waiting, done.error = done.waiting + 1, describe(error)
                if error.transient:
                    return done
            except Exception as error:  # of a receiver of `on_ended`, which must not keep other rows waiting
                log.exception("scoring.receiver_failed", extra={"job_id": row.job_id})
                done.waiting, done.error = done.waiting + 1, describe(error)
            else:
                done.refused += row.state == REFUSED
                done.sent += row.state != REFUSED
    return done


def reload(row: JobRow) -> None:
    """Give an instance the values that its row has in the database."""
    names = ("state", "version", "output", "rows", "rejected", "total_rows", "error", "reason", "run", "tried")
    row.refresh_from_db(using=row._state.db, fields=[*names, "submitted", "ended"])
