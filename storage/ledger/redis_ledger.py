"""The ledger in Redis or Valkey. The only module that imports redis."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

import redis
from redis.exceptions import RedisError, ResponseError

from storage.errors import LedgerError, LedgerLost, LedgerUnavailable
from storage.ledger.base import Completed, Progress, Started

LIFE_AFTER_OUTCOME_S = 24 * 3600
LIFE_S = 30 * 24 * 3600
"""Bound for a job that never ends; the record is in the bucket."""


class RedisLedger:
    """Ledger of all jobs; a job's keys share one hash tag, so that they live on one node of a cluster.

    Parameters
    ----------
    url : str
        ``redis://`` or ``rediss://``.
    connect_timeout_s, timeout_s : float
        Seconds to wait for a connection, and for an answer.
    """

    def __init__(self, url: str, *, connect_timeout_s: float = 5, timeout_s: float = 10) -> None:
        self._address = address(url)
        options: dict[str, Any] = {"ssl_cert_reqs": None} if url.startswith("rediss://") else {}
        self._redis = redis.Redis.from_url(
            url,
            socket_connect_timeout=connect_timeout_s,
            socket_timeout=timeout_s,
            health_check_interval=25,
            socket_keepalive=True,
            decode_responses=True,
            **options,
        )
        folder = Path(__file__).parent
        self._begin, self._start, self._complete = (
            self._redis.register_script((folder / f"{name}.lua").read_text()) for name in ("begin", "start", "complete")
        )

    def ping(self) -> None:
        """Raise `LedgerUnavailable` where Redis does not answer."""
        with self._translated():
            self._redis.ping()

    def begin(self, job_id: str, plan_sha256: str, parts: int, window: int) -> list[int]:
        """Open the ledger of a job, once; returns the parts to dispatch now.

        Raises
        ------
        LedgerError
            The ledger is of another plan.
        """
        keys = _keys(job_id)
        with self._translated():
            first = self._begin(keys=keys[:3], args=[plan_sha256, parts, window])
            for key in keys:
                self._redis.expire(key, LIFE_S)
        return [int(part) for part in first]

    def start(self, job_id: str, plan_sha256: str, part: int, lease_s: float) -> Started:
        """Note that somebody scores `part` for up to `lease_s` seconds."""
        with self._translated():
            done, attempt, left = self._start(keys=_keys(job_id)[:4], args=[plan_sha256, part, time.time() + lease_s])
        return Started(done=bool(done), attempt=int(attempt), all_done=int(left) == 0)

    def release(self, job_id: str, part: int) -> None:
        """Take back a start that ended in a transient error: it is no attempt."""
        _, _, leases, attempts, _ = _keys(job_id)
        with self._translated():
            self._redis.zrem(leases, part)
            self._redis.hincrby(attempts, str(part), -1)

    def complete(
        self, job_id: str, plan_sha256: str, part: int, *, rows: int, rejected: int, failure: str = ""
    ) -> Completed:
        """Count a part, once; a second call changes nothing and is given no next part."""
        with self._translated():
            next_part, left = self._complete(keys=_keys(job_id), args=[plan_sha256, part, rows, rejected, failure])
        return Completed(next_part=None if next_part < 0 else int(next_part), all_done=int(left) == 0)

    def close(self, job_id: str) -> None:
        """Note that the outcome is written, and let the ledger fade."""
        keys = _keys(job_id)
        with self._translated():
            self._redis.hset(keys[0], "closed", "1")
            for key in keys:
                self._redis.expire(key, LIFE_AFTER_OUTCOME_S)

    def progress(self, job_id: str) -> Progress | None:
        """How far a job is; None where Redis knows nothing of it."""
        state_key, *_, failed_key = _keys(job_id)
        with self._translated():
            state = cast(dict[str, str], self._redis.hgetall(state_key))
            failed = cast(dict[str, str], self._redis.hgetall(failed_key))
        if "plan" not in state:
            return None
        return Progress(
            parts=int(state["parts"]),
            parts_done=int(state["done"]),
            parts_failed=len(failed),
            rows=int(state["rows"]),
            rejected=int(state["rejected"]),
            failures={int(part): reason for part, reason in failed.items()},
            closed="closed" in state,
        )

    def __repr__(self) -> str:
        return f"RedisLedger({self._address!r})"

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except ResponseError as error:
            if "ANOTHERPLAN" in str(error):
                raise LedgerError("the ledger in Redis is of another plan than this job's") from error
            if "LOST" in str(error):
                raise LedgerLost("Redis knows nothing of this job any more: it was emptied") from error
            raise LedgerUnavailable(f"Redis at {self._address} refused: {error}") from error
        except RedisError as error:
            raise LedgerUnavailable(f"cannot reach Redis at {self._address}: {error}") from error


def address(url: str) -> str:
    """Host and port of a URL, without what is secret in it.

    >>> address("redis://:secret@example.org:6380/0")
    'example.org:6380'
    """
    parts = urlsplit(url)
    return f"{parts.hostname or 'localhost'}:{parts.port or 6379}"


def _keys(job_id: str) -> list[str]:
    return [f"scoreline:{{{job_id}}}:{kind}" for kind in ("state", "done", "leases", "attempts", "failed")]
