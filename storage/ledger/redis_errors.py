"""Turns errors of redis-py into errors of `scoreline.storage.errors`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from scoreline.storage.errors import LedgerCorrupt, LedgerFenced, LedgerLost, LedgerUnavailable

_CORRUPT = ("WRONGTYPE", "attempt to ", "is not an integer", "is not a valid float", "must be strings or integers")
"""Excerpts of the errors that Redis reports if a key contains something other than the ledger. With a correct ledger,
the commands and scripts cause none of these errors."""


def corrupt(key: str, reason: str) -> LedgerCorrupt:
    """Return the error for a key that contains something other than the ledger."""
    return LedgerCorrupt(
        f"the key {key!r} in Redis is not a ledger ({reason}): `scoreline reconcile` rebuilds it from the bucket"
    )


@contextlib.contextmanager
def translate_errors(where: str, connections: Any, ledger_key: str = "") -> Iterator[None]:
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
            raise corrupt(ledger_key, str(error)) from error
        if "ANOTHERPLAN" in str(error):
            raise LedgerFenced("the ledger in Redis belongs to another plan than the one in the bucket") from error
        if "LOST" in str(error):
            raise LedgerLost(
                "Redis was emptied and has no ledger of this job: it is rebuilt from the bucket"
            ) from error
        raise LedgerUnavailable(f"Redis at {where} refused: {error}") from error
    except RedisError as error:
        raise LedgerUnavailable(f"cannot reach Redis at {where}: {error}") from error
