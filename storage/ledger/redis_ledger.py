"""The ledger in Redis or Valkey. Only this module and `shared_connection` import redis."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

from scoreline.storage.errors import LedgerCorrupt, LedgerFenced, LedgerLost, LedgerUnavailable
from scoreline.storage.ledger import redis_keys
from scoreline.storage.ledger.base import (
    LIFE_AFTER_OUTCOME_S,
    LIFE_S,
    LONGEST_PATIENCE_S,
    MAX_FAILED_PARTS,
    TICK_KNOWN_S,
    Completed,
    Due,
    PartLease,
    Progress,
    Recovered,
    Started,
    Stopped,
)
from scoreline.storage.ledger.redis_answers import RedisAnswers
from scoreline.storage.ledger.redis_counters import RedisCounters, to_count
from scoreline.storage.ledger.redis_waiting import RedisWaitingSteps
from scoreline.storage.ledger.redis_watchlist import RedisWatchlist
from scoreline.storage.ledger.server import Server

_CORRUPT = ("WRONGTYPE", "attempt to ", "is not an integer", "is not a valid float", "must be strings or integers")
"""Excerpts of the errors that Redis reports if a key contains something other than the ledger. With a correct ledger,
the commands and scripts cause none of these errors."""
_SCRIPTS = (
    *("begin", "dispatch", "start", "extend", "rejects", "scored", "complete", "close", "step"),
    *("lock", "take", "put_off", "due", "waiting"),
)


class RedisLedger:
    """Ledger for all jobs of one bucket (see `Ledger`).

    All keys of a job have the same hash tag, so that a cluster stores them on the same node. If the process has a
    shared connection to the server (see `shared_connection`), the ledger uses that connection and its timeouts.

    Parameters
    ----------
    url : str
        URL that begins with ``redis://`` or ``rediss://``.
    connect_timeout_s, timeout_s : float
        Seconds to wait for a connection and for an answer.
    namespace : str
        Name of the bucket that contains the jobs. The name is part of all keys, so that several buckets can share one
        Redis.
    tls : mapping of str to object, optional
        Options of redis-py for connections to a ``rediss://`` URL.
    patience_s : float
        Seconds after which the message of a part or step that no process began is sent again. The delay doubles each
        time.
    clock : callable, optional
        Returns the time in seconds since 1970, for tests. By default, all times come from the clock of the Redis
        server.
    """

    def __init__(
        self,
        url: str,
        *,
        namespace: str,
        tls: Mapping[str, Any] | None = None,
        connect_timeout_s: float = 5,
        timeout_s: float = 10,
        patience_s: float = 120,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self._address = host_and_port(url)
        self._namespace = namespace
        self._patience_s = patience_s
        import redis  # importing redis takes 0.1 s, which would slow down `--help`

        from scoreline.storage.ledger import shared_connection

        if pool := shared_connection.find_by_url(url, tls):
            self._redis = redis.Redis(connection_pool=pool)
        else:
            self._redis = redis.Redis.from_url(
                url,
                socket_connect_timeout=connect_timeout_s,
                socket_timeout=timeout_s,
                health_check_interval=25,
                socket_keepalive=True,
                decode_responses=True,
                **(tls or {}),
            )
        # A bound method would create a reference cycle with the counters, which would keep the sockets open.
        self._translate_errors = functools.partial(_translate_errors, self._address, self._redis.connection_pool)
        folder = Path(__file__).parent
        scripts = {name: (folder / f"{name}.lua").read_text() for name in ("clock", *_SCRIPTS)}
        self._scripts = {name: self._redis.register_script(scripts["clock"] + scripts[name]) for name in _SCRIPTS}
        now = functools.partial(_now, clock)
        self.watchlist = RedisWatchlist(self._redis, self._scripts, namespace, self._translate_errors, now)
        self.waiting = RedisWaitingSteps(self._scripts["waiting"], namespace, self._translate_errors, now)
        self._now = now
        self.answers = RedisAnswers(self._redis, namespace, self._translate_errors)
        self.counters = RedisCounters(self._redis, redis_keys.of_bucket(namespace, "counters"), self._translate_errors)

    def ping(self) -> None:
        """Check that Redis answers (see `Ledger.ping`)."""
        with self._translate_errors():
            self._redis.ping()

    def memory(self) -> tuple[int, int]:
        """Return the allocated memory of Redis and its memory limit, in bytes.

        A limit of 0 means that there is no limit.
        """
        with self._translate_errors():
            info = self._redis.info("memory")
        return int(info["used_memory"]), int(info.get("maxmemory", 0))

    def disconnect(self) -> None:
        """Close the connections; the next call opens new connections."""
        self._redis.connection_pool.disconnect()

    def server(self) -> Server:
        """Return the information that the server reports about itself.

        First write a key and run a script, to check that the server allows both. The key is deleted afterwards.

        Raises
        ------
        LedgerUnavailable
            The server does not answer, or refuses to write the key or to run the script.
        """
        key = redis_keys.of_bucket(self._namespace, "doctor")
        with self._translate_errors():
            self._redis.set(key, "1", px=1000)
            self._redis.delete(key)
        self.end_step("doctor", "doctor")
        config: dict[str, str] = {}
        for setting in ("maxmemory-policy", "maxclients", "save"):
            config |= self._if_allowed(self._redis.config_get, setting) or {}
        info, now = self._if_allowed(self._redis.info) or {}, self._if_allowed(self._redis.time)
        return Server.of(info, config, now)

    def _if_allowed(self, ask: Callable[..., Any], *arguments: str) -> Any:
        """Return the answer to a command, or None if the server forbids it, as many managed servers do."""
        from redis.exceptions import ResponseError

        with self._translate_errors():
            try:
                return ask(*arguments)
            except ResponseError:
                return None

    def begin(
        self, job_id: str, plan_sha256: str, parts: int, *, budget: int, recovered: Recovered | None = None
    ) -> bool:
        """Open the ledger of a job (see `Ledger.begin`)."""
        known = recovered or Recovered(done=frozenset(), rows=0, rejected=0)
        arguments = [
            plan_sha256,
            parts,
            budget,
            len(known.done),
            known.rows,
            known.rejected,
            _bitmap(known.done, parts) if recovered else b"",
            known.uncounted,
        ]
        opened = self._run("begin", self._keys(job_id)[:2], arguments)
        self._renew_expiry(job_id)
        return bool(opened)

    def dispatch(self, job_id: str, plan_sha256: str, window: int) -> Due:
        """Claim the parts to put into the queue now (see `Ledger.dispatch`)."""
        arguments = [plan_sha256, window, self._now(), self._patience_s, LONGEST_PATIENCE_S]
        left, stopped, *parts = self._run("dispatch", self._keys(job_id)[:2], arguments)
        self._renew_expiry(job_id)
        return Due(parts=tuple(map(int, parts)), all_done=int(left) == 0, stopped=stopped)

    def start(self, lease: PartLease, *, is_retry: bool = False) -> Started:
        """Take the lease of a part (see `Ledger.start`)."""
        arguments = [lease.plan_sha256, lease.part, self._now(), lease.lease_s, lease.holder, int(is_retry)]
        to_do, attempt, left, may_exist, budget = self._run("start", self._keys(lease.job_id)[:2], arguments)
        return Started(
            to_do=to_do,
            attempt=int(attempt),
            all_done=int(left) == 0,
            result_may_exist=bool(int(may_exist)),
            budget=int(budget),
        )

    def renew(self, lease: PartLease) -> bool:
        """Extend a lease (see `Ledger.renew`)."""
        return self._extend(lease, lease.lease_s, release=False)

    def release(self, lease: PartLease) -> None:
        """Release a lease after a transient error (see `Ledger.release`)."""
        self._extend(lease, self._patience_s, release=True)

    def note_rejects(self, lease: PartLease, rejected: int) -> int:
        """Record the rejected rows of a part under way (see `Ledger.note_rejects`)."""
        return int(self._run("rejects", self._keys(lease.job_id)[:1], [lease.plan_sha256, lease.part, rejected]))

    def note_scored(self, lease: PartLease, rows: int) -> None:
        """Record the scored rows of a part under way (see `Ledger.note_scored`)."""
        self._run("scored", self._keys(lease.job_id)[:1], [lease.plan_sha256, lease.part, rows])

    def complete(
        self, job_id: str, plan_sha256: str, part: int, *, rows: int, rejected: int, failure: str = ""
    ) -> Completed:
        """Count a part exactly once (see `Ledger.complete`)."""
        limits = [self._patience_s, MAX_FAILED_PARTS, LIFE_S]
        arguments = [plan_sha256, part, rows, rejected, failure, self._now(), *limits]
        next_part, left, stopped, counted = self._run("complete", self._keys(job_id), arguments)
        return Completed(
            next_part=None if int(next_part) < 0 else int(next_part),
            all_done=int(left) == 0,
            stopped=stopped,
            counted=bool(int(counted)),
        )

    def stopped(self, job_id: str) -> bool:
        """Return whether scoring should stop (see `Ledger.stopped`)."""
        with self._translate_errors():
            return self._redis.hget(self._keys(job_id)[0], "stopped") is not None

    def close(self, job_id: str) -> None:
        """Record that the outcome is written (see `Ledger.close`)."""
        self._run("close", self._keys(job_id), [LIFE_AFTER_OUTCOME_S])

    def forget(self, job_id: str) -> None:
        """Delete the ledger of a job (see `Ledger.forget`)."""
        with self._translate_errors():
            self._redis.delete(*self._keys(job_id), self._steps_key(job_id))

    def progress(self, job_id: str) -> Progress | None:
        """Return the progress of a job (see `Ledger.progress`)."""
        state_key, _, failed_key = self._keys(job_id)
        with self._translate_errors(state_key):
            state = cast(dict[str, str], self._redis.hgetall(state_key))
            failed = cast(dict[str, str], self._redis.hgetall(failed_key)) if state.get("failures", "0") != "0" else {}
        if "plan" not in state:
            return None
        in_flight = [name[1:] for name in state if name[:1] == "f" and name[1:].isdigit()]
        try:
            return Progress(
                parts=int(state["parts"]),
                parts_done=int(state["done"]),
                rows=int(state["rows"]),
                rejected=int(state["rejected"]),
                failures={int(part): reason for part, reason in failed.items()},
                in_flight=len(in_flight),
                rows_under_way=sum(int(state.get(f"r{part}", 0)) for part in in_flight),
                stopped=cast(Stopped, state.get("stopped", "")),
                uncounted=int(state.get("uncounted", 0)),
            )
        except (ValueError, KeyError) as error:
            raise _corrupt(state_key, f"{type(error).__name__}: {error}") from error

    def claim_step(self, job_id: str, step: str) -> bool:
        """Return whether the caller must send the message of a step (see `Ledger.claim_step`)."""
        return self._step("claim", job_id, step, self._patience_s) == 1

    def begin_step(self, job_id: str, step: str, seconds: float) -> int:
        """Record that the caller works on a step (see `Ledger.begin_step`)."""
        return self._step("begin", job_id, step, seconds)

    def renew_step(self, job_id: str, step: str, seconds: float) -> None:
        """Record that the caller still works on a step (see `Ledger.renew_step`)."""
        self._step("renew", job_id, step, seconds)

    def end_step(self, job_id: str, step: str, *, will_retry: bool = False) -> None:
        """Record that a step is done or will be retried (see `Ledger.end_step`)."""
        self._step("pause" if will_retry else "end", job_id, step, 0)

    def once_in(self, what: str, seconds: float) -> bool:
        """Return whether this is the first call for `what` in the given time (see `Ledger.once_in`)."""
        key = redis_keys.of_bucket(self._namespace, what)
        with self._translate_errors():
            return bool(self._redis.set(key, "1", px=int(1000 * seconds), nx=True))

    def note_processes(self, count: int, seconds: float) -> None:
        """Remember how many processes can score parts (see `Ledger.note_processes`)."""
        with self._translate_errors():
            self._redis.set(redis_keys.of_bucket(self._namespace, "processes"), count, px=int(1000 * seconds))

    def note_tick(self) -> None:
        """Record that `scoreline.tick` runs now (see `Ledger.note_tick`)."""
        with self._translate_errors():
            self._redis.set(self._tick_key(), "1", px=1000 * TICK_KNOWN_S)

    def seconds_since_tick(self) -> float | None:
        """Return how long ago `scoreline.tick` last ran, by the server's clock (see `Ledger.seconds_since_tick`)."""
        with self._translate_errors():
            left_ms = self._redis.pttl(self._tick_key())
        return None if left_ms < 0 else TICK_KNOWN_S - left_ms / 1000

    def processes(self) -> int:
        """Return the number of processes noted last (see `Ledger.processes`)."""
        with self._translate_errors():
            return to_count(cast(str | None, self._redis.get(redis_keys.of_bucket(self._namespace, "processes"))))

    def __repr__(self) -> str:
        return f"RedisLedger({self._address!r})"

    def _extend(self, lease: PartLease, seconds: float, *, release: bool) -> bool:
        arguments = [lease.plan_sha256, lease.part, lease.holder, self._now(), seconds, int(release)]
        return bool(self._run("extend", self._keys(lease.job_id)[:1], arguments))

    def _step(self, action: str, job_id: str, step: str, seconds: float) -> int:
        arguments = [action, step, self._now(), seconds, LONGEST_PATIENCE_S, LIFE_S]
        return int(self._run("step", [self._steps_key(job_id)], arguments))

    def _tick_key(self) -> str:
        return redis_keys.of_bucket(self._namespace, "tick")

    def _steps_key(self, job_id: str) -> str:
        return redis_keys.of_job(self._namespace, job_id, "steps")

    def _run(self, script: str, keys: list[str], arguments: list[Any]) -> Any:
        with self._translate_errors(keys[0]):
            return self._scripts[script](keys=keys, args=arguments)

    def _renew_expiry(self, job_id: str) -> None:
        with self._translate_errors(), self._redis.pipeline(transaction=False) as pipe:
            for key in self._keys(job_id):
                pipe.expire(key, LIFE_S)
            pipe.execute()

    def _keys(self, job_id: str) -> list[str]:
        return [redis_keys.of_job(self._namespace, job_id, what) for what in ("state", "done", "failed")]


def host_and_port(url: str) -> str:
    """Return host and port of a Redis URL, without its credentials.

    >>> host_and_port("redis://:secret@example.org:6380/0")
    'example.org:6380'
    """
    parts = urlsplit(url)
    return f"{parts.hostname or 'localhost'}:{parts.port or 6379}"


def _corrupt(key: str, reason: str) -> LedgerCorrupt:
    return LedgerCorrupt(
        f"the key {key!r} in Redis is not a ledger ({reason}): `scoreline reconcile` rebuilds it from the bucket"
    )


def _now(clock: Callable[[], float] | None) -> str:
    """Return the time to pass to a script; empty if the script uses the clock of the server."""
    return "" if clock is None else repr(clock())


@contextlib.contextmanager
def _translate_errors(where: str, connections: Any, ledger_key: str = "") -> Iterator[None]:
    """Turn errors of redis-py into errors of `scoreline.storage.errors`.

    After a failover, an open connection may lead to a server that has become a replica and refuses writes. Such
    connections are closed, so that the next call connects to the server to which the address now resolves.
    """
    from redis.exceptions import ReadOnlyError, RedisError, ResponseError

    try:
        yield
    except ReadOnlyError as error:
        connections.disconnect(inuse_connections=False)
        raise LedgerUnavailable(f"Redis at {where} refused: {error}") from error
    except ResponseError as error:
        if ledger_key and any(words in str(error) for words in _CORRUPT):
            raise _corrupt(ledger_key, str(error)) from error
        if "ANOTHERPLAN" in str(error):
            raise LedgerFenced("the ledger in Redis belongs to another plan than the one in the bucket") from error
        if "LOST" in str(error):
            raise LedgerLost(
                "Redis was emptied and has no ledger of this job: it is rebuilt from the bucket"
            ) from error
        raise LedgerUnavailable(f"Redis at {where} refused: {error}") from error
    except RedisError as error:
        raise LedgerUnavailable(f"cannot reach Redis at {where}: {error}") from error


def _bitmap(done: frozenset[int], parts: int) -> bytes:
    """Return a bitmap of the parts in `done`. Bits are numbered as in SETBIT: part 0 is the highest bit of byte 0."""
    bits = bytearray(parts // 8 + 1)
    for part in done:
        bits[part >> 3] |= 0x80 >> (part & 7)
    return bytes(bits)
