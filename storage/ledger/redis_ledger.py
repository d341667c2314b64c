"""The ledger in Redis or Valkey. Only this module, `redis_errors` and `shared_connection` import redis."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

from scoreline.storage.ledger import redis_keys
from scoreline.storage.ledger.base import (
    IDLE_KNOWN_S,
    LIFE_AFTER_OUTCOME_S,
    LIFE_S,
    LONGEST_PATIENCE_IN_QUEUE_S,
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
from scoreline.storage.ledger.redis_counters import RedisCounters, to_count, words_of_part
from scoreline.storage.ledger.redis_errors import corrupt, translate_errors
from scoreline.storage.ledger.redis_waiting import RedisWaitingSteps
from scoreline.storage.ledger.redis_watchlist import RedisWatchlist
from scoreline.storage.ledger.server import Server
from scoreline.storage.ledger.shares import EXPECTED_S, NO_TERMS, Terms

_FUNCTIONS = ("clock", "undone")
"""Functions that precede each script."""
_SCRIPTS = (
    *("begin", "dispatch", "start", "extend", "rejects", "scored", "complete", "stop", "close", "step"),
    *("lock", "take", "put_off", "due", "state", "waiting"),
)
_SHARING = frozenset({"start", "extend", "complete", "dispatch"})
"""The scripts that change the shares of groups."""


class RedisLedger:
    """Ledger for all jobs of one bucket (see `Ledger`).

    If the process has a shared connection to the server (see `shared_connection`), the ledger uses that connection and
    its timeouts.

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
    note : str
        What errors add to the address of the server, for example that the address is a guess.
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
        note: str = "",
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
        self._translate_errors = functools.partial(translate_errors, self._address + note, self._redis.connection_pool)
        folder = Path(__file__).parent
        texts = {name: (folder / f"{name}.lua").read_text() for name in (*_FUNCTIONS, "shares", *_SCRIPTS)}
        functions = "".join(texts[name] for name in _FUNCTIONS)
        common = {name: functions + (texts["shares"] if name in _SHARING else "") for name in _SCRIPTS}
        self._scripts = {name: self._redis.register_script(common[name] + texts[name]) for name in _SCRIPTS}
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
        self,
        job_id: str,
        plan_sha256: str,
        parts: int,
        *,
        budget: int,
        recovered: Recovered | None = None,
        work: str = "",
        terms: Terms = NO_TERMS,
        trace: str = "",
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
            terms.group,
            repr(terms.rank),
            terms.max_parts or "",
            "" if terms.deadline_s is None else repr(terms.deadline_s),
            work,
            trace,
        ]
        opened = self._run("begin", self._keys(job_id)[:2], arguments)
        self._renew_expiry(job_id)
        return bool(opened)

    def dispatch(self, job_id: str, plan_sha256: str, window: int, *, queue_is_long: bool = False) -> Due:
        """Claim the parts to put into the queue now (see `Ledger.dispatch`)."""
        arguments = [plan_sha256, window, self._now(), self._patience_s, LONGEST_PATIENCE_S, job_id, LIFE_S]
        arguments += [int(queue_is_long), LONGEST_PATIENCE_IN_QUEUE_S]
        left, stopped, *parts = self._run("dispatch", [*self._keys(job_id)[:2], self._groups_key()], arguments)
        self._renew_expiry(job_id)
        return Due(parts=tuple(map(int, parts)), all_done=int(left) == 0, stopped=stopped)

    def start(self, lease: PartLease, *, is_retry: bool = False) -> Started:
        """Take the lease of a part (see `Ledger.start`)."""
        return self._start(lease, None, is_retry=is_retry)[1]

    def start_due(
        self, lease: PartLease, weights: Mapping[str, int], *, is_retry: bool = False
    ) -> tuple[PartLease, Started]:
        """Take the lease of the part that is due (see `Ledger.start_due`)."""
        return self._start(lease, weights, is_retry=is_retry)

    def start_any(self, holder: str, lease_s: float, weights: Mapping[str, int]) -> tuple[PartLease, Started] | None:
        """Take the lease of the part that is due, for a message whose job has no ledger (see `Ledger.start_any`)."""
        nobody = PartLease(job_id="", plan_sha256="", part=0, holder=holder, lease_s=lease_s)
        due, started = self._start(nobody, weights, is_retry=False)
        return (due, started) if due.job_id else None

    def _start(
        self, lease: PartLease, weights: Mapping[str, int] | None, *, is_retry: bool
    ) -> tuple[PartLease, Started]:
        arguments = [lease.plan_sha256, lease.part, self._now(), lease.lease_s, lease.holder, int(is_retry)]
        listed = ",".join(f"{group}={weight}" for group, weight in (weights or {}).items())
        arguments += [lease.job_id, int(weights is not None), listed, EXPECTED_S, LIFE_S]
        answer = self._run("start", [*self._keys(lease.job_id)[:2], self._groups_key()], arguments)
        to_do, attempt, left, may_exist, budget, job_id, plan_sha256, part, trace = answer
        started = Started(
            to_do=to_do,
            attempt=int(attempt),
            all_done=int(left) == 0,
            result_may_exist=bool(int(may_exist)),
            budget=int(budget),
            trace=trace,
        )
        return replace(lease, job_id=job_id, plan_sha256=plan_sha256, part=int(part)), started

    def renew(self, lease: PartLease) -> bool:
        """Extend a lease (see `Ledger.renew`)."""
        return self._extend(lease, lease.lease_s, release=False)

    def release(self, lease: PartLease, *, retried: bool = False) -> None:
        """Release a lease (see `Ledger.release`)."""
        self._extend(lease, self._patience_s, release=True, retried=retried)

    def note_rejects(self, lease: PartLease, rejected: int) -> int:
        """Record the rejected rows of a part under way (see `Ledger.note_rejects`)."""
        return int(self._run("rejects", self._keys(lease.job_id)[:1], [lease.plan_sha256, lease.part, rejected]))

    def note_scored(self, lease: PartLease, rows: int) -> None:
        """Record the scored rows of a part under way (see `Ledger.note_scored`)."""
        self._run("scored", self._keys(lease.job_id)[:1], [lease.plan_sha256, lease.part, rows])

    def complete(
        self,
        job_id: str,
        plan_sha256: str,
        part: int,
        *,
        rows: int,
        rejected: int,
        failure: str = "",
        seconds: float | None = None,
    ) -> Completed:
        """Count a part exactly once (see `Ledger.complete`)."""
        limits = [self._patience_s, MAX_FAILED_PARTS, LIFE_S]
        arguments = [plan_sha256, part, rows, rejected, failure, self._now(), *limits, job_id]
        arguments += words_of_part(rows=rows, rejected=rejected, failed=bool(failure), seconds=seconds)
        keys = [*self._keys(job_id), self._groups_key(), self.counters.key]
        next_part, left, stopped, counted, lost = self._run("complete", keys, arguments)
        if lost:
            self.counters.note_lost(lost)
        return Completed(
            next_part=None if int(next_part) < 0 else int(next_part),
            all_done=int(left) == 0,
            stopped=stopped,
            counted=bool(int(counted)),
        )

    def stopped(self, job_id: str) -> Stopped:
        """Return why scoring should stop (see `Ledger.stopped`)."""
        key = self._keys(job_id)[0]
        with self._translate_errors(key):
            stopped, deadline = self._redis.hmget(key, "stopped", "deadline")
        if stopped or deadline is None:
            return cast(Stopped, stopped or "")
        return cast(Stopped, self._run("stop", [key], [self._now()]))

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
                work=state.get("work", ""),
            )
        except (ValueError, KeyError) as error:
            raise corrupt(state_key, f"{type(error).__name__}: {error}") from error

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

    def note_object(self, job_id: str, step: str, uri: str) -> None:
        """Record which object a step or a part is about to read (see `Ledger.note_object`)."""
        key, name = self._steps_key(job_id), redis_keys.object_of_step(step)
        with self._translate_errors(key), self._redis.pipeline(transaction=False) as pipe:
            if uri:
                pipe.hset(key, name, uri)
                pipe.expire(key, LIFE_S)
            else:
                pipe.hdel(key, name)
            pipe.execute()

    def noted_object(self, job_id: str, step: str) -> str:
        """Return the URI that was recorded last (see `Ledger.noted_object`)."""
        key = self._steps_key(job_id)
        with self._translate_errors(key):
            return cast(str | None, self._redis.hget(key, redis_keys.object_of_step(step))) or ""

    def once_in(self, what: str, seconds: float) -> bool:
        """Return whether this is the first call for `what` in the given time (see `Ledger.once_in`)."""
        key = redis_keys.of_bucket(self._namespace, what)
        with self._translate_errors():
            return bool(self._redis.set(key, "1", px=int(1000 * seconds), nx=True))

    def set_flag(self, name: str, seconds: float) -> None:
        """Set a flag (see `Ledger.set_flag`)."""
        with self._translate_errors():
            self._redis.set(redis_keys.of_bucket(self._namespace, f"flag:{name}"), "1", px=int(1000 * seconds))

    def take_flag(self, name: str) -> bool:
        """Take a flag that was set (see `Ledger.take_flag`)."""
        with self._translate_errors():
            return bool(self._redis.delete(redis_keys.of_bucket(self._namespace, f"flag:{name}")))

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

    def note_worker_size(self, processes: int) -> None:
        """Remember how many processes a worker has (see `Ledger.note_worker_size`)."""
        with self._translate_errors():
            self._redis.set(redis_keys.of_bucket(self._namespace, "worker_size"), processes, ex=LIFE_S)

    def worker_size(self) -> int:
        """Return how many processes a worker has (see `Ledger.worker_size`)."""
        with self._translate_errors():
            return to_count(cast(str | None, self._redis.get(redis_keys.of_bucket(self._namespace, "worker_size"))))

    def note_busy(self) -> None:
        """Record that there is work (see `Ledger.note_busy`)."""
        with self._translate_errors():
            self._redis.delete(redis_keys.of_bucket(self._namespace, "idle"))

    def note_idle(self) -> float:
        """Record that there is no work, by the server's clock (see `Ledger.note_idle`)."""
        key = redis_keys.of_bucket(self._namespace, "idle")
        with self._translate_errors(), self._redis.pipeline(transaction=True) as pipe:
            pipe.set(key, "1", px=1000 * IDLE_KNOWN_S, nx=True)
            pipe.pttl(key)
            _, left_ms = pipe.execute()
        return max(0.0, IDLE_KNOWN_S - int(left_ms) / 1000)

    def __repr__(self) -> str:
        return f"RedisLedger({self._address!r})"

    def _extend(self, lease: PartLease, seconds: float, *, release: bool, retried: bool = False) -> bool:
        arguments = [lease.plan_sha256, lease.part, lease.holder, self._now(), seconds, int(release), int(retried)]
        keys = [self._keys(lease.job_id)[0], self._groups_key()]
        return bool(self._run("extend", keys, [*arguments, lease.job_id, LIFE_S]))

    def _step(self, action: str, job_id: str, step: str, seconds: float) -> int:
        arguments = [action, step, self._now(), seconds, LONGEST_PATIENCE_S, LIFE_S]
        return int(self._run("step", [self._steps_key(job_id)], arguments))

    def _groups_key(self) -> str:
        return redis_keys.of_bucket(self._namespace, "groups")

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


def _now(clock: Callable[[], float] | None) -> str:
    """Return the time to pass to a script; empty if the script uses the clock of the server."""
    return "" if clock is None else repr(clock())


def _bitmap(done: frozenset[int], parts: int) -> bytes:
    """Return a bitmap of the parts in `done`. Bits are numbered as in SETBIT: part 0 is the highest bit of byte 0."""
    bits = bytearray(parts // 8 + 1)
    for part in done:
        bits[part >> 3] |= 0x80 >> (part & 7)
    return bytes(bits)
