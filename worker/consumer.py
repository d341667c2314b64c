"""Reads the queue in the main process of a worker, and drops malformed messages.

Celery expects messages that Celery has sent, but anyone with access to the broker can put other bytes into the queue.
An exception while the worker reads a malformed message would end the worker, or make the worker reconnect again and
again. A malformed message is therefore dropped, and logged without its content.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
from collections.abc import Callable, Mapping
from functools import partial
from queue import Empty
from typing import Any

from celery.worker.consumer import Consumer

from scoreline.storage.ledger import shared_connection
from scoreline.worker.channel import SharingChannel, use_channel
from scoreline.worker.settings import WorkerSettings

log = logging.getLogger(__name__)


class TaskConsumer(Consumer):
    """Celery's consumer, which also drops malformed messages and closes idle connections."""

    connection_errors: tuple[type[BaseException], ...]

    def register_with_event_loop(self, hub: Any) -> None:
        """Set a timer in the event loop that closes idle connections. Celery cancels it when it loses the broker."""
        super().register_with_event_loop(hub)
        idle_s = WorkerSettings.from_env(os.environ).redis_idle_s
        hub.call_repeatedly(min(1.0, idle_s), shared_connection.close_idle, idle_s)

    def create_task_handler(self, *arguments: Any, **options: Any) -> Callable[[Any], None]:
        """Return a function that handles a message, or drops the message if it is malformed."""
        handle = super().create_task_handler(*arguments, **options)

        def handle_or_drop(message: Any) -> None:
            try:
                if fault := fault_of(message.headers, message.properties) or _fault_of_body(message):
                    self._drop(message, fault)
                else:
                    handle(message)
            except Exception as error:
                if _is_of_connection(error, self.connection_errors):
                    raise
                self._drop(message, type(error).__name__)

        return handle_or_drop

    def _drop(self, message: Any, fault: str) -> None:
        log.error("message.refused", extra={"error": fault})
        with contextlib.suppress(message.MessageStateError):  # raised if Celery has already acknowledged the message
            message.ack_log_error(log, self.connection_errors)


def fault_of(headers: Any, properties: Any) -> str:
    """Return what is wrong with the headers of a message; empty if a worker can handle them.

    Time limits and the number of retries are checked here, because Celery uses them long after it has accepted the
    message.

    >>> fault_of({"task": "scoreline.plan", "id": "1", "timelimit": ["x", None]}, {})
    'timelimit is not two numbers'
    >>> fault_of({"task": "scoreline.plan", "id": "1", "retries": 2, "timelimit": [None, 60]}, {})
    ''
    """
    if not isinstance(headers, Mapping) or not isinstance(properties, Mapping):
        return "the headers are not an object"
    for name in ("task", "id", "root_id", "parent_id", "shadow", "group", "eta", "expires", "argsrepr", "kwargsrepr"):
        if not isinstance(headers.get(name), str | None):
            return f"{name} is not a text"
    if headers.get("task") is not None and headers.get("id") is None:
        return "id is missing"
    if not _is_number(headers.get("retries") or 0):
        return "retries is not a number"
    limits = headers.get("timelimit") or (None, None)
    if not isinstance(limits, list | tuple) or len(limits) != 2 or not all(_is_number(limit or 0) for limit in limits):
        return "timelimit is not two numbers"
    return ""


def _fault_of_body(message: Any) -> str:
    """Return what is wrong with the arguments of a message; empty if they are valid or if Celery checks them."""
    if "task" not in message.headers:  # Celery checks messages of the older protocol itself
        return ""
    match message.payload:
        case [list(), dict(), dict() | None]:
            return ""
    return "the body is not [arguments, named arguments, options]"


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value) and value >= 0


def _is_of_connection(error: Exception, errors: tuple[type[BaseException], ...]) -> bool:
    """Return whether an error certainly comes from the connection. A `KeyError` may come from a message."""
    return isinstance(error, errors) and not isinstance(error, KeyError)


class _TolerantChannel(SharingChannel):
    """Kombu's channel to Redis, which also drops malformed messages and messages without a consumer."""

    connection_errors: tuple[type[BaseException], ...]

    def _brpop_read(self, **options: Any) -> Any:
        return self._read(partial(super()._brpop_read, **options))  # type: ignore[misc]  # the stubs lack it

    def _receive_one(self, client: Any) -> Any:
        return self._read(partial(super()._receive_one, client))  # type: ignore[misc]

    def _read(self, read: Callable[[], Any]) -> Any:
        try:
            return read()
        except Empty:
            raise
        except Exception as error:
            if _is_of_connection(error, (*self.connection_errors, *self.connection.channel_errors)):
                raise
            log.error("message.refused", extra={"error": type(error).__name__})
            return True  # a message was read


def tolerate_foreign_messages() -> None:
    """Make this process drop malformed messages when it reads from Redis."""
    use_channel(_TolerantChannel)
