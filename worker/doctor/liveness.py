"""Checks that workers and beat are running. If they are not running, the finding is only a warning."""

from __future__ import annotations

from collections.abc import Iterator

from scoreline.storage.errors import LedgerUnavailable, QueueUnavailable, describe
from scoreline.worker.doctor.check import Finding, ok, warning
from scoreline.worker.doctor.context import Context

DEV = "SCORELINE_DEV"
"""Environment variable that `scoreline dev` sets. Embedded services are new, so no tick has run before."""
_FIX_REDIS = "fix the check `redis` first"
SHORTEST_SILENCE_S = 120.0
"""Seconds without a tick before a warning is possible. A tick may have to wait for a busy worker."""


def workers(context: Context) -> Iterator[Finding]:
    """Check that workers read the deployment's queues. Wait one second for the answers of workers."""
    try:
        answers = context.broker.ask_workers("active_queues")
    except QueueUnavailable as fault:
        yield warning(describe(fault), _FIX_REDIS)
        return
    ours = context.broker.names
    own = {name: queues for name, read in answers.items() if ours.are_read_by(queues := _queue_names(read))}
    own_queues = (ours.jobs, ours.clock, ours.steps, ours.parts)
    readers = {queue: [name for name, queues in own.items() if queue in queues] for queue in own_queues}
    others = len(answers) - len(own)
    if not own:
        also = f" ({others} of other applications or buckets {'does' if others == 1 else 'do'})" if others else ""
        yield warning(
            f"no worker answers{also}, so jobs will wait",
            "start one: celery -A scoreline worker; on Heroku: heroku ps:scale worker=1",
        )
        return
    for queue, names in readers.items():
        if not names:
            yield warning(
                f"no worker reads the queue {queue!r}",
                f"start workers of this release, without -Q or with all queues: -Q {','.join(own_queues)}",
            )
    gauges = context.broker.ask_workers("gauges")
    for name in sorted(readers[ours.jobs]):
        if (gauges.get(name) or {}).get("processes") == 0:
            yield warning(f"{name} has no process that could score", "restart it")
            return
    if all(readers.values()):
        yield ok(f"{', '.join(sorted(own))} answered")


def clock(context: Context) -> Iterator[Finding]:
    """Check that beat sends ticks and that a worker runs them."""
    try:
        since_s = context.ledger.seconds_since_tick()
    except LedgerUnavailable as fault:
        yield warning(describe(fault), _FIX_REDIS)
        return
    if since_s is None and context.environ.get(DEV):
        yield ok("no tick yet: in `scoreline dev`, only --beat starts the clock")
    elif silent := clock_silence(context):
        yield warning(
            f"{silent}, so lost parts are not found and schedules do not run",
            "run exactly one beat (celery -A scoreline beat; on Heroku: heroku ps:scale beat=1) and a worker",
        )
    else:
        yield ok(f"the last tick was {since_s or 0:.0f} s ago")


def clock_silence(context: Context) -> str:
    """Return a message if no tick has run recently; otherwise return an empty text."""
    since_s = context.ledger.seconds_since_tick()
    if since_s is None:
        return "the clock has not ticked within a day"
    if since_s > max(3 * context.worker.tick_s, SHORTEST_SILENCE_S):
        return f"the clock last ticked {since_s:,.0f} s ago"
    return ""


def _queue_names(queues: object) -> set[str]:
    """Return the names of the queues in a worker's answer. A failed answer is not a list, and has no names."""
    return {queue["name"] for queue in queues} if isinstance(queues, list) else set()
