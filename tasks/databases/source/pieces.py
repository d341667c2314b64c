"""Cuts the rows of a job into pieces, each of which is a query. One after another, they return every row once.

A table is cut into ranges of its blocks (`ctid`), which the server finds without an index, whatever the key is. A query
is cut into ranges of the integer key that its `split_by` names. How rows are cut depends on the database alone, and not
on the number of readers, so that the same files are staged by any number of them.
"""

from __future__ import annotations

from itertools import pairwise

from psycopg import sql

from scoreline.storage.databases.connection import Connection
from scoreline.storage.errors import InvalidRequest
from scoreline.tasks.databases.source.statement import Described

PIECE_BLOCKS = 1_024
"""Number of blocks of a table in a piece: 8 MiB of 8 KiB blocks. Each reader may be a piece ahead, in memory."""
KEY_PIECES = 16
"""Number of pieces of a query."""
_RANGES_OF_BLOCKS = 140_000
"""The oldest version of the server that finds a range of blocks without reading all of them."""
_INTEGERS = frozenset({20, 21, 23})
_BLOCKS = """
SELECT pg_relation_size(c.oid) / current_setting('block_size')::bigint
FROM pg_class c JOIN pg_am a ON a.oid = c.relam
WHERE c.oid = to_regclass(%s) AND c.relkind IN ('r', 'm') AND NOT c.relhassubclass AND a.amname = 'heap'
"""


def pieces_of_table(connection: Connection, table: str, query: str) -> list[str]:
    """Return the pieces of ``SELECT * FROM table`` in the order of the blocks; one if the table has no blocks.

    The transaction has a lock on the table, so that no row gets another place. Rows beyond the blocks of today are of
    transactions that the snapshot does not see.
    """
    if connection.info.server_version < _RANGES_OF_BLOCKS:
        return [query]
    schema, _, name = table.partition(".")
    row = connection.execute(_BLOCKS, (sql.Identifier(schema, name).as_string(connection),)).fetchone()
    blocks = int(row[0]) if row else 0  # a view, a partitioned or foreign table, or one whose rows are in other tables
    bounds = ["", *(f"'({block},0)'::tid" for block in range(PIECE_BLOCKS, blocks, PIECE_BLOCKS)), ""]
    return [_between(query, "ctid", *both) for both in pairwise(bounds)]


def pieces_of_query(
    connection: Connection, columns: tuple[Described, ...], query: str, key: str, what: str
) -> list[str]:
    """Return the pieces of a query in the order of its key. Rows without a key are in the first piece.

    Raises
    ------
    InvalidRequest
        The query has no such column of integers.
    """
    if not any(column.name == key and column.type_oid in _INTEGERS for column in columns):
        raise InvalidRequest(f"{what}: split_by = {key!r} is no column of integers that it returns: name another")
    name = sql.Identifier(key).as_string(connection)
    found = connection.execute(
        f"SELECT min({name})::bigint, max({name})::bigint FROM ({query}\n) q".encode()
    ).fetchone()
    least, most = found or (None, None)
    if least is None or most is None:
        return [query]
    step = max(1, -(-(most - least + 1) // KEY_PIECES))
    bounds = ["", *map(str, range(least + step, most + 1, step)), ""]
    every = f"SELECT * FROM ({query}\n) q"
    return [
        _between(every, name, *both) + (f" OR {name} IS NULL" if not both[0] and both[1] else "")
        for both in pairwise(bounds)
    ]


def _between(query: str, name: str, least: str, below: str) -> str:
    """Return a query with a condition, in which an empty bound does not count."""
    conditions = [f"{name} {than} {bound}" for than, bound in ((">=", least), ("<", below)) if bound]
    return f"{query} WHERE {' AND '.join(conditions)}" if conditions else query
