"""Streams the rows of a query into Arrow, in one transaction that sees one state of the database.

COPY sends CSV, libpq cuts it into rows, and Arrow's reader, which is compiled, decodes it. To read 2,000,000 rows of 6
columns and to write them as Parquet takes 1.4 s of CPU time; with the driver's own iterator over rows, it takes 5 s.
The driver for Arrow (ADBC) has no parameters with COPY, and types of its own for numeric, enums, domains and uuid.
"""

from __future__ import annotations

import contextlib
import re
import selectors
from collections.abc import Generator, Iterator, Mapping, Sequence

import psycopg
import pyarrow as pa
import pyarrow.csv as pa_csv
from psycopg.pq import TransactionStatus

from scoreline.storage.databases.connection import CONNECT_S, Connection, connected, is_transient, reason_of, snapshot
from scoreline.storage.databases.settings import Address
from scoreline.storage.errors import DatabaseError, DatabaseUnavailable, InvalidRequest
from scoreline.tasks.databases.source.statement import accepted, bind, check_parameters, describe, parse
from scoreline.tasks.databases.source.types import Column, columns_of

BLOCK_BYTES = 4 << 20
"""Number of bytes of CSV that are decoded at a time."""
_DATA = ("22", "P0")
"""Classes of SQLSTATE whose messages quote values: of data, or written by a function."""
_QUOTED = re.compile(r'["«»„“「].*["«»“”」]', re.DOTALL)
"""What the server quotes, in any of its languages. A value may contain a quote itself."""
_CANCELED, _READ_ONLY = "57014", "25006"
_IN_COLUMN = re.compile(r"In CSV column #(\d+)")


def read_rows(
    address: Address, query: str, parameters: Mapping[str, str], *, timeout_s: int, what: str
) -> Generator[tuple[tuple[Column, ...], pa.Table]]:
    """Yield the columns of a query, each time with some of its rows, in the order of the server. The first has none.

    The generator owns the connection. It must be closed by the thread that iterates over it.

    Parameters
    ----------
    what : str
        The name of the query, for messages.

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
                yield columns, _schema(columns).empty_table()
                with contextlib.closing(_blocks(connection, bound)) as blocks:
                    for block in blocks:
                        yield columns, _decode(block, columns, what)
        except psycopg.Error as error:
            raise _refused(error, address, timeout_s, what) from None


def _blocks(connection: Connection, query: str) -> Generator[bytearray]:
    """Yield CSV of about `BLOCK_BYTES`, which ends with a row.

    Rows are taken from libpq directly, because the driver's own iterator takes much more CPU time than all the rest.
    """
    server = connection.pgconn
    accepted(server.exec_(f"COPY ({query}\n) TO STDOUT (FORMAT csv)".encode()))
    try:
        with selectors.DefaultSelector() as answers:
            answers.register(server.socket, selectors.EVENT_READ)
            block = bytearray()
            while (found := server.get_copy_data(1))[0] >= 0:
                size, row = found
                if not size:  # the rest of the row is on its way
                    answers.select()
                    server.consume_input()
                    continue
                block += row
                if len(block) >= BLOCK_BYTES:
                    yield block
                    block = bytearray()
            while server.is_busy():
                answers.select()
                server.consume_input()
        for result in list(iter(server.get_result, None)):
            accepted(result)
        if block:
            yield block
    finally:
        if server.transaction_status == TransactionStatus.ACTIVE:  # the query would go on
            with contextlib.suppress(psycopg.Error):
                connection.cancel_safe(timeout=CONNECT_S)
            connection.close()


def _schema(columns: Sequence[Column]) -> pa.Schema:
    return pa.schema([(column.name, column.kind) for column in columns])


def _decode(block: bytearray, columns: Sequence[Column], what: str) -> pa.Table:
    names = [str(number) for number in range(len(columns))]  # as column names may be equal but for case, or empty
    kinds = {
        name: pa.string() if pa.types.is_binary(column.kind) else column.kind
        for name, column in zip(names, columns, strict=True)
    }
    try:
        table = pa_csv.read_csv(
            pa.py_buffer(block),
            read_options=pa_csv.ReadOptions(column_names=names, use_threads=False, block_size=len(block) + 1),
            parse_options=pa_csv.ParseOptions(newlines_in_values=True, ignore_empty_lines=False),
            convert_options=pa_csv.ConvertOptions(
                column_types=kinds,
                null_values=[""],
                strings_can_be_null=True,
                quoted_strings_can_be_null=False,
                true_values=["t"],
                false_values=["f"],
            ),
        )
    except pa.ArrowInvalid as error:  # its message quotes the value
        found = _IN_COLUMN.search(str(error))
        raise _unreadable(columns[int(found[1])] if found else None, what) from None
    arrays = [_bytes(array) if pa.types.is_binary(column.kind) else array for array, column in _pairs(table, columns)]
    return pa.table(arrays, schema=_schema(columns))


def _pairs(table: pa.Table, columns: Sequence[Column]) -> Iterator[tuple[pa.ChunkedArray, Column]]:
    return zip(table.columns, columns, strict=True)


def _bytes(texts: pa.ChunkedArray) -> pa.Array:
    r"""Return the bytes of texts such as ``\x0a``."""
    return pa.array([None if text is None else bytes.fromhex(text[2:]) for text in texts.to_pylist()], pa.binary())


def _unreadable(column: Column | None, what: str) -> InvalidRequest:
    if column is None:
        return InvalidRequest(f"{what} returns rows that cannot be read: cast its columns to text")
    if pa.types.is_decimal(column.kind):
        why = "a value that is no number, such as NaN"
    elif pa.types.is_temporal(column.kind):
        why = "a value that no calendar has, such as infinity, 24:00, or a year before 1 or after 9999"
    else:
        why = "a value that does not fit"
    return InvalidRequest(
        f"{what}: column {column.name!r} ({column.source}) has {why}: leave such rows out, or cast the column, such as "
        f"{column.name}::text"
    )


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
