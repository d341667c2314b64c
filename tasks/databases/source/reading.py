"""Streams the rows of a query into Arrow, in one transaction that sees one state of the database.

`receiving` collects what COPY sends in blocks, and `decoding` decodes them. The driver for Arrow (ADBC) has no
parameters with COPY, and types of its own for numeric, enums, domains and uuid.
"""

from __future__ import annotations

import contextlib
import functools
import re
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence

import psycopg
import pyarrow as pa

from scoreline.storage.databases.connection import Connection, connected, is_transient, reason_of, snapshot
from scoreline.storage.databases.settings import Address
from scoreline.storage.errors import DatabaseError, DatabaseUnavailable
from scoreline.tasks.databases.source.decoding import from_binary, from_csv, is_binary, schema_of
from scoreline.tasks.databases.source.pieces import pieces_of_query, pieces_of_table
from scoreline.tasks.databases.source.readers import read_pieces
from scoreline.tasks.databases.source.receiving import blocks
from scoreline.tasks.databases.source.statement import bind, check_parameters, describe, parse
from scoreline.tasks.databases.source.types import Column, columns_of

_DATA = ("22", "P0")
"""Classes of SQLSTATE whose messages quote values: of data, or written by a function."""
_QUOTED = re.compile(r'["«»„“「].*["«»“”」]', re.DOTALL)
"""What the server quotes, in any of its languages. A value may contain a quote itself."""
_CANCELED, _READ_ONLY = "57014", "25006"


def read_rows(
    address: Address,
    query: str,
    parameters: Mapping[str, str],
    *,
    timeout_s: int,
    what: str,
    table: str | None = None,
    split_by: str | None = None,
    connections: int = 1,
) -> Generator[tuple[tuple[Column, ...], pa.Table]]:
    """Yield the columns of a query, each time with some of its rows, in the order of the server. The first has none.

    The generator owns the connection. It must be closed by the thread that iterates over it.

    Parameters
    ----------
    what : str
        The name of the query, for messages.
    table : str, optional
        The table, if the query reads all of it. It is then read in the order of its blocks.
    split_by : str, optional
        The column by whose ranges the query is read, in their order.
    connections : int
        Maximum number of connections that read a table, or a query with `split_by`. The rows and their order do not
        depend on it.

    Raises
    ------
    InvalidRequest
        A parameter is missing, unknown or of the wrong type, or a column cannot be read without loss.
    DatabaseError
        The server refuses the query, or the query takes too long. The message quotes no value and no address.
    DatabaseUnavailable
        Transient: the connection was lost, or the server cannot answer now.
    """
    statement = parse(query)
    check_parameters(statement, parameters, what)
    with connected(address) as connection:
        try:
            with snapshot(connection, timeout_s):
                described, types = describe(connection, statement, what)
                columns = columns_of(connection, described, what)
                bound = bind(connection, statement, types, parameters, what)
                yield columns, schema_of(columns).empty_table()
                until = time.monotonic() + timeout_s
                pieces = [bound]
                if table is not None:
                    pieces = pieces_of_table(connection, table, bound)
                elif split_by is not None:
                    pieces = pieces_of_query(connection, described, bound, split_by, what)

                def copy(reader: Connection, piece: str) -> Generator[pa.Table]:
                    left_ms = max(1, int((until - time.monotonic()) * 1000))
                    reader.execute(f"SET LOCAL statement_timeout = {left_ms}".encode())
                    return copied(reader, piece, columns, what)

                set_up = functools.partial(bind, statement=statement, types=types, given=parameters, what=what)
                exported = _exported(connection, pieces, connections)
                join = functools.partial(_joined, address, timeout_s, exported, set_up)
                with contextlib.closing(read_pieces(connection, join, copy, pieces, connections)) as rows:
                    for some in rows:
                        yield columns, some
        except psycopg.Error as error:
            raise _refused(error, address, timeout_s, what) from None


def _exported(connection: Connection, pieces: Sequence[str], connections: int) -> str | None:
    """Return the name of the snapshot for other connections; None if no other connection reads."""
    if min(len(pieces), connections) < 2:
        return None
    row = connection.execute("SELECT pg_export_snapshot()").fetchone()
    return str(row[0]) if row else None


@contextlib.contextmanager
def _joined(
    address: Address, timeout_s: int, of: str | None, set_up: Callable[[Connection], object]
) -> Iterator[Connection | None]:
    """Hold another connection that sees a snapshot; None if the server has no connection left, or no such snapshot."""
    with contextlib.ExitStack() as stack:
        found = None
        if of is not None:
            with contextlib.suppress(psycopg.Error, DatabaseError):
                connection = stack.enter_context(connected(address))
                stack.enter_context(snapshot(connection, timeout_s, of))
                set_up(connection)
                found = connection
        yield found


def copied(connection: Connection, query: str, columns: Sequence[Column], what: str) -> Generator[pa.Table]:
    """Yield the rows of a query, in blocks. Raise errors of the driver, and `InvalidRequest`."""
    binary = is_binary(columns, connection.info.parameter_status("server_encoding"))
    with contextlib.closing(blocks(connection, query, "binary" if binary else "csv")) as found:
        for block in found:
            yield (from_binary if binary else from_csv)(block, columns, what)


def _refused(error: psycopg.Error, address: Address, timeout_s: int, what: str) -> DatabaseError:
    """Return the error for one of the server, without values."""
    state, reason = error.sqlstate or "", reason_of(error, address)
    if state == _CANCELED and "statement timeout" in reason:
        return DatabaseError(
            f"{what} took longer than {timeout_s} s on the database {address}: read fewer rows, add an index, or raise "
            "SOURCE_TIMEOUT_S of the workers"
        )
    if state == _READ_ONLY:
        return DatabaseError(f"{what} writes, and jobs only read ({reason}): write a SELECT without such functions")
    if state[:2] in _DATA:
        reason = "a function raised an error" if state[:2] == "P0" else _QUOTED.sub('"…"', reason)
        reason = f"{reason} (SQLSTATE {state})"
    if is_transient(error) and state != _CANCELED:
        return DatabaseUnavailable(f"{what} on the database {address}: {reason}")
    return DatabaseError(f"{what} on the database {address}: {reason}")
