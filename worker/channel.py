"""Makes kombu's channels to Redis share one connection per process.

Kombu gives each channel two connection pools. The main process of a worker has three channels: for the queue, for
remote control, and for the answers to remote control. Each other process that sends messages has one channel. Two
connections cannot be shared: one waits for messages, and one waits for remote control commands.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

from kombu.transport import redis
from kombu.utils.scheduling import round_robin_cycle

from scoreline.storage.ledger import shared_connection
from scoreline.tasks.dispatch.queue_names import PARTS_PREFIX

MOST_BEFORE_PARTS = 50
"""Number of messages of other queues after which a process prefers the queues of parts once. Otherwise, a stream of
records that keeps all processes busy would stop all other jobs."""


class PartsLast(round_robin_cycle):  # type: ignore[type-arg]  # the class cannot be subscripted
    """Order in which a process reads its queues: in turns, but the queues of parts only while the others are empty.

    After `MOST_BEFORE_PARTS` other messages, the queues of parts come first, once.

    A part takes about 20 seconds, and the steps of jobs and the requests of applications mostly take less than one.
    Processes share their time by parts (see `scoreline.storage.ledger.shares`), so parts lose little by waiting.
    """

    items: list[str]
    _others = 0
    """Number of messages of other queues since the queues of parts came first."""

    def consume(self, n: int) -> list[str]:  # type: ignore[override]  # kombu iterates twice
        """Return the first `n` queues."""
        parts_first = self._others >= MOST_BEFORE_PARTS
        return sorted(self.items[:n], key=lambda name: name.startswith(PARTS_PREFIX) != parts_first)

    def rotate(self, last_used: str) -> Any:
        """Record that a message of a queue was received."""
        is_part, had_turn = last_used.startswith(PARTS_PREFIX), self._others >= MOST_BEFORE_PARTS
        self._others = 0 if is_part or had_turn else self._others + 1
        return super().rotate(last_used)


class SharingChannel(redis.Channel):
    """A channel whose commands use the connection of `scoreline.storage.ledger.shared_connection`."""

    pool: Any
    _registered: bool  # the stubs lack these
    queue_order_strategy = f"{PartsLast.__module__}:{PartsLast.__qualname__}"

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self._kept_client: Any = None
        super().__init__(*arguments, **options)
        self.__dict__.pop("client", None)  # drop the client that kombu made for one PING

    def _create_client(self, asynchronous: bool = False) -> Any:
        """Return a Redis client on the shared connection, also for the PING of a new channel.

        The client is cached, because kombu requests a client for each message that it sends or acknowledges. Making a
        client takes a third of a millisecond.
        """
        if asynchronous and self._registered:
            return super()._create_client(True)  # type: ignore[misc]
        if self._kept_client is None or self._kept_client.connection_pool is not self.pool:
            self._kept_client = super()._create_client()  # type: ignore[misc]
        return self._kept_client

    def _connparams(self, asynchronous: bool = False) -> dict[str, Any]:
        options: dict[str, Any] = super()._connparams(asynchronous)  # type: ignore[misc]
        if asynchronous:
            options["connection_class"] = _forgotten_first(options["connection_class"], self._forget)
        return options

    def _forget(self, connection: Any) -> None:
        """Remove a connection from the event loop."""
        transport: Any = self.connection
        if self._registered and transport is not None and connection._sock is not None:
            with contextlib.suppress(KeyError, OSError, ValueError):  # the event loop does not have this connection
                transport.cycle._unregister_from_poll(connection._sock.fileno())

    def _get_pool(self, asynchronous: bool = False) -> Any:
        options = self._connparams()
        pool = None if asynchronous else shared_connection.find(options)
        if pool is None:
            return super()._get_pool(asynchronous)  # type: ignore[misc]
        self.keyprefix_fanout = self.keyprefix_fanout.format(db=options["db"])
        return pool


def _forgotten_first(kind: type[Any], forget: Callable[[Any], None]) -> type[Any]:
    """Return a class of connections that are removed from the event loop before they are closed.

    Kombu removes a connection from the event loop after closing it. A forked process may still have the socket open. In
    this case, epoll cannot remove the closed socket, and reports its file descriptor forever. The next connection gets
    the same descriptor, so this process would block at each report until that connection receives a message.
    """

    class Connection(kind):  # type: ignore[misc]
        def disconnect(self, *arguments: Any, **options: Any) -> None:
            forget(self)
            super().disconnect(*arguments, **options)

    return Connection


def use_channel(channel: type[redis.Channel] = SharingChannel) -> None:
    """Make this process use a channel class for all its connections to a Redis broker."""
    redis.Transport.Channel = channel
