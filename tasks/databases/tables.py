"""Looks at a table of a database, checks that results fit it, and creates it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import psycopg
import pyarrow as pa
from psycopg import sql
from psycopg.sql import Composable

from scoreline.storage.databases.connection import Connection
from scoreline.storage.errors import DatabaseError
from scoreline.tasks.databases.encoding import sql_type
from scoreline.tasks.job.loads import LoadRequest

_WHOLE = frozenset({"int2", "int4", "int8"})
_NOT_COMPARABLE = frozenset({"json", "xml", "point", "polygon", "box", "path", "line", "lseg", "circle"})
"""Types without an equality by which rows can be compared."""


@dataclass(frozen=True, kw_only=True)
class Mapped:
    """Which column of the results goes into which column of the table, in the order of the table's temporary copy."""

    pairs: tuple[tuple[str, str], ...]
    """Column of the table, and column of the results."""
    key: tuple[str, ...]

    @property
    def targets(self) -> list[str]:
        """The columns of the table."""
        return [target for target, _ in self.pairs]

    @property
    def sources(self) -> list[str]:
        """The columns of the results."""
        return [source for _, source in self.pairs]

    @property
    def others(self) -> list[str]:
        """The columns of the table that do not belong to the key."""
        return [target for target in self.targets if target not in self.key]


def mapped(request: LoadRequest, schema: pa.Schema) -> Mapped:
    """Return which columns are loaded; raises `DatabaseError` if the results lack one."""
    asked = [(target, source or target) for target, _, source in (name.partition("=") for name in request.columns)]
    chosen = dict(asked)
    for name in request.key:
        chosen.setdefault(name, name)
    if not asked:
        taken = set(chosen.values())
        chosen |= {name: name for name in schema.names if name not in taken and name not in chosen}
    missing = [name for name in chosen.values() if name not in schema.names]
    if missing:
        raise DatabaseError(
            f"the results have no column {', '.join(map(repr, missing))}; they have {', '.join(schema.names)}: name "
            "others with --key and --columns, or keep the column with --keep"
        )
    return Mapped(pairs=tuple(chosen.items()), key=request.key)


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table of a database, as its catalog describes it."""

    oid: int
    schema: str
    name: str
    types: Mapping[str, str]
    """The name of the type of each column."""
    vague: frozenset[str] = frozenset()
    """The columns whose collation takes different texts for equal."""

    @property
    def sql(self) -> sql.Identifier:
        """The quoted name."""
        return sql.Identifier(self.schema, self.name)

    def compared(self, column: str, row: str) -> Composable:
        """Return a column of a row in a type that can be compared."""
        name = sql.Identifier(row, column)
        return name + sql.SQL("::text") if self.types[column] in _NOT_COMPARABLE else name


def find_table(connection: Connection, schema: str, name: str) -> Table | None:
    """Return a table; None if it does not exist. Raises `DatabaseError` if it is a view or the like."""
    found = connection.execute(
        "SELECT c.oid, c.relkind FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
        "WHERE n.nspname = %s AND c.relname = %s",
        (schema, name),
    ).fetchone()
    if found is None:
        return None
    oid, kind = found
    if kind not in ("r", "p"):
        raise DatabaseError(f"{schema}.{name} is not a table, but a view or the like: name a table")
    rows = connection.execute(
        "SELECT a.attname, coalesce(b.typname, t.typname), NOT coalesce(l.collisdeterministic, true) FROM "
        "pg_attribute a JOIN pg_type t ON t.oid = a.atttypid LEFT JOIN pg_type b ON b.oid = t.typbasetype LEFT JOIN "
        "pg_collation l ON l.oid = a.attcollation WHERE a.attrelid = %s AND a.attnum > 0 AND NOT a.attisdropped",
        (oid,),
    ).fetchall()
    if not rows and connection.execute("SELECT FROM pg_class WHERE oid = %s", (oid,)).fetchone() is None:
        return find_table(connection, schema, name)  # another table has replaced it between the two statements
    return Table(
        oid=oid,
        schema=schema,
        name=name,
        types={column: kind for column, kind, _ in rows},
        vague=frozenset(column for column, _, vague in rows if vague),
    )


def check_fits(connection: Connection, table: Table, columns: Mapped, request: LoadRequest, schema: pa.Schema) -> None:
    """Raise `DatabaseError` if results do not fit a table: a column is missing, or nothing enforces the key."""
    missing = [name for name in columns.targets if name not in table.types]
    if missing:
        raise DatabaseError(
            f"table {request.table} has no column {', '.join(map(repr, missing))}: add it, or choose with --columns"
        )
    for target, source in columns.pairs:
        if pa.types.is_floating(schema.field(source).type) and table.types[target] in _WHOLE:
            raise DatabaseError(
                f"column {target!r} of table {request.table} has whole numbers, and {source!r} of the results has "
                "fractions: change the type of the column, or load another column with --columns"
            )
    if request.mode == "append":
        return
    keys = connection.execute(
        "SELECT (SELECT array_agg(a.attname::text) FROM pg_attribute a WHERE a.attrelid = i.indrelid AND "
        "a.attnum = ANY (i.indkey[0:i.indnkeyatts - 1])) FROM pg_index i WHERE i.indrelid = %s AND i.indisunique "
        "AND i.indisvalid AND i.indimmediate AND i.indpred IS NULL AND i.indexprs IS NULL",
        (table.oid,),
    ).fetchall()
    if not any(set(names or ()) == set(request.key) for (names,) in keys):
        raise DatabaseError(
            f"table {request.table} has no primary key or unique index on exactly {', '.join(request.key)}, so that "
            "rows could be there twice: create one that is neither partial nor deferrable"
        )


def is_empty(connection: Connection, table: Table) -> bool:
    """Return whether a table has had no row since it was created or truncated. A locked table is not waited for."""
    try:
        with connection.transaction():
            connection.execute(sql.SQL("LOCK TABLE {} IN ACCESS SHARE MODE NOWAIT").format(table.sql))
            found = connection.execute("SELECT pg_relation_size(%s) = 0", (table.oid,)).fetchone()
    except psycopg.errors.LockNotAvailable:
        return False
    return found == (True,)


def takes_rows_at_once(connection: Connection, table: Table, request: LoadRequest) -> bool:
    """Return whether COPY into a table itself does what INSERT does, and the table refuses rows without a key.

    COPY ignores rules, and it writes identity columns that INSERT refuses to write. A table with triggers is left to
    INSERT, because its statement may have triggers for changes too.
    """
    found = connection.execute(
        "SELECT c.relkind = 'r' AND NOT c.relhasrules AND NOT EXISTS (SELECT FROM pg_trigger WHERE tgrelid = c.oid AND "
        "NOT tgisinternal) AND NOT EXISTS (SELECT FROM pg_attribute WHERE attrelid = c.oid AND attnum > 0 AND "
        "(attidentity = 'a' OR attname = ANY (%s) AND NOT attnotnull)) FROM pg_class c WHERE c.oid = %s",
        (list(request.key), table.oid),
    ).fetchone()
    return found == (True,)


def create_table(
    connection: Connection, request: LoadRequest, columns: Mapped, schema: pa.Schema, comment: str
) -> None:
    """Create the table of a request with the types of the results."""
    fields: list[Composable] = [
        sql.Identifier(target) + sql.SQL(" ") + sql.SQL(sql_type(schema.field(source).type, source))
        for target, source in columns.pairs
    ]
    if request.key:
        fields.append(sql.SQL("PRIMARY KEY ({})").format(identifiers(request.key)))
    name = sql.Identifier(request.schema, request.name)
    connection.execute(sql.SQL("CREATE TABLE {} ({})").format(name, sql.SQL(", ").join(fields)))
    connection.execute(sql.SQL("COMMENT ON TABLE {} IS {}").format(name, sql.Literal(comment)))


def identifiers(names: Any) -> sql.Composed:
    """Return quoted names, separated by commas."""
    return sql.SQL(", ").join(map(sql.Identifier, names))
