"""Writes how far a load of a job is, and how it has ended."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping

from scoreline.storage import keys
from scoreline.storage.errors import ObjectNotFound, PreconditionFailed, StoreUnavailable
from scoreline.storage.objects.base import if_unchanged
from scoreline.tasks.databases.registry import Receipt
from scoreline.tasks.dispatch.dispatcher import Dispatcher
from scoreline.tasks.job.loads import LoadProgress, LoadRequest, LoadState, read_progress

_TRIES = 20


def totals(request: LoadRequest, state: LoadState, receipts: Mapping[int, Receipt], parts: int) -> LoadProgress:
    """Return how far a load is, by its receipts."""
    return LoadProgress(
        number=request.number,
        state=state,
        parts=parts,
        parts_done=len(receipts),
        rows=sum(receipt.rows for receipt in receipts.values()),
        set_aside=sum(receipt.set_aside for receipt in receipts.values()),
    )


def end_load(dispatcher: Dispatcher, job_id: str, request: LoadRequest, ended: LoadProgress) -> None:
    """Record how a load has ended, unless a later request has ended, or another message has loaded everything."""
    main, key = dispatcher.buckets.main, keys.load_ended(job_id, request.load_id)
    for _ in range(_TRIES):
        known, etag = None, None
        with contextlib.suppress(ObjectNotFound):
            etag = main.head(key).etag
            known = read_progress(main, job_id, request.load_id, ended=True)
        if known is not None and (known.number, known.state == "loaded") >= (ended.number, ended.state == "loaded"):
            return
        with contextlib.suppress(PreconditionFailed):
            main.put(key, ended.to_json(), mode=if_unchanged(etag))
            return
    raise StoreUnavailable(f"{main.uri(key)} was changed {_TRIES} times meanwhile: try again")
