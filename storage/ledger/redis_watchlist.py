"""The watchlist in Redis, which all processes of a deployment share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from itertools import batched, compress
from typing import Any, cast

from scoreline.storage.ledger import redis_keys
from scoreline.storage.ledger.base import LIFE_S
from scoreline.storage.ledger.watchlist import THOROUGH_S, JobState

_BATCH = 1_000
"""Number of jobs that are added with one command, or checked in one round trip."""


class RedisWatchlist:
    """The jobs under way in one bucket (see `Watchlist`).

    Parameters
    ----------
    client : redis.Redis
        Client that the ledger uses.
    scripts : mapping of str to script
        The scripts of the ledger, by name.
    namespace : str
        Name of the bucket that contains the jobs.
    translate_errors : callable
        Returns a context manager that turns errors of the client into errors of `scoreline.storage.errors`. Its
        argument is the key of a job if the data at this key may be damaged.
    now : callable
        Returns the time to pass to a script; empty if the script uses the clock of the server.
    """

    def __init__(
        self,
        client: Any,
        scripts: Mapping[str, Any],
        namespace: str,
        translate_errors: Callable[..., AbstractContextManager[None]],
        now: Callable[[], str],
    ) -> None:
        self._client = client
        self._scripts = scripts
        self._namespace = namespace
        self._translate_errors = translate_errors
        self._now = now
        self._key = self._key_of("watchlist")

    def lock(self, what: str, holder: str, seconds: float) -> bool:
        """Acquire or renew a lock (see `Watchlist.lock`)."""
        return self._lock(what, holder, max(1, int(1000 * seconds)))

    def unlock(self, what: str, holder: str) -> None:
        """Release a lock (see `Watchlist.unlock`)."""
        self._lock(what, holder, 0)

    def add(self, job_ids: Iterable[str]) -> None:
        """Add jobs (see `Watchlist.add`)."""
        with self._translate_errors():
            for some in batched(job_ids, _BATCH):
                self._client.zadd(self._key, dict.fromkeys(some, 0), nx=True)

    def remove(self, job_id: str) -> None:
        """Remove a job (see `Watchlist.remove`)."""
        with self._translate_errors():
            self._client.zrem(self._key, job_id)

    def holds(self, job_ids: Sequence[str]) -> Sequence[str]:
        """Return the jobs on the list (see `Watchlist.holds`)."""
        if not job_ids:
            return []
        with self._translate_errors():
            scores = cast(list[float | None], self._client.zmscore(self._key, list(job_ids)))
        return [job_id for job_id, score in zip(job_ids, scores, strict=True) if score is not None]

    def take(self, limit: int, again_s: float) -> Sequence[str]:
        """Return jobs to check (see `Watchlist.take`)."""
        with self._translate_errors():
            return cast(list[str], self._scripts["take"](keys=[self._key], args=[self._now(), limit, again_s]))

    def put_off(self, job_id: str, seconds: float) -> None:
        """Postpone the next check of a job (see `Watchlist.put_off`)."""
        with self._translate_errors():
            self._scripts["put_off"](keys=[self._key], args=[self._now(), job_id, seconds])

    def states(self) -> Sequence[JobState]:
        """Return the state of every job, with one round trip for each `_BATCH` jobs (see `Watchlist.states`)."""
        found: list[JobState] = []
        with self._translate_errors():
            job_ids = cast(list[str], self._client.zrange(self._key, 0, -1))
            for some in batched(job_ids, _BATCH):
                with self._client.pipeline(transaction=False) as pipe:
                    for job_id in some:
                        key = redis_keys.of_job(self._namespace, job_id, "state")
                        self._scripts["state"](keys=[key], client=pipe)
                    found += map(_state, some, pipe.execute())
        return found

    def due(self, job_ids: Sequence[str], window: int) -> Sequence[str]:
        """Return the jobs to reconcile (see `Watchlist.due`)."""
        arguments = [self._now(), window, THOROUGH_S, LIFE_S]
        found: list[str] = []
        for some in batched(job_ids, _BATCH):
            with self._translate_errors(), self._client.pipeline(transaction=False) as pipe:
                for job_id in some:
                    keys = [redis_keys.of_job(self._namespace, job_id, what) for what in ("state", "steps")]
                    self._scripts["due"](keys=keys, args=arguments, client=pipe)
                found += compress(some, map(int, pipe.execute()))
        return found

    def looked_at(self, job_id: str) -> None:
        """Record that a job was compared with the bucket (see `Watchlist.looked_at`)."""
        arguments = ["renew", "look", self._now(), THOROUGH_S, 0, LIFE_S]
        key = redis_keys.of_job(self._namespace, job_id, "steps")
        with self._translate_errors(key):  # if the data is damaged, the reconciler deletes the ledger
            self._scripts["step"](keys=[key], args=arguments)

    def _lock(self, what: str, holder: str, milliseconds: int) -> bool:
        with self._translate_errors():
            return bool(self._scripts["lock"](keys=[self._key_of(what)], args=[holder, milliseconds]))

    def _key_of(self, what: str) -> str:
        return redis_keys.of_bucket(self._namespace, what)


def _state(job_id: str, answer: list[Any]) -> JobState:
    if not answer:
        return JobState(job_id=job_id, planned=False)
    work, parts, parts_done, rows, in_flight, stopped = answer
    return JobState(
        job_id=job_id,
        planned=True,
        work=work,
        parts=int(parts),
        parts_done=int(parts_done),
        rows=int(rows),
        in_flight=int(in_flight),
        stopped=stopped,
    )
