"""Requests loads of accepted results into tables, with requirements.txt alone. Workers do the loading."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from scoreline.storage import audit, keys
from scoreline.storage.errors import (
    InvalidRequest,
    ObjectNotFound,
    PreconditionFailed,
    StoreUnavailable,
)
from scoreline.storage.objects.base import IfMatch, ObjectStore, if_unchanged
from scoreline.tasks.dispatch.dispatcher import Dispatcher, send_step
from scoreline.tasks.dispatch.job_index import note_end_again
from scoreline.tasks.job.documents import COMPLETE, Job, Outcome, decoding, read_job, read_outcome
from scoreline.tasks.job.ended import check_has_results, ended_outcome
from scoreline.tasks.job.loads import LoadRequest, load_ids, read_progress, read_request, requested_again

_TRIES = 20


def request_load(
    dispatcher: Dispatcher,
    job_id: str,
    *,
    into: str,
    key: Sequence[str] | None = None,
    columns: Sequence[str] | None = None,
    mode: str | None = None,
    create: bool | None = None,
    database: str | None = None,
    again: bool = False,
    older: bool = False,
) -> LoadRequest:
    """Ask the workers to load the accepted results of a job into a table. Return the request.

    Parameters
    ----------
    again : bool
        Whether parts are loaded that were loaded before, for example because rows were deleted from the table.
    older : bool
        Whether the values of newer jobs are replaced.

    Raises
    ------
    InvalidRequest
        An option is malformed, or the results of the job are not accepted.
    """
    main = dispatcher.buckets.main
    job, outcome = read_job(main, job_id), check_accepted(main, job_id)
    for option, names in (("key", key), ("columns", columns)):
        if isinstance(names, str):
            raise InvalidRequest(f"{option} {names!r} is not a list of names")
    given: dict[str, Any] = {
        "into": into,
        "key": tuple(key) if key else None,
        "into_columns": tuple(columns) if columns else None,
        "mode": mode,
        "create": create,
        "database": database,
    }
    asked = LoadRequest.of(replace(job.spec, **given).check())
    if asked is None:
        raise InvalidRequest("into is empty: name a table")
    return _record(dispatcher, job, outcome, asked, again=again, older=older)


def load_again(dispatcher: Dispatcher, job_id: str) -> list[LoadRequest]:
    """Ask the workers to load what is missing of all loads of a job that have ended otherwise than ``loaded``."""
    main = dispatcher.buckets.main
    job, outcome = read_job(main, job_id), check_accepted(main, job_id)
    found = []
    for load_id in load_ids(job.spec, outcome.loads):
        ended = read_progress(main, job_id, load_id, ended=True)
        if ended is not None and ended.state != "loaded":
            request = read_request(main, job_id, load_id, LoadRequest.of(job.spec))
            found.append(_record(dispatcher, job, outcome, request, again=False, older=False))
    return found


def expect_loads(dispatcher: Dispatcher, job_id: str) -> None:
    """Mark a job that a person is about to accept, so that its loads begin even if the caller dies meanwhile."""
    if LoadRequest.of(read_job(dispatcher.buckets.main, job_id).spec) is not None:
        dispatcher.mark_active(job_id)


def begin_loads(dispatcher: Dispatcher, job_id: str) -> None:
    """Send the message that loads the results of a job which a person has accepted, if any are to be loaded."""
    main = dispatcher.buckets.main
    job, outcome = read_job(main, job_id), read_outcome(main, job_id)
    if outcome is not None and outcome.state in COMPLETE and load_ids(job.spec, outcome.loads):
        dispatcher.mark_active(job_id)
        send_step(dispatcher, "load", job_id)


def check_accepted(main: ObjectStore, job_id: str) -> Outcome:
    """Return the outcome of a job; raises `InvalidRequest` unless its results are accepted."""
    outcome = ended_outcome(main, job_id)
    if outcome.state == "blocked":
        raise InvalidRequest(
            f"the results of job {job_id} are not accepted: `scoreline status {job_id}` says why, and `scoreline "
            f"accept {job_id} --reason TEXT` accepts them"
        )
    check_has_results(job_id, outcome)
    return outcome


def _record(
    dispatcher: Dispatcher, job: Job, outcome: Outcome, asked: LoadRequest, *, again: bool, older: bool
) -> LoadRequest:
    main, job_id = dispatcher.buckets.main, job.spec.job_id
    details = {"table": asked.table, "mode": asked.mode, "again": again, "older": older}
    audit.record(main, action="job.load", target=job_id, details=details)
    if outcome.job is not None:  # its entry in the index still says that it is under way, and so will its marker
        note_end_again(main, job, outcome)
    dispatcher.mark_active(job_id)
    request = _write(main, job, asked, again=again, older=older)
    _list(main, job, asked.load_id)
    dispatcher.mark_active(job_id)  # a reconciler may have removed the marker before the outcome listed the load
    send_step(dispatcher, "load", job_id)
    return request


def _write(main: ObjectStore, job: Job, asked: LoadRequest, *, again: bool, older: bool) -> LoadRequest:
    """Write the request with the next number."""
    job_id, first = job.spec.job_id, LoadRequest.of(job.spec)
    key = keys.load(job_id, asked.load_id)
    for _ in range(_TRIES):
        known = first if first is not None and first.load_id == asked.load_id else None
        etag = None
        try:
            etag = main.head(key).etag
            known = read_request(main, job_id, asked.load_id, first)
        except ObjectNotFound:
            pass
        request = requested_again(asked, known, again=again, older=older)
        try:
            main.put(key, request.to_json(), mode=if_unchanged(etag))
            return request
        except PreconditionFailed:
            continue
    raise StoreUnavailable(f"{main.uri(key)} was changed {_TRIES} times meanwhile: try again")


def _list(main: ObjectStore, job: Job, load_id: str) -> None:
    """Name a load in the outcome of its job, unless the spec of the job names it."""
    job_id = job.spec.job_id
    if load_id in load_ids(job.spec, ()):
        return
    key = keys.outcome(job_id)
    for _ in range(_TRIES):
        got = main.get(key)
        with decoding(main, key):
            outcome = Outcome.from_json(got.data)
        if load_id in outcome.loads:
            return
        try:
            main.put(key, replace(outcome, loads=(*outcome.loads, load_id)).to_json(), mode=IfMatch(got.info.etag))
            return
        except PreconditionFailed:
            continue
    raise StoreUnavailable(f"{main.uri(key)} was changed {_TRIES} times meanwhile: try again")
