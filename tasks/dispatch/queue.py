"""Sends messages to workers over any broker that Celery supports."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import sys
import time
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import celery  # fast, because celery and kombu load their modules late
import kombu

from scoreline.storage.errors import QueueUnavailable
from scoreline.storage.ledger.redis_ledger import host_and_port
from scoreline.tasks.dispatch import trace_context
from scoreline.tasks.dispatch.messages import Backlog
from scoreline.tasks.dispatch.queue_names import QueueNames
from scoreline.tasks.dispatch.redis_url import is_redis_url

CONNECT_TIMEOUT_S = 4
_LEAST_WAIT_S = 0.1
"""Minimum number of seconds to wait for answers of workers, even after a slow connection."""


class Queue:
    """The queues of one deployment, which its Celery workers read (see `MessageQueue`).

    Parameters
    ----------
    broker_url : str
        The URL of the broker, in the form that Celery accepts.
    names : QueueNames
        The names of the queues.
    tls : mapping of str to object, optional
        TLS options for a ``rediss://`` URL, under redis-py's names.
    app : Celery, optional
        The worker's own app, whose connections the queue uses; by default, the queue makes an app.
    note : str
        What errors add to the address of the broker, for example that the address is a guess.
    """

    def __init__(
        self,
        broker_url: str,
        names: QueueNames,
        tls: Mapping[str, Any] | None = None,
        app: celery.Celery | None = None,
        *,
        note: str = "",
    ) -> None:
        self.names = names
        self._broker_url = broker_url
        self._address = host_and_port(broker_url) + note
        self._app = app or self._make(broker_url, names, tls)

    @staticmethod
    def _make(broker_url: str, names: QueueNames, tls: Mapping[str, Any] | None) -> celery.Celery:
        app = celery.Celery("scoreline-client", broker=broker_url, set_as_current=False)
        app.conf.update(
            broker_write_url=broker_url,  # CELERY_BROKER_URL would override `broker`, but not `broker_write_url`
            task_default_queue=names.jobs,
            task_ignore_result=True,
            task_serializer="json",
            accept_content=["json"],
            broker_connection_timeout=CONNECT_TIMEOUT_S,
            **broker_settings(
                broker_url, tls, redis={"socket_connect_timeout": CONNECT_TIMEOUT_S, "socket_timeout": 10}
            ),
        )
        return app

    def ping(self) -> None:
        """Raise `QueueUnavailable` if the broker does not answer.

        A Redis is asked through the connection that `send` uses, because opening another connection would take longer
        than asking.
        """
        if not is_redis_url(self._broker_url):
            with self._connected():
                return
        with _producer(self._app, self._address) as producer:
            producer.channel.client.ping()

    def backlog(self) -> Backlog:
        """Return the number of waiting messages; raises `QueueUnavailable`."""
        with self._connected() as connection:
            counts = {name: _waiting(connection, name) for name in self.names.read}
            waiting = {name: count for name, count in counts.items() if count is not None}
            channel: Any = connection.default_channel
            if connection.transport.driver_type != "redis":
                return Backlog(waiting=waiting, unacked=None, oldest_unacked_s=None)
            unacked = int(channel.client.hlen(channel.unacked_key))
            first = channel.client.zrange(channel.unacked_index_key, 0, 0, withscores=True)
            oldest_s = max(0.0, time.time() - first[0][1]) if first else 0.0  # the score is the delivery time
            return Backlog(waiting=waiting, unacked=unacked, oldest_unacked_s=oldest_s)

    def taken(self, names: Collection[str], within_s: float) -> int:
        """Return the number of messages that workers have received and not acknowledged; 0 if only Redis would know.

        Raises `QueueUnavailable`.

        Parameters
        ----------
        names : collection of str
            Only messages from these queues are counted. The broker keeps the unacknowledged messages of all
            applications together.
        within_s : float
            Only messages that were received at most this many seconds ago are counted.
        """
        with self._connected() as connection:
            if connection.transport.driver_type != "redis":
                return 0
            channel: Any = connection.default_channel
            tags = channel.client.zrangebyscore(channel.unacked_index_key, time.time() - within_s, "+inf")
            found = channel.client.hmget(channel.unacked_key, tags) if tags else []
            return sum(json.loads(item)[2] in names for item in found if item is not None)  # message, exchange, queue

    def workers(self, name: str | None = None, timeout_s: float = 2.0) -> list[str]:
        """Return the names of this deployment's workers that answer within `timeout_s` seconds.

        Workers of other deployments and applications that share the broker are left out.

        Parameters
        ----------
        name : str, optional
            Ask only this worker, for example ``celery@host``; its answer ends the wait.

        Raises
        ------
        QueueUnavailable
            The broker does not answer.
        """
        answers = self.ask_workers("active_queues", timeout_s, name)
        return sorted(
            worker for worker, queues in answers.items() if self.names.are_read_by({queue["name"] for queue in queues})
        )

    def send(self, name: str, **kwargs: Any) -> None:
        """Put a message into the queue; raises `QueueUnavailable`."""
        send_message(self._app, name, kwargs, queue=self.names.of_task(name), address=self._address, retry=False)

    def pause(self, seconds: float) -> bool:
        """Sleep and return True, because other processes may still work (see `MessageQueue.pause`)."""
        time.sleep(seconds)
        return True

    def ask_workers(self, what: str, timeout_s: float = 1.0, name: str | None = None) -> dict[str, Any]:
        """Ask every worker of every application on this broker. Return the received answers, by worker.

        Parameters
        ----------
        what : str
            A command of ``celery inspect``: ``active_queues``, ``conf``, or one of `scoreline.worker.control`.
        timeout_s : float
            Time limit. If `name` is set, the time limit is measured from the call. If `name` is not set, the time limit
            is measured from the moment at which the question is sent, and the call always waits for the whole time,
            because the number of workers is unknown.
        name : str, optional
            Ask only this worker, for example ``celery@host``; its answer ends the wait.
        """
        until = time.monotonic() + timeout_s
        with self._connected() as connection:
            asked = [name] if name else None
            # If there is no name, the caller counts workers, and a slow connection must not look like missing workers
            left_s = max(_LEAST_WAIT_S, until - time.monotonic()) if name else timeout_s
            answers = self._app.control.broadcast(
                what, reply=True, destination=asked, timeout=left_s, connection=connection
            )
        return {worker: answer for reply in answers or [] for worker, answer in reply.items()}

    def own_gauges(self, timeout_s: float = 1.0) -> dict[str, Any]:
        """Ask the workers of this deployment for their ``gauges`` (see `ask_workers` and `QueueNames.own_gauges`)."""
        return self.names.own_gauges(self.ask_workers("gauges", timeout_s))

    @contextlib.contextmanager
    def _connected(self) -> Iterator[kombu.Connection]:
        with self._app.connection_for_write() as connection:
            try:
                connection.ensure_connection(max_retries=1, interval_start=0, timeout=CONNECT_TIMEOUT_S)
                yield connection
            except _errors(connection) as error:
                raise QueueUnavailable(f"cannot reach the broker at {self._address}: {error}") from error


def _waiting(connection: kombu.Connection, queue: str) -> int | None:
    """Return the number of messages in a queue; None if the broker cannot report it."""
    channel: Any
    with connection.channel() as channel:  # a broker may close the channel when it refuses a request
        try:
            return int(channel.queue_declare(queue=queue, passive=True).message_count)
        except NotImplementedError:
            return None
        except connection.channel_errors as error:
            return 0 if str(getattr(error, "reply_code", "")) == "404" else None


def _errors(connection: kombu.Connection) -> tuple[type[BaseException], ...]:
    """Return the error types of kombu and of the transport."""
    return (*_unreachable(), *connection.connection_errors, *connection.channel_errors)


def _unreachable() -> tuple[type[BaseException], ...]:
    """Return the error types that every transport raises if the broker does not answer."""
    from kombu.exceptions import OperationalError

    return OperationalError, OSError


def broker_settings(broker_url: str, tls: Mapping[str, Any] | None, *, redis: dict[str, Any]) -> dict[str, Any]:
    """Return Celery's settings for a broker: the options in `redis` for Redis, or confirmed publishing for AMQP."""
    scheme = broker_url.partition(":")[0]
    if scheme in ("amqp", "amqps", "pyamqp"):
        return {"broker_transport_options": {"confirm_publish": True}}
    if scheme in ("redis", "rediss"):
        if not tls:
            return {"broker_transport_options": redis}
        # kombu shares connections whose URL and transport options are equal, whatever their TLS options are
        return {"broker_transport_options": redis | {"tls": repr(sorted(tls.items()))}, "broker_use_ssl": dict(tls)}
    return {}


def send_message(
    app: celery.Celery, name: str, kwargs: dict[str, Any], *, queue: str, address: str, retry: bool = True
) -> None:
    """Put a message into the queue; raises `QueueUnavailable` if the broker does not accept it.

    The message contains what workers read, and is less than half as long as one of `Celery.send_task`, because in a
    small Redis, the queue takes most of the memory. Making it takes half of the CPU time.
    """
    from celery.signals import after_task_publish, before_task_publish  # importing them would slow down `--help`

    headers = {"task": name, "id": secrets.token_hex(8), "ignore_result": True}
    if context := trace_context.current():
        headers["traceparent"] = context
    described = {"body": ((), kwargs, {}), "headers": headers, "exchange": "", "routing_key": queue}
    options = {"declare": [app.amqp.queues[queue]], "retry_policy": dict(app.conf.task_publish_retry_policy)}
    properties: dict[str, Any] = {}  # listeners may add some, as they may add headers
    with _producer(app, address) as producer:
        before_task_publish.send(sender=name, properties=properties, **described, **options)
        producer.publish(
            **described,
            **options,
            serializer="json",
            delivery_mode=kombu.Exchange.PERSISTENT_DELIVERY_MODE,
            retry=retry,
            **properties,
        )
        after_task_publish.send(sender=name, **described)


@contextlib.contextmanager
def _producer(app: celery.Celery, address: str) -> Iterator[Any]:
    """Yield a producer, and raise `QueueUnavailable` if the broker refuses what the block sends."""
    try:
        with app.producer_or_acquire() as producer:
            try:
                yield producer
            except _errors(producer.connection) as error:
                raise OSError(str(error)) from error
            _close_idle(producer)
    except _unreachable() as error:
        raise QueueUnavailable(f"cannot reach the broker at {address}: {error}") from error


def _close_idle(producer: Any) -> None:
    """Close the connection that a new Redis channel of kombu opens for a PING. Only consumers need this connection.

    Small Redis plans allow 20 connections. Without this function, every process that sends a message would keep this
    connection open.
    """
    pool = getattr(producer.channel, "_async_pool", None)
    if pool is not None:
        pool.disconnect(inuse_connections=False)


def _leave_connections_to_parent() -> None:
    """Make a forked process open its own connections, because kombu's global connection pools survive a fork.

    Kombu resets the pools when Celery's pool forks, but not when a web server loads the application and then forks.
    """
    if pools := sys.modules.get("kombu.pools"):
        pools.producers.clear()
        pools.connections.clear()


os.register_at_fork(after_in_child=_leave_connections_to_parent)
