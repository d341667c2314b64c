"""Whether Redis, as ledger and as broker, keeps what it is given and has room for it."""

from __future__ import annotations

import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from scoreline.storage.errors import LedgerUnavailable, QueueUnavailable, describe
from scoreline.storage.ledger.redis_ledger import RedisLedger, address
from scoreline.storage.ledger.server import Server
from scoreline.worker.doctor.base import Finding, error, ok, warning
from scoreline.worker.doctor.setup import ANSWER_S, CONNECT_S, Setup
from scoreline.worker.settings import BEAT_CONNECTIONS, PASSING_CONNECTIONS, worker_connections

OLDEST = (6, 2)
FULL = 0.8
_LOCAL = ("localhost", "127.0.0.1", "::1", None)
_REMEDIES = (
    ("max number of clients", "end what holds connections, start fewer processes, or take a larger plan"),
    ("password", "REDIS_URL holds another password than the server wants"),
    ("Authentication required", "REDIS_URL holds no password, and the server wants one"),
    ("CERTIFICATE_VERIFY_FAILED", "REDIS_CA_FILE has to hold the authority that signed the server's certificate"),
    ("WRONG_VERSION_NUMBER", "the server speaks no TLS there: redis:// instead of rediss://, or another port"),
    ("onnection closed by server", "where the server wants TLS, the address begins with rediss://"),
    ("maxmemory", "a larger plan, or a larger maxmemory: CONFIG SET maxmemory <bytes>"),
    ("read only replica", "REDIS_URL names a replica: name the server that it follows"),
    ("no permissions", "the user of REDIS_URL needs the keys scoreline* and _kombu*, and scripts"),
)
_ELSE = "set REDIS_URL to a server that runs; on Heroku: heroku addons:create heroku-redis"


@dataclass(frozen=True)
class _Place:
    """One server, and what it is used for."""

    role: str
    url: str
    tls: Mapping[str, Any]


def redis(setup: Setup) -> Iterator[Finding]:
    """Look at the server of the ledger, and at the broker's where that is another."""
    settings = setup.queue
    places = [_Place("ledger and broker", settings.redis_url, settings.redis_tls)]
    if address(settings.broker_url) != address(settings.redis_url):
        places = [_Place("ledger", settings.redis_url, settings.redis_tls)]
        if settings.broker_url.startswith(("redis://", "rediss://")):
            places.append(_Place("broker", settings.broker_url, settings.broker_tls))
    found = [finding for place in places for finding in _look_at(setup, place)]
    yield from found
    if not any(finding.severity == "error" for finding in found):
        yield from _as_celery_does(setup)


def _as_celery_does(setup: Setup) -> Iterator[Finding]:
    """Reach the broker through Celery, whatever it is."""
    try:
        setup.broker.ping()
    except QueueUnavailable as fault:
        yield error(describe(fault), "set CELERY_BROKER_URL to a broker that runs")


def _look_at(setup: Setup, place: _Place) -> Iterator[Finding]:
    wrong = [*_transport(setup, place)]
    server = None
    ledger = RedisLedger(place.url, namespace="", tls=place.tls, connect_timeout_s=CONNECT_S, timeout_s=ANSWER_S)
    try:
        server = ledger.server()
    except LedgerUnavailable as fault:
        yield error(f"{place.role}: {describe(fault)}", _remedy(str(fault)))
    finally:
        ledger.disconnect()
    if server is not None:
        wrong += [*_keeps(server), *_room(setup, server)]
    for message, remedy in wrong:
        yield warning(f"{place.role}: {message}", remedy)
    if server is not None and not wrong:
        yield ok(f"{place.role}: {_summary(server, place)}")


def _remedy(message: str) -> str:
    return next((remedy for sign, remedy in _REMEDIES if sign in message), _ELSE)


def _keeps(server: Server) -> Iterator[tuple[str, str]]:
    """Whether what was written stays as it is."""
    if server.policy is None:
        yield (
            "the server does not say what it does when its memory is full (maxmemory-policy)",
            "see to it that the policy is noeviction",
        )
    elif server.policy != "noeviction":
        lost = "keys that expire, and so ledgers" if server.policy.startswith("volatile") else "messages and ledgers"
        yield (
            f"maxmemory-policy is {server.policy}: when memory is full, {lost} vanish, and jobs wait until they are "
            "found again",
            "heroku redis:maxmemory --policy noeviction; elsewhere CONFIG SET maxmemory-policy noeviction",
        )
    if server.version is not None and server.version < OLDEST:
        yield (
            f"{server.name} is older than {'.'.join(map(str, OLDEST))}, which nobody tests with",
            "upgrade it: Redis 7 or Valkey 8 will do",
        )


def _room(setup: Setup, server: Server) -> Iterator[tuple[str, str]]:
    """Whether there is room for what comes."""
    if server.max_bytes and server.used_bytes is not None and server.used_bytes >= FULL * server.max_bytes:
        yield (
            f"{_mb(server.used_bytes)} of {_mb(server.max_bytes)} MB are in use; when it is full, nothing can be sent",
            "a larger plan; `scoreline jobs` shows what is under way, `celery -A scoreline purge` drops what is queued",
        )
    if server.max_clients is None:
        yield (
            "the server does not say how many connections it takes (maxclients)",
            "compare your plan with WORKER_CONCURRENCY",
        )
        return
    needed = worker_connections(setup.processes) + BEAT_CONNECTIONS + PASSING_CONNECTIONS
    if needed > server.max_clients:
        yield (
            f"it takes {server.max_clients} connections; a worker of {setup.processes} processes and beat may hold "
            f"{needed}",
            "a smaller WORKER_CONCURRENCY, or a plan with more connections (mini has 20, premium-0 40)",
        )
    elif server.clients is not None and server.clients >= FULL * server.max_clients:
        yield (
            f"{server.clients} of {server.max_clients} connections are open",
            "fewer workers or a larger plan; `heroku redis:timeout --seconds 300` drops those that were left behind",
        )


def _transport(setup: Setup, place: _Place) -> Iterator[tuple[str, str]]:
    """Whether passwords and messages go over the network as they are."""
    if setup.on_dyno and place.url.startswith("redis://") and urlsplit(place.url).hostname not in _LOCAL:
        yield (
            f"{address(place.url)} is reached without TLS: its password and every message can be read on the way",
            "an address that begins with rediss://, as Heroku's REDIS_URL or REDIS_TLS_URL",
        )


def _summary(server: Server, place: _Place) -> str:
    said = [f"{server.name or 'a server'} at {address(place.url)}", str(server.policy)]
    if server.used_bytes is not None:
        said.append(f"{_mb(server.used_bytes)} MB used" + (f" of {_mb(server.max_bytes)}" if server.max_bytes else ""))
    said.append(f"{server.clients} of {server.max_clients} connections")
    if place.tls:
        checked = place.tls["ssl_cert_reqs"] == ssl.CERT_REQUIRED
        said.append("TLS" if checked else "TLS, certificate not checked (REDIS_CA_FILE is not set)")
    if server.persistent is False:
        said.append("not persistent, which loses no job: the bucket is the record")
    return ", ".join(said)


def _mb(size: int) -> str:
    return f"{size / 1e6:,.1f}"
