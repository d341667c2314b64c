"""Connects to PostgreSQL, and turns its errors into ours, without the address of the database."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from scoreline.storage.databases.settings import Address
from scoreline.storage.errors import DatabaseError, DatabaseUnavailable

CONNECT_S = 10
LOCK_MS = 20_000
"""Milliseconds to wait for a lock. Afterwards, the work is given up, and tried again by a later message."""
STATEMENT_MS = 480_000
"""Milliseconds that a statement may take, which is less than a task may take."""
IDLE_MS = 120_000
"""Milliseconds after which the server ends a transaction whose client is silent, such as a stopped process."""
_TRANSIENT_CLASSES = frozenset({"08", "40", "53", "57", "58"})
"""Classes of SQLSTATE: connection lost, transaction rolled back, no resources, operator intervention, system error."""
_TRANSIENT = frozenset({"25006", "25P03", "55P03", "55006"})
"""Read-only (after a failover), a transaction that was idle too long, lock not available, object in use."""
_OF_ROWS = frozenset({"21", "22", "23", "44", "P0"})
"""Classes of SQLSTATE that a row may cause: cardinality, data, constraints, check options, and errors of triggers."""

type Connection = psycopg.Connection[tuple[Any, ...]]


@contextlib.contextmanager
def connected(address: Address, *, connect_s: int = CONNECT_S) -> Iterator[Connection]:
    """Hold a connection while the block runs. Errors of the database are raised as `DatabaseError`.

    Each transaction sets its own limits, so that a pool of connections in front of the server may be used.
    """
    more: dict[str, Any] = {}
    if address.require_tls and "sslmode=" not in address.url:
        more["sslmode"] = "require"
    with translating(address):
        connection = psycopg.connect(
            address.url,
            connect_timeout=connect_s,
            application_name="scoreline",
            client_encoding="utf8",
            keepalives_idle=30,
            keepalives_interval=10,
            keepalives_count=3,
            prepare_threshold=None,
            autocommit=True,
            **more,
        )
        connection.isolation_level = psycopg.IsolationLevel.READ_COMMITTED  # each statement sees what others committed
        try:
            yield connection
        finally:
            connection.close()


@contextlib.contextmanager
def transaction(connection: Connection) -> Iterator[None]:
    """Run the block in a transaction with limits of time. Constraints are checked at the end of each statement."""
    with connection.transaction():
        connection.execute(
            f"SET LOCAL lock_timeout = {LOCK_MS}; SET LOCAL statement_timeout = {STATEMENT_MS}; "
            f"SET LOCAL idle_in_transaction_session_timeout = {IDLE_MS}; SET LOCAL timezone = 'UTC'; "
            "SET LOCAL datestyle = 'ISO, YMD'; SET LOCAL intervalstyle = 'postgres'; SET CONSTRAINTS ALL IMMEDIATE"
        )
        yield


@contextlib.contextmanager
def snapshot(connection: Connection, timeout_s: int, of: str | None = None) -> Iterator[None]:
    """Run the block in a transaction that only reads, and that sees the database as it was at its first statement.

    Dates, times and numbers are sent in forms that lose nothing, whatever the settings of the role are.

    Parameters
    ----------
    of : str, optional
        What `pg_export_snapshot` returned in a transaction that still goes on. Both see the same state.
    """
    imported = "" if of is None else f"SET TRANSACTION SNAPSHOT {sql.Literal(of).as_string(connection)}; "
    with connection.transaction():
        connection.execute(
            f"SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY; {imported}"
            f"SET LOCAL lock_timeout = {LOCK_MS}; SET LOCAL statement_timeout = {timeout_s * 1000}; "
            f"SET LOCAL idle_in_transaction_session_timeout = {timeout_s * 1000}; SET LOCAL timezone = 'UTC'; "
            "SET LOCAL datestyle = 'ISO, YMD'; SET LOCAL intervalstyle = 'iso_8601'; SET LOCAL bytea_output = 'hex'; "
            "SET LOCAL extra_float_digits = 1; SET LOCAL synchronize_seqscans = off"
        )
        yield


def is_of_row(error: psycopg.Error) -> bool:
    """Return whether a row may have caused an error, so that other rows may be accepted."""
    return (error.sqlstate or "")[:2] in _OF_ROWS


def is_transient(error: psycopg.Error) -> bool:
    """Return whether the same statement may succeed later."""
    state = error.sqlstate
    if state is None:  # the connection was refused or lost
        return isinstance(error, psycopg.OperationalError)
    return state[:2] in _TRANSIENT_CLASSES or state in _TRANSIENT


@contextlib.contextmanager
def translating(address: Address) -> Iterator[None]:
    """Raise `DatabaseUnavailable` or `DatabaseError` for errors of the database in the block."""
    try:
        yield
    except psycopg.Error as error:
        kind = DatabaseUnavailable if is_transient(error) else DatabaseError
        raise kind(f"the database {address}: {reason_of(error, address)}") from None


def reason_of(error: psycopg.Error, address: Address) -> str:
    """Return what the server says, in one line, without parts of the address of the database."""
    text = error.diag.message_primary or " ".join(str(error).split()) or type(error).__name__
    if error.sqlstate == "2BP01" and error.diag.message_detail:  # other objects depend on it: these
        text = f"{text}: {'; '.join(error.diag.message_detail.splitlines())}"
    if error.diag.message_primary is None:  # the driver's own words name the server
        text = re.sub(
            r"(connection failed: )?connection to server (at|on) .*?( failed|$)", "the connection failed", text
        )
        text = re.sub(r"(hostaddr: )'[^']*'", r"\1'…'", text)
    return without_address(text, address.url)


def without_address(text: str, url: str) -> str:
    """Return a text without the parts of a URL.

    >>> without_address('database "shop" of app does not exist at db.example.org', "postgresql://app:x@db.example.org/shop")
    'database "…" of app does not exist at …'
    """
    text = text.replace(url, "…")
    try:
        known = conninfo_to_dict(url)
    except psycopg.Error:  # its message would quote what the driver does not understand, such as a password
        return "the address cannot be understood: write characters such as %, @ and / in it as %25, %40 and %2F"
    whole = [str(known.get("password") or "")]
    for name in ("host", "hostaddr"):
        whole += str(known.get(name) or "").split(",")
    for secret in sorted(whole, key=len, reverse=True):
        if len(secret) > 2:
            for word in {secret, quote(secret, safe="")}:
                text = re.sub(re.escape(word), "…", text, flags=re.IGNORECASE)
    for name in ("user", "dbname"):
        if found := known.get(name):
            text = text.replace(f'"{found}"', '"…"')
    return text
