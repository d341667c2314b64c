"""Removes the results of all jobs that need not be kept any longer, once a day and in pieces.

A round lists the jobs once, and stores those that are due in ``jobs/_retention/state.json``. For each `scoreline.gc`
message from beat, a worker then removes some of these jobs for some seconds, until none is left. What is stored is only
a proposal: each job is examined again before it is removed. The state may therefore be lost, or be replaced by another
process.
"""

from __future__ import annotations

import json
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from itertools import batched

from scoreline.storage import keys
from scoreline.storage.audit import acting_as, submitter
from scoreline.storage.errors import DocumentCorrupt, ObjectNotFound, ScorelineError, describe
from scoreline.storage.ledger.watchlist import Watchlist
from scoreline.storage.objects.base import ObjectStore
from scoreline.storage.objects.buckets import Buckets
from scoreline.storage.typed_json import build, decode_object, moment
from scoreline.tasks.dispatch.leases import keep_renewed
from scoreline.tasks.job.documents import decoding
from scoreline.tasks.retention.due_jobs import Due, Found, find_due
from scoreline.tasks.retention.policies import Policies
from scoreline.tasks.retention.removal import Kept, Removable, examine, remove

log = logging.getLogger(__name__)

ROUND_EVERY_S = 86_400.0
"""Seconds between the beginnings of two rounds."""
PIECE_S = 20.0
"""Seconds for which a worker removes jobs for one message from beat."""
MAX_STORED = 20_000
"""Maximum number of jobs that a round stores. The next round finds the others."""
_THREADS = 8
_LOCK = "retention"
_LOCK_S = 60.0


@dataclass(frozen=True, kw_only=True)
class State:
    """The progress of a round: the content of ``jobs/_retention/state.json``."""

    begun: str
    """Time at which the round began, by the clock of the store, in UTC and ISO 8601."""
    due: tuple[Due, ...] = ()
    """The jobs that are still to be examined."""

    def to_json(self) -> bytes:
        """Encode."""
        return json.dumps(asdict(self), ensure_ascii=False).encode()

    @classmethod
    def from_json(cls, data: bytes) -> State:
        """Decode and check."""
        state = build(cls, decode_object(data))
        moment(state.begun, "begun")
        return state


@dataclass(kw_only=True)
class Report:
    """What was done, or what would be done."""

    removed: list[Removable] = field(default_factory=list)
    kept: list[Kept] = field(default_factory=list)
    """The jobs that are due but stay."""
    failed: list[Kept] = field(default_factory=list)
    """The jobs that could not be examined or removed, and the error. The next round tries again."""
    young: Counter[str] = field(default_factory=Counter)
    """Number of jobs that are not due, by reason."""


def preview(buckets: Buckets, policies: Policies, now: datetime | None = None) -> Report:
    """Return what a round would remove, without writing anything."""
    now_s = (now or datetime.now(UTC)).timestamp()
    found = _find(buckets.main, policies, now_s)
    report = Report(young=found.kept)
    for _ in _work_off(buckets, policies, found.due, now_s, report, lambda item: None):
        pass
    return report


def collect(buckets: Buckets, policies: Policies) -> Report:
    """Remove the results of all jobs that need not be kept any longer, and return what was done."""
    now_s = _store_time(buckets.main)
    found = _find(buckets.main, policies, now_s)
    buckets.main.delete_many(found.without_job)
    report = Report(young=found.kept)
    for _ in _work_off(buckets, policies, found.due, now_s, report, lambda item: remove(buckets, item)):
        pass
    return report


def collect_piece(
    buckets: Buckets,
    watchlist: Watchlist,
    policies: Callable[[], Policies],
    holder: str,
    clock: Callable[[], float] = time.monotonic,
) -> Report | None:
    """Go on with the round under way, or begin a round if the last one began a day ago. Stop after `PIECE_S` seconds.

    Only one process at a time does this. The lock only saves work: two processes may remove the same jobs at once.

    Returns
    -------
    Report or None
        What was done; None if nothing is due, or if another process is at work.
    """
    if not watchlist.lock(_LOCK, holder, _LOCK_S):
        return None
    try:
        with keep_renewed(lambda: watchlist.lock(_LOCK, holder, _LOCK_S), _LOCK_S / 3):
            return _do_piece(buckets, policies, clock, clock() + PIECE_S)
    finally:
        watchlist.unlock(_LOCK, holder)


def _do_piece(
    buckets: Buckets, read_policies: Callable[[], Policies], clock: Callable[[], float], end_s: float
) -> Report | None:
    main = buckets.main
    state = read_state(main)
    if state is not None and not state.due and _seconds_since(state.begun) < ROUND_EVERY_S:
        return None
    policies, now_s, report = read_policies(), _store_time(main), Report()
    if state is None or not state.due:
        found = _find(main, policies, now_s)
        main.delete_many(found.without_job)
        report.young = found.kept
        state = State(begun=_text(now_s), due=tuple(found.due[:MAX_STORED]))
        main.put(keys.retention_state(), state.to_json())
    if not state.due:
        return report
    done = 0
    try:
        for count in _work_off(buckets, policies, state.due, now_s, report, lambda item: remove(buckets, item)):
            done += count
            if clock() >= end_s:
                break
    finally:
        main.put(keys.retention_state(), replace(state, due=state.due[done:]).to_json())
    return report


def _find(main: ObjectStore, policies: Policies, now_s: float) -> Found:
    return find_due(main, policies, now_s) if policies.removes else Found()


def _store_time(main: ObjectStore) -> float:
    """Write an object, and return the time at which the store wrote it, in seconds since 1970.

    The ages of jobs are measured by the clock of the store. If the clock of this computer were used, and ran ahead,
    results would be removed too early.
    """
    key = keys.retention_clock()
    main.put(key, b"")
    return next(info.modified for info in main.list(key) if info.key == key)


def _work_off(
    buckets: Buckets,
    policies: Policies,
    due: Sequence[Due],
    now_s: float,
    report: Report,
    act: Callable[[Removable], Kept | None],
) -> Iterator[int]:
    """Examine jobs, and act on those that can be removed. After every few jobs, yield the number of these jobs.

    An error in one job does not stop the others.
    """
    person = submitter()

    def do(item: Due) -> None:
        with acting_as(person.who, person.where):  # other threads do not know the person
            examine_and_act(item)

    def examine_and_act(item: Due) -> None:
        try:
            found = examine(buckets, policies, item, now_s)
            kept = found if isinstance(found, Kept) else act(found)
        except ScorelineError as error:
            log.error("retention.failed", extra={"job_id": item.job_id, "error": describe(error)})
            report.failed.append(Kept(job_id=item.job_id, why=describe(error)))
            return
        if kept is not None:
            report.kept.append(kept)
        elif isinstance(found, Removable):
            report.removed.append(found)

    with ThreadPoolExecutor(_THREADS, thread_name_prefix="retention") as pool:
        for few in batched(due, _THREADS):
            list(pool.map(do, few))
            yield len(few)


def read_state(main: ObjectStore) -> State | None:
    """Return the progress of the latest round; None if there is none, or if the document is malformed."""
    try:
        with decoding(main, keys.retention_state()):
            return State.from_json(main.get(keys.retention_state()).data)
    except (ObjectNotFound, DocumentCorrupt):
        return None


def _text(now_s: float) -> str:
    return datetime.fromtimestamp(now_s, UTC).isoformat(timespec="seconds")


def _seconds_since(begun: str) -> float:
    return datetime.now(UTC).timestamp() - datetime.fromisoformat(begun).timestamp()


def total(found: Iterable[Removable]) -> tuple[int, int]:
    """Return the number of objects that are removed with some jobs, and their size in bytes."""
    tombstones = [item.tombstone for item in found]
    return sum(item.objects for item in tombstones), sum(item.size for item in tombstones)
