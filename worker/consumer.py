"""Reads the queues in the main process of a worker, and drops malformed messages.

Celery expects messages that Celery has sent, but anyone with access to the broker can put other bytes into the queue.
An exception while the worker reads a malformed message would end the worker, or make the worker reconnect again and
again. A malformed message is therefore dropped, and logged without its content.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable
from functools import partial
from queue import Empty
from typing import Any

from celery.worker.consumer import Consumer

from scoreline.storage.ledger import shared_connection
from scoreline.worker.channel import SharingChannel, use_channel
from scoreline.worker.held_requests import LOOK_EVERY_S, HeldRequests
from scoreline.worker.message_faults import fault_of, fault_of_body
from scoreline.worker.settings import WorkerSettings

log = logging.getLogger(__name__)


class TaskConsumer(Consumer):
    """Celery's consumer, which also drops malformed messages, closes idle connections, and holds requests.

    See `scoreline.worker.held_requests`.
    """

    connection_errors: tuple[type[BaseException], ...]
    _held: HeldRequests | None = None

    def register_with_event_loop(self, hub: Any) -> None:
        """Set timers in the event loop: one closes idle connections, the other receives requests for busy processes.

        Celery cancels the timers when it loses the broker, and calls this method again once it is connected again.
        """
        super().register_with_event_loop(hub)
        idle_s = WorkerSettings.from_env(os.environ).redis_idle_s
        hub.call_repeatedly(min(1.0, idle_s), shared_connection.close_idle, idle_s)
        held = HeldRequests.of(self, self.create_task_handler())
        if self._held is not None:
            held.return_from(self._held)
        self._held = held
        hub.call_repeatedly(LOOK_EVERY_S, held.look)

    def create_task_handler(self, *arguments: Any, **options: Any) -> Callable[[Any], None]:
        """Return a function that handles a message, or drops the message if it is malformed."""
        handle = super().create_task_handler(*arguments, **options)

        def handle_or_drop(message: Any) -> None:
            try:
                if fault := fault_of(message.headers, message.properties) or fault_of_body(message):
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

    def basic_get(self, queue: str, no_ack: bool = False, **options: Any) -> Any:
        """Return a message, or None if the queue is empty or the message is malformed."""
        found = self._read(partial(super().basic_get, queue, no_ack, **options))
        return None if found is True else found

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
