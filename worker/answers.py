"""Stores the answers to applications, for an hour, in the Redis that the address names at the time."""

from __future__ import annotations

from typing import Any

from celery.backends.redis import RedisBackend

from scoreline.storage.ledger import shared_connection


class AnswerBackend(RedisBackend):
    """Celery's backend, which after a failover would write to a replica for as long as the process lives.

    It uses the connection that the process shares, if there is one.
    """

    def _get_pool(self, **options: Any) -> Any:
        return shared_connection.find(options) or super()._get_pool(**options)  # type: ignore[misc]

    def _set(self, *arguments: Any) -> Any:
        """Write an answer. If the server is a replica now, open other connections for the next attempt."""
        try:
            return super()._set(*arguments)  # type: ignore[misc]  # the stubs lack it
        except self.redis.ReadOnlyError as error:
            self.client.connection_pool.disconnect(inuse_connections=False)
            raise self.redis.ConnectionError(str(error)) from error  # which the caller tries again
