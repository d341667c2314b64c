"""Shares one connection to a Redis server among all threads and clients of a process.

Without sharing, the ledger, the message broker and the result backend would have one connection each, and small Redis
plans allow only 20 connections in all. A process calls `share` once for each server. After that, all its ledgers use
the shared connection, and other code gets the connection from `find`. Importing this module takes 0.1 s, because it
imports redis.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from typing import Any

import redis

TURN_S = 1.0
"""Seconds that a thread waits for its turn before it opens another connection. A command takes a few milliseconds."""

_shared: dict[tuple[Any, ...], SharedConnection] = {}


class SharedConnection(redis.ConnectionPool):
    """A connection pool with one connection, which threads use in turn.

    The pool briefly opens another connection if a thread needs two, or if a thread has waited for `TURN_S`. The time
    limit prevents deadlocks. A forked process opens its own connection.
    """

    def __init__(self, **options: Any) -> None:
        self._last_use = 0.0
        super().__init__(**options)

    def reset(self) -> None:
        """Forget all connections. In a forked process, redis-py calls this before anything else."""
        self._turn = threading.Condition()  # a lock that the parent process held at the fork is never released here
        self._lock = threading.RLock()
        self._holders: dict[Any, int] = {}
        self._to_close: set[Any] = set()
        super().reset()

    def get_connection(self, *ignored: Any, **options: Any) -> Any:
        """Wait until no other thread uses the connection, and return it."""
        self._checkpid()
        thread, place = threading.get_ident(), object()
        with self._turn:
            self._turn.wait_for(lambda: all(holder == thread for holder in self._holders.values()), TURN_S)
            self._holders[place] = thread
        try:
            connection = super().get_connection()
            self._holders[connection] = thread
            return connection
        finally:
            del self._holders[place]

    def release(self, connection: Any) -> None:
        """Take a connection back. If several connections are open and idle, only the one released last stays open."""
        if connection in self._to_close:
            self._to_close.discard(connection)
            connection.disconnect()
        super().release(connection)
        with self._turn, self._lock:
            for surplus in self._available_connections[:-1]:
                surplus.disconnect()
            self._holders.pop(connection, None)
            self._last_use = time.monotonic()
            self._turn.notify()

    def disconnect(self, inuse_connections: bool = True) -> None:
        """Close idle connections now, and connections in use as soon as they are released.

        The ledger, kombu and Celery call this when the server refuses a write. After a failover, the old server may be
        a replica, and the address may lead to a new server.
        """
        super().disconnect(inuse_connections=False)
        if inuse_connections:
            with self._lock:
                self._to_close |= self._in_use_connections

    def close_idle(self, after_s: float) -> None:
        """Close the connection if nothing has used it for `after_s` seconds."""
        self._checkpid()
        with self._turn:
            if time.monotonic() - self._last_use >= after_s:
                super().disconnect(inuse_connections=False)


def share(url: str, tls: Mapping[str, Any] | None = None, *, connect_timeout_s: float, timeout_s: float) -> None:
    """Let all code in this process share one connection to a server. Each forked process has its own connection.

    Parameters
    ----------
    url, tls
        The same as in `RedisLedger`.
    connect_timeout_s, timeout_s : float
        Seconds to wait for a connection and for an answer. A second call for the same server replaces these timeouts.
    """
    pool = SharedConnection.from_url(
        url,
        socket_connect_timeout=connect_timeout_s,
        socket_timeout=timeout_s,
        health_check_interval=25,
        socket_keepalive=True,
        decode_responses=True,
        **(tls or {}),
    )
    _shared[_identity(pool.connection_class, pool.connection_kwargs)] = pool


def find(options: Mapping[str, Any]) -> SharedConnection | None:
    """Return the shared connection to a server; None if there is none.

    Parameters
    ----------
    options : mapping of str to object
        The arguments that a client would pass to a `redis.ConnectionPool`.
    """
    return _shared.get(_identity(options.get("connection_class", redis.Connection), options))


def find_by_url(url: str, tls: Mapping[str, Any] | None = None) -> SharedConnection | None:
    """Return the shared connection to the server with the given URL; None if there is none."""
    return find(redis.connection.parse_url(url) | dict(tls or {})) if _shared else None


def close_idle(after_s: float) -> None:
    """Close each shared connection that nothing has used for `after_s` seconds. Its next use opens a new connection."""
    for pool in list(_shared.values()):
        pool.close_idle(after_s)


def _identity(connection_class: type, options: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return the options that must be equal for clients to share a connection. Timeouts may differ."""
    host = options.get("host") or "localhost"
    tls = sorted((name, str(value)) for name, value in options.items() if name.startswith("ssl_"))
    return (
        issubclass(connection_class, redis.SSLConnection),
        options.get("path") or ("localhost" if host == "127.0.0.1" else host, int(options.get("port") or 6379)),
        int(options.get("db") or 0),
        options.get("username") or None,
        options.get("password") or None,
        tuple(tls),
    )
