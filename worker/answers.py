"""Stores the answers to applications in Redis for an hour. After a failover, answers are written to the new server."""

from __future__ import annotations

from typing import Any

from celery.backends.redis import RedisBackend

from scoreline.storage.ledger import shared_connection


class AnswerBackend(RedisBackend):
    """Celery's result backend for Redis. After a failover, it opens new connections instead of writing to a replica.

    The backend uses the shared connection of the process, if the process has one.
    """

    def _get_pool(self, **options: Any) -> Any:
        return shared_connection.find(options) or super()._get_pool(**options)  # type: ignore[misc]

    def _set(self, *arguments: Any) -> Any:
        """Write an answer. If the server has become a replica, close the connections before the next attempt."""
        try:
            return super()._set(*arguments)  # type: ignore[misc]  # the stubs lack it
        except self.redis.ReadOnlyError as error:
            self.client.connection_pool.disconnect(inuse_connections=False)
            raise self.redis.ConnectionError(str(error)) from error  # the caller tries again
