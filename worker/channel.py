"""Kombu's channel to Redis, which shares the one connection of its process.

Kombu gives each channel two pools of connections. A worker has three channels in its main process, for the queue, for
remote control and for answers to it, and one in each process that sends messages. A connection that waits for a message
or for a command cannot be shared. All others can.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

from kombu.transport import redis

from scoreline.storage.ledger import shared_connection


class SharingChannel(redis.Channel):
    """Kombu's channel, whose commands use the connection that `scoreline.storage.ledger.shared_connection` shares."""

    pool: Any
    _registered: bool  # the stubs lack these

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self._kept_client: Any = None
        super().__init__(*arguments, **options)
        self.__dict__.pop("client", None)  # kombu made this pool for one PING

    def _create_client(self, asynchronous: bool = False) -> Any:
        """Return a client. The first one, for the PING of a new channel, uses the shared connection too.

        Kombu asks for one with each message that it sends or acknowledges. Making it takes a third of a millisecond.
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
        """Let the event loop wait for a connection no more."""
        transport: Any = self.connection
        if self._registered and transport is not None and connection._sock is not None:
            with contextlib.suppress(KeyError, OSError, ValueError):  # it does not wait for this one
                transport.cycle._unregister_from_poll(connection._sock.fileno())

    def _get_pool(self, asynchronous: bool = False) -> Any:
        options = self._connparams()
        pool = None if asynchronous else shared_connection.find(options)
        if pool is None:
            return super()._get_pool(asynchronous)  # type: ignore[misc]
        self.keyprefix_fanout = self.keyprefix_fanout.format(db=options["db"])
        return pool


def _forgotten_first(kind: type[Any], forget: Callable[[Any], None]) -> type[Any]:
    """Return a class of connections that the event loop forgets before they are closed, not afterwards.

    A process that was forked meanwhile has the socket, too. Once the socket is closed here, it cannot be removed from
    epoll, which then reports it for ever under the number that the next connection gets. At each report, this process
    would wait for a message of the next connection, and do nothing else meanwhile.
    """

    class Connection(kind):  # type: ignore[misc]
        def disconnect(self, *arguments: Any, **options: Any) -> None:
            forget(self)
            super().disconnect(*arguments, **options)

    return Connection


def use_channel(channel: type[redis.Channel] = SharingChannel) -> None:
    """Make this process use a channel for all its connections to a Redis broker."""
    redis.Transport.Channel = channel
