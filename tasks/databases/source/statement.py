"""Finds the parameters of a query, such as ``:day``, and binds their values without writing them into the SQL.

COPY, which streams rows several times faster than a cursor, takes no parameters. The values are therefore bound to
settings of the transaction, from which the query reads them. Each is converted to the type that the server infers for
the parameter, so that the query means what it would mean with ordinary parameters.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import psycopg
from psycopg import sql
from psycopg.pq import DiagnosticField, ExecStatus
from psycopg.pq.abc import PGresult

from scoreline.storage.databases.connection import Connection
from scoreline.storage.errors import InvalidRequest

_TOKEN = re.compile(
    r"""
    [eE]'(?:[^'\\]|\\.|'')*' | '(?:[^']|'')*'   # texts
    | "(?:[^"]|"")*"                            # names
    | --[^\n]* | /\*.*?\*/                      # comments
    | \$(?P<tag>(?:[A-Za-z_]\w*)?)\$.*?\$(?P=tag)\$
    | :: | (?<![:\w]):(?P<name>[A-Za-z_]\w*)
    """,
    re.VERBOSE | re.DOTALL,
)
_PREFIX = "scoreline.p"


@dataclass(frozen=True, kw_only=True)
class Statement:
    """A query, cut at its parameters: the names of the parameters are between the pieces of text."""

    texts: tuple[str, ...]
    names: tuple[str, ...]

    @property
    def parameters(self) -> tuple[str, ...]:
        """The names of the parameters, each once."""
        return tuple(dict.fromkeys(self.names))

    def filled(self, by_name: Mapping[str, str]) -> str:
        """Return the query with a text in place of each parameter."""
        between = [*(by_name[name] for name in self.names), ""]
        return "".join(text + more for text, more in zip(self.texts, between, strict=True))


def parse(query: str) -> Statement:
    """Find the parameters of a query. Texts, quoted names, comments and casts have none.

    >>> parse("SELECT ':a', b::text FROM t WHERE day = :day AND c = :day").names
    ('day', 'day')
    """
    query = query.strip().rstrip(";")
    texts, names, last = [], [], 0
    for found in _TOKEN.finditer(query):
        if found["name"]:
            texts.append(query[last : found.start()])
            names.append(found["name"])
            last = found.end()
    return Statement(texts=(*texts, query[last:]), names=tuple(names))


def check_parameters(statement: Statement, given: Mapping[str, str], what: str) -> None:
    """Raise `InvalidRequest` if a parameter has no value, or a value has no parameter."""
    known = statement.parameters
    if missing := [name for name in known if name not in given]:
        raise InvalidRequest(f"{what} needs the parameter {', '.join(missing)}: add --param {missing[0]}=VALUE")
    if extra := [name for name in given if name not in known]:
        has = f"has {', '.join(known)}" if known else "has none"
        raise InvalidRequest(f"{what} has no parameter {', '.join(extra)}; it {has}")


@dataclass(frozen=True, kw_only=True)
class Described:
    """A column of the result of a query, as the server describes it."""

    name: str
    type_oid: int
    modifier: int


def describe(connection: Connection, statement: Statement, what: str) -> tuple[tuple[Described, ...], dict[str, str]]:
    """Return the columns of a query, and the type of each of its parameters. The query does not run."""
    numbers = {name: f"${number}" for number, name in enumerate(statement.parameters, 1)}
    accepted(connection.pgconn.prepare(b"", statement.filled(numbers).encode()))
    found = accepted(connection.pgconn.describe_prepared(b""))
    if found.nparams != len(numbers):
        raise InvalidRequest(f"{what} has parameters such as $1: write them as :name")
    oids = [found.param_type(number) for number in range(found.nparams)]
    types = {}
    for name, oid in zip(numbers, oids, strict=True):
        # -1 says that the length is not known. Without it, char and bit would have the length 1
        row = connection.execute("SELECT format_type(%s, -1)", (oid,)).fetchone()
        types[name] = str(row[0]) if row else "text"
    columns = tuple(
        Described(name=(found.fname(n) or b"").decode(), type_oid=found.ftype(n), modifier=found.fmod(n))
        for n in range(found.nfields)
    )
    return columns, types


def bind(
    connection: Connection, statement: Statement, types: Mapping[str, str], given: Mapping[str, str], what: str
) -> str:
    """Bind the values of parameters to settings of the transaction. Return the query that reads them.

    Raises
    ------
    InvalidRequest
        A value does not have the type of its parameter. The message does not quote the value.
    """
    settings = {}
    for number, name in enumerate(statement.parameters, 1):
        setting = f"{_PREFIX}{number}"
        settings[name] = f"(current_setting('{setting}')::{types[name]})"
        try:
            with connection.transaction():  # a savepoint
                connection.execute("SELECT set_config(%s, %s, true)", (setting, given[name]))
                connection.execute(f"SELECT {settings[name]}".encode())
        except psycopg.DataError:
            raise InvalidRequest(
                f"the value of the parameter {name!r} is not a {types[name]}, which {what} compares it with"
            ) from None
    return statement.filled(settings)


def accepted(result: PGresult) -> PGresult:
    """Return a result of the driver; raise its error, if it is one."""
    if result.status == ExecStatus.FATAL_ERROR:
        if result.error_field(DiagnosticField.SQLSTATE) is None:  # of libpq, which has lost the connection
            raise psycopg.OperationalError(result.get_error_message())
        raise psycopg.errors.error_from_result(result, encoding="utf-8")
    return result


def of_table(table: str, recent: str | None) -> str:
    """Return the query that reads a table, with the parameters ``since`` and ``until`` if only recent rows are read.

    >>> of_table("public.customers", None)
    'SELECT * FROM "public"."customers"'
    """
    schema, _, name = table.partition(".")
    query = sql.SQL("SELECT * FROM {}").format(sql.Identifier(schema, name))
    if recent is not None:
        query += sql.SQL(" WHERE {0} > :since AND {0} <= :until").format(sql.Identifier(recent))
    return query.as_string()
