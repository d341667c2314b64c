"""Checks the databases that rows are read from or results are loaded into: rights, version, TLS, connections."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from scoreline.storage.databases.settings import Address, DatabaseSettings
from scoreline.storage.errors import DatabaseError, InvalidSettings, describe
from scoreline.worker.doctor.check import Finding, error, ok, warning
from scoreline.worker.doctor.context import ANSWER_S, Context

OLDEST = 140_000
"""The oldest version of PostgreSQL that its developers still maintain, as ``server_version_num``."""
_QUERY = """
SELECT current_setting('server_version'), current_setting('server_version_num')::int,
    pg_is_in_recovery() OR current_setting('default_transaction_read_only')::boolean,
    has_database_privilege(current_database(), 'TEMPORARY'),
    coalesce((SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()), false),
    inet_server_addr() IS NULL OR inet_server_addr() << '127.0.0.0/8'::inet,
    (SELECT CASE WHEN rolconnlimit < 0 THEN current_setting('max_connections')::int ELSE least(rolconnlimit,
        current_setting('max_connections')::int) END FROM pg_roles WHERE rolname = current_user),
    (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend')
"""


@dataclass(frozen=True, kw_only=True)
class _Server:
    version: str
    number: int
    read_only: bool
    temporary: bool
    tls: bool
    local: bool
    limit: int
    used: int


def database(context: Context) -> Iterator[Finding]:
    """Check every database that the workers know. Nothing is written there."""
    try:
        settings = DatabaseSettings.from_env(context.environ)
    except InvalidSettings as fault:
        yield error(describe(fault), "correct the settings of the workers")
        return
    known = [*([settings.results] if settings.results else []), *settings.named.values()]
    source = settings.source if settings.source not in known else None
    if not known and source is None:
        yield ok("no database is set, so that no results are loaded and no rows are read")
        return
    if known and not settings.allowed_tables:
        yield warning(
            "ALLOWED_TABLES is not set: no results can be loaded",
            "name the tables, such as ALLOWED_TABLES=public.scores",
        )
    for address in known:
        yield from _examine(context, settings, address)
    if source is not None:
        yield from _examine(context, settings, source, only_read=True)


def _examine(
    context: Context, settings: DatabaseSettings, address: Address, *, only_read: bool = False
) -> Iterator[Finding]:
    try:
        from scoreline.storage.databases.connection import connected
    except ModuleNotFoundError as fault:
        yield error(f"{address}: {fault.name!r} is not installed", "pip install -r ml-requirements.txt")
        return
    try:
        with connected(address, connect_s=ANSWER_S) as connection:
            row = connection.execute(_QUERY).fetchone()
    except DatabaseError as fault:
        yield error(describe(fault), f"correct {address}, or start the server")
        return
    names = tuple(_Server.__dataclass_fields__)
    server = _Server(**dict(zip(names, row or (), strict=True)))
    wrong = [*_faults(context, settings, server, only_read=only_read)]
    for message, remedy in wrong:
        yield warning(f"{address}: {message}", remedy)
    if not wrong:
        tls = "TLS" if server.tls else "no TLS, on this machine"
        yield ok(f"{address}: PostgreSQL {server.version}, {tls}, {server.used} of {server.limit} connections")


def _faults(
    context: Context, settings: DatabaseSettings, server: _Server, *, only_read: bool
) -> Iterator[tuple[str, str]]:
    if server.number < OLDEST:
        yield (
            f"PostgreSQL {server.version} is older than {OLDEST // 10_000}, the oldest version that is maintained",
            "upgrade the server",
        )
    if server.read_only and not only_read:
        yield "the server is read-only, so that loads wait", "use the address of the leader, not of a follower"
    if not server.temporary and not only_read:
        yield (
            "the role may not create temporary tables, which every load needs",
            "GRANT TEMPORARY ON DATABASE … TO the role",
        )
    if not server.tls and not server.local:
        yield (
            "the connection does not use TLS: others can read its password and all rows",
            "add sslmode=require to the URL",
        )
    needed = (
        context.processes * settings.source_connections
        if only_read
        else min(settings.load_connections, context.processes)
    )
    what, lower = (
        ("jobs", "run fewer processes, or lower SOURCE_CONNECTIONS")
        if only_read
        else ("a load", "lower LOAD_CONNECTIONS")
    )
    if server.used + needed > server.limit:
        yield (
            f"{server.used} of {server.limit} connections are open, and {what} may need {needed} more",
            f"{lower}, or use a plan with more connections",
        )
