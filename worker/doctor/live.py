"""Whether anybody works: what depends on other processes, and is therefore never an error."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

from scoreline.storage.errors import LedgerUnavailable, QueueUnavailable, describe
from scoreline.tasks.dispatch.queue import CLOCK_QUEUE, QUEUE
from scoreline.worker.doctor.base import Finding, ok, warning
from scoreline.worker.doctor.setup import Setup

_START = "start one: celery -A scoreline worker; on Heroku: heroku ps:scale worker=1"
SHORTEST_SILENCE_S = 120.0
"""A tick may wait a while for a worker that is busy."""


def workers(setup: Setup) -> Iterator[Finding]:
    """Ask every worker on the broker which queues it reads, and wait a second for answers."""
    try:
        answers = setup.broker.ask_workers("active_queues")
    except QueueUnavailable as fault:
        yield warning(describe(fault), "mend redis")
        return
    readers = {
        queue: [name for name, read in answers.items() if queue in _names(read)] for queue in (QUEUE, CLOCK_QUEUE)
    }
    others = len(answers.keys() - set(chain.from_iterable(readers.values())))
    if not any(readers.values()):
        also = f" ({others} of other applications do)" if others else ""
        yield warning(f"no worker answers{also}: jobs will wait", _START)
        return
    for queue, names in readers.items():
        if not names:
            yield warning(
                f"no worker reads the queue {queue!r}",
                "start workers without -Q, or with both: -Q scoreline,scoreline.clock",
            )
    if all(readers.values()):
        yield ok(f"those that answer: {', '.join(sorted(readers[QUEUE]))}")


def clock(setup: Setup) -> Iterator[Finding]:
    """Whether beat ticks, and a worker does what it asks for."""
    try:
        since_s = setup.ledger.seconds_since_tick()
    except LedgerUnavailable as fault:
        yield warning(describe(fault), "mend redis")
        return
    if silent := silence(setup):
        yield warning(
            f"{silent}: lost parts are not found, schedules stand still",
            "run exactly one beat (celery -A scoreline beat; heroku ps:scale beat=1), and a worker",
        )
    else:
        yield ok(f"ticked {since_s or 0:.0f} s ago")


def silence(setup: Setup) -> str:
    """Say since when the clock does not tick; nothing where it does."""
    since_s = setup.ledger.seconds_since_tick()
    if since_s is None:
        return "the clock has not ticked, or not within a day"
    if since_s > max(3 * setup.worker.tick_s, SHORTEST_SILENCE_S):
        return f"the clock ticked {since_s:,.0f} s ago"
    return ""


def _names(queues: object) -> set[str]:
    """Return the names of the queues that a worker says to read."""
    return {queue["name"] for queue in queues} if isinstance(queues, list) else set()
