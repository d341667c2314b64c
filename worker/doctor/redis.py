"""Checks that Redis, as ledger and broker, is reachable, keeps its data, and has free memory and connections."""

from __future__ import annotations

import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from scoreline.storage.errors import LedgerUnavailable, QueueUnavailable, describe
from scoreline.storage.ledger.redis_ledger import RedisLedger, host_and_port
from scoreline.storage.ledger.server import Server
from scoreline.storage.wording import plural
from scoreline.tasks.dispatch.dispatcher import BYTES_PER_PART, MAX_WINDOW
from scoreline.worker.doctor.check import Finding, error, ok, warning
from scoreline.worker.doctor.context import ANSWER_S, CONNECT_S, Context
from scoreline.worker.settings import BEAT_CONNECTIONS, CLIENT_CONNECTIONS, PASSING_CONNECTIONS, worker_connections

OLDEST = (6, 2)
FULL = 0.8
SMALL_PLAN = 100
"""If a server allows at most this many connections, the check prints how many processes it can serve."""
_LOCAL = ("localhost", "127.0.0.1", "::1", None)
_REMEDIES = (
    ("max number of clients", "close connections, start fewer processes, or use a larger plan"),
    ("password", "correct the password in REDIS_URL"),
    ("Authentication required", "add the password of the server to REDIS_URL"),
    ("CERTIFICATE_VERIFY_FAILED", "set REDIS_CA_FILE to the CA bundle that verifies the certificate of the server"),
    (
        "WRONG_VERSION_NUMBER",
        "the server does not speak TLS on this port: use redis:// instead of rediss://, or another port",
    ),
    ("onnection closed by server", "if the server requires TLS, use rediss:// in the URL"),
    ("maxmemory", "use a larger plan, or raise maxmemory: CONFIG SET maxmemory <bytes>"),
    ("read only replica", "REDIS_URL names a replica: set it to the primary"),
    ("no permissions", "allow the user in REDIS_URL to run scripts and to access the keys scoreline* and _kombu*"),
)
_DEFAULT_REMEDY = "set REDIS_URL to a server that is running; on Heroku: heroku addons:create heroku-redis"


@dataclass(frozen=True)
class _Target:
    """A Redis server and its role."""

    role: str
    url: str
    tls: Mapping[str, Any]


def redis(context: Context) -> Iterator[Finding]:
    """Examine the server of the ledger, and the server of the broker if it is another server."""
    settings = context.queue
    targets = [_Target("ledger and broker", settings.redis_url, settings.redis_tls)]
    if host_and_port(settings.broker_url) != host_and_port(settings.redis_url):
        targets = [_Target("ledger", settings.redis_url, settings.redis_tls)]
        if settings.broker_url.startswith(("redis://", "rediss://")):
            targets.append(_Target("broker", settings.broker_url, settings.broker_tls))
    found = [finding for target in targets for finding in _examine(context, target)]
    yield from found
    if not any(finding.severity == "error" for finding in found):
        yield from _ping_broker(context)


def _ping_broker(context: Context) -> Iterator[Finding]:
    """Connect to the broker through Celery, which also works for brokers other than Redis."""
    try:
        context.broker.ping()
    except QueueUnavailable as fault:
        yield error(describe(fault), "set CELERY_BROKER_URL to a broker that is running")


def _examine(context: Context, target: _Target) -> Iterator[Finding]:
    wrong = [*_transport_faults(context, target)]
    server = None
    ledger = RedisLedger(target.url, namespace="", tls=target.tls, connect_timeout_s=CONNECT_S, timeout_s=ANSWER_S)
    try:
        server = ledger.server()
    except LedgerUnavailable as fault:
        yield error(f"{target.role}: {describe(fault)}", _remedy(str(fault)))
    finally:
        ledger.disconnect()
    if server is not None:
        wrong += [*_eviction_faults(server), *_capacity_faults(context, server)]
    for message, remedy in wrong:
        yield warning(f"{target.role}: {message}", remedy)
    if server is not None and not wrong:
        yield ok(f"{target.role}: {_summary(server, target)}")


def _remedy(message: str) -> str:
    return next((remedy for sign, remedy in _REMEDIES if sign in message), _DEFAULT_REMEDY)


def _eviction_faults(server: Server) -> Iterator[tuple[str, str]]:
    """Yield a fault if the server may lose data, or if its version is not supported."""
    if server.policy is None:
        yield (
            "the server does not reveal what it does when its memory is full (maxmemory-policy)",
            "make sure that its policy is noeviction",
        )
    elif server.policy != "noeviction":
        lost = "ledgers" if server.policy.startswith("volatile") else "messages and ledgers"
        yield (
            f"maxmemory-policy is {server.policy}: when the memory is full, the server evicts {lost}, and jobs wait "
            "until they are reconciled",
            "CONFIG SET maxmemory-policy noeviction; on Heroku: heroku redis:maxmemory --policy noeviction",
        )
    if server.version is not None and server.version < OLDEST:
        yield (
            f"{server.name} is older than {'.'.join(map(str, OLDEST))}, the oldest version that is tested",
            "upgrade it to Redis 7, Valkey 8, or newer",
        )


def _capacity_faults(context: Context, server: Server) -> Iterator[tuple[str, str]]:
    """Yield a fault if the server has too little memory or too few connections."""
    if server.max_bytes and server.used_bytes is not None and server.used_bytes >= FULL * server.max_bytes:
        yield (
            f"{_mb(server.used_bytes)} of {_mb(server.max_bytes)} MB are in use; once it is full, nothing can be sent",
            "use a larger plan, cancel jobs that `scoreline jobs` lists, or drop all queued messages with "
            "`celery -A scoreline purge`",
        )
    needed = worker_connections(context.processes) + BEAT_CONNECTIONS + PASSING_CONNECTIONS
    if server.max_clients is None:
        yield (
            "the server does not reveal how many connections it accepts (maxclients)",
            f"make sure that it accepts at least {needed}",
        )
        return
    if needed > server.max_clients:
        yield (
            f"the server accepts {server.max_clients} connections, but a worker with {context.processes} processes and "
            f"beat may need {needed}",
            "lower WORKER_CONCURRENCY, or use a plan with more connections (Heroku's mini has 20, premium-0 has 40)",
        )
    elif server.clients is not None and server.clients >= FULL * server.max_clients:
        yield (
            f"{server.clients} of {server.max_clients} connections are open",
            "start fewer workers or use a larger plan; `heroku redis:timeout --seconds 300` closes idle connections",
        )


def _transport_faults(context: Context, target: _Target) -> Iterator[tuple[str, str]]:
    """Yield a fault if passwords and messages are sent over the network without TLS."""
    if context.on_dyno and target.url.startswith("redis://") and urlsplit(target.url).hostname not in _LOCAL:
        yield (
            f"the connection to {host_and_port(target.url)} does not use TLS: others can read its password and all "
            "messages",
            "use a URL that begins with rediss://, such as Heroku's REDIS_URL or REDIS_TLS_URL",
        )


def _summary(server: Server, target: _Target) -> str:
    facts = [f"{server.name or 'a server'} at {host_and_port(target.url)}", str(server.policy)]
    if server.used_bytes is not None:
        facts.append(f"{_mb(server.used_bytes)} MB used" + (f" of {_mb(server.max_bytes)}" if server.max_bytes else ""))
    facts.append(f"{server.clients} of {server.max_clients} connections")
    facts += _room(server)
    if target.tls:
        checked = target.tls["ssl_cert_reqs"] == ssl.CERT_REQUIRED
        facts.append("TLS" if checked else "TLS without verification (REDIS_CA_FILE is not set)")
    if server.persistent is False:
        facts.append("not persistent (no job is lost, because the bucket has all of them)")
    return ", ".join(facts)


def _room(server: Server) -> Iterator[str]:
    """Yield how many processes and jobs a server of limited size can serve."""
    if server.max_clients is not None and server.max_clients <= SMALL_PLAN:
        others = BEAT_CONNECTIONS + CLIENT_CONNECTIONS + PASSING_CONNECTIONS
        free = server.max_clients - worker_connections(0) - others
        each = worker_connections(1) - worker_connections(0)
        yield f"enough connections for a client, beat and a worker of {max(0, free // each)} processes"
    if server.max_bytes and server.used_bytes is not None:
        jobs = max(0, server.max_bytes - server.used_bytes) // (MAX_WINDOW * BYTES_PER_PART)
        yield f"room for {plural(jobs, 'job')} with {MAX_WINDOW:,} parts in the queue, or more smaller ones"


def _mb(size: int) -> str:
    return f"{size / 1e6:,.1f}"
