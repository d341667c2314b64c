"""Divides the survey of many small objects among the processes of a worker (see `storage/tables/survey_orders`)."""

from __future__ import annotations

import base64
import contextlib
import json
import logging
import time
import zlib
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Any

import pyarrow as pa

from scoreline.storage.errors import ScorelineError, describe
from scoreline.storage.objects import requests
from scoreline.storage.objects.buckets import Buckets
from scoreline.storage.tables.base import Pinned, Span, Survey
from scoreline.storage.tables.formats import Tables
from scoreline.storage.tables.options import ReadOptions
from scoreline.storage.tables.small_objects import Kept, KeptObjects
from scoreline.storage.tables.spool import Spool
from scoreline.storage.tables.survey_orders import MAX_SHARES, Order, SurveyOrders
from scoreline.tasks.inputs.survey_ahead import Item, surveys

log = logging.getLogger(__name__)

SHARE_OBJECTS = 64
"""Number of objects of a share. A process surveys them in about 50 ms, so that no process waits longer for another."""
_MOST_OWN = 2
"""Maximum number of shares that are not offered, so that the planner has their objects in memory for the sample."""
_POLL_S = 0.002
_PATIENCE_S = 20.0
"""Seconds that the planner waits for shares of other processes in all. It then surveys these shares itself."""


def can_share(items: Sequence[Item]) -> int:
    """Return how many of the objects, from the first one on, processes can share; 0 if sharing is not worth it.

    An object can be shared if it is empty, or if there is space for it in the spool.
    """
    count = next((n for n, (source, kept) in enumerate(items) if source.size and Kept.IN_SPOOL not in kept), len(items))
    return min(count, MAX_SHARES * SHARE_OBJECTS) if count >= 2 * SHARE_OBJECTS else 0


def survey_shared(
    survey: Callable[[Iterable[Item]], Iterator[Survey]],
    items: Sequence[Item],
    features: Collection[str],
    orders: SurveyOrders,
    may_pause: Callable[[], None],
) -> Iterator[Survey]:
    """Yield the survey of each object, in order, with the help of the idle processes of the worker.

    Objects from which rows may be sampled are not shared, because the planner keeps them in its memory. If an object
    cannot be surveyed, the error is that of the first such object.
    """
    shares = [items[start : start + SHARE_OBJECTS] for start in range(0, len(items), SHARE_OBJECTS)]
    own = next((n for n, share in enumerate(shares) if not any(Kept.IN_MEMORY in kept for _, kept in share)), _MOST_OWN)
    own = min(own, _MOST_OWN)
    order = orders.begin(_order(shares, features), len(shares), own)
    if order is None:
        yield from survey(items)
        return
    found: dict[int, list[Survey]] = {}
    under_way: deque[int] = deque()
    until: float | None = None

    def claimed() -> Iterator[Item]:
        for number, share in enumerate(shares):
            if number < own or order.claim(number):
                if number >= own:
                    order.release(number)  # the others see that it was claimed
                for item in share:
                    under_way.append(number)
                    yield item

    def join(number: int) -> list[Survey]:
        nonlocal until
        if number not in found:
            until = until or time.monotonic() + _PATIENCE_S
            answer = _wait_for(order, number, until, may_pause)
            joined = None if answer is None else _joined(answer, len(shares[number]))
            if joined is not None:
                for source, _ in shares[number]:
                    if source.size:
                        requests.note("b")  # which the other process sent for this job
            found[number] = list(survey(shares[number])) if joined is None else joined
        return found[number]

    try:
        try:
            last: Survey | None = None
            for surveyed in survey(claimed()):
                if last is None or surveyed.schema is not last.schema or surveyed.spans != last.spans:
                    last = surveyed  # objects of equal size share one, because there may be very many
                found.setdefault(under_way.popleft(), []).append(last)
        except ScorelineError:
            for number in range(under_way[0] if under_way else 0):
                join(number)  # raises the error of an earlier object
            raise
        for number in range(len(shares)):
            yield from join(number)
            del found[number]
    finally:
        order.end()


def _wait_for(order: Order, number: int, until: float, may_pause: Callable[[], None]) -> bytes | None:
    while (answer := order.answered(number)) is None and order.is_locked(number) and time.monotonic() < until:
        may_pause()
        time.sleep(_POLL_S)
    return order.answered(number) if answer is None else answer


def help_planner(order: Order, buckets: Buckets, spool: Spool, is_idle: Callable[[], bool]) -> None:
    """Survey shares of an order until none is left, or until this process has other work.

    Whatever goes wrong, the shares without an answer are left to the planner, which raises the error.
    """
    requests.leave_out_thread()
    kept = KeptObjects(for_parts=True, spool=spool)
    held: list[int] = []
    try:
        _survey_shares(order, buckets, kept, held, is_idle)
    except Exception as error:  # noqa: BLE001  # the planner surveys the shares itself, and explains what is wrong
        log.info("survey.share_left", extra={"error": describe(error)})
        kept.hand_on()
    finally:
        for number in held:
            order.release(number)


def _survey_shares(
    order: Order, buckets: Buckets, kept: KeptObjects, held: list[int], is_idle: Callable[[], bool]
) -> None:
    """Survey shares of an order. List those in `held` that are claimed, and not answered yet."""
    head, *texts = order.text.split(b"\n")
    common: dict[str, Any] = json.loads(head)
    done: dict[int, list[Survey]] = {}
    under_way: deque[int] = deque()

    def objects_of(number: int) -> list[Pinned]:
        return [
            Pinned(store=buckets[common["buckets"][bucket]], key=key, size=size, etag=etag)
            for bucket, key, size, etag in json.loads(texts[number])
        ]

    def claimed() -> Iterator[Item]:
        for number in range(order.shares):
            if is_idle() and order.claim(number):
                held.append(number)
                for source in objects_of(number):
                    under_way.append(number)
                    yield source, kept.reserve(source) & Kept.IN_SPOOL

    def finish(number: int) -> None:
        order.answer(number, _answer(done.pop(number)))
        order.release(number)
        held.remove(number)

    kept.begin(objects_of(0))  # all objects of the job are small
    options = ReadOptions(format="parquet")
    found = surveys(Tables(), claimed(), options, common["features"], kept, requests.leave_out_thread)
    with contextlib.closing(found):
        for surveyed in found:
            number = under_way.popleft()
            done.setdefault(number, []).append(surveyed)
            for earlier in [share for share in done if share != number]:
                finish(earlier)
            if not is_idle():
                break  # the planner does not use an answer that is incomplete
    kept.hand_on()  # before the last answer, so that parts find the objects
    for number in list(done):
        finish(number)


def _order(shares: Sequence[Sequence[Item]], features: Collection[str]) -> bytes:
    """Return the text of an order: a line for all shares, and one for each, as a process reads only some of many."""
    names = list(dict.fromkeys(source.store.bucket for share in shares for source, _ in share))
    places = {name: place for place, name in enumerate(names)}
    lines: list[Any] = [{"buckets": names, "features": list(features)}]
    for share in shares:
        lines.append([(places[source.store.bucket], source.key, source.size, source.etag) for source, _ in share])
    return b"\n".join(json.dumps(line).encode() for line in lines)


def _answer(found: Sequence[Survey]) -> bytes:
    schemas: list[pa.Schema] = []
    objects = []
    for survey in found:
        if not schemas or not schemas[-1].equals(survey.schema, check_metadata=True):
            schemas.append(survey.schema)
        spans = [(span.start, span.stop, span.first_row, span.rows, span.size) for span in survey.spans]
        objects.append((len(schemas) - 1, spans))
    encoded = [base64.b64encode(schema.serialize()).decode() for schema in schemas]
    # Pandas writes the number of rows into the schema, so that there may be as many schemas as objects
    return zlib.compress(json.dumps({"schemas": encoded, "objects": objects}).encode(), level=1)


def _joined(answer: bytes, objects: int) -> list[Survey] | None:
    """Return the surveys of an answer; None if it is of other objects."""
    decoded: dict[str, Any] = json.loads(zlib.decompress(answer))
    if len(decoded["objects"]) != objects:
        return None
    schemas = [pa.ipc.read_schema(pa.py_buffer(base64.b64decode(text))) for text in decoded["schemas"]]
    return [
        Survey(
            schema=schemas[schema],
            spans=tuple(
                Span(start=start, stop=stop, first_row=first, rows=rows, size=size, by_rows=True)
                for start, stop, first, rows, size in spans
            ),
        )
        for schema, spans in decoded["objects"]
    ]
