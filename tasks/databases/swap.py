"""Replaces a whole table at once: a new table is filled beside the old one, and takes its name in one transaction.

Readers see the old table until then. Owner, grants, comments, indexes with their names, constraints, foreign keys and
storage options are kept. A table is refused if anything belongs to it that would be lost, or refers to it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from psycopg import sql

from scoreline.storage.databases import connection as limits
from scoreline.storage.databases.connection import Connection
from scoreline.storage.errors import DatabaseError
from scoreline.storage.hashing import sha256_hex
from scoreline.tasks.databases.tables import Table, find_table
from scoreline.tasks.job.loads import LoadRequest

LOCK_MS = 2_000
"""Milliseconds to wait until nobody uses the old table. New readers wait behind this lock, so it is short."""
_OBSTACLES = (
    (
        "the view {} selects from it",
        "SELECT DISTINCT r.ev_class::regclass::text FROM pg_depend d JOIN pg_rewrite r ON r.oid = d.objid WHERE "
        "d.classid = 'pg_rewrite'::regclass AND d.refclassid = 'pg_class'::regclass AND d.refobjid = %(oid)s AND "
        "r.ev_class <> %(oid)s",
    ),
    (
        "the foreign key {} refers to it",
        "SELECT conname::text FROM pg_constraint WHERE contype = 'f' AND confrelid = %(oid)s",
    ),
    ("it has the trigger {}", "SELECT tgname::text FROM pg_trigger WHERE tgrelid = %(oid)s AND NOT tgisinternal"),
    ("it has the rule {}", "SELECT rulename::text FROM pg_rewrite WHERE ev_class = %(oid)s"),
    ("it has the policy {}", "SELECT polname::text FROM pg_policy WHERE polrelid = %(oid)s"),
    (
        "it owns the sequence {}",
        "SELECT d.objid::regclass::text FROM pg_depend d JOIN pg_class s ON s.oid = d.objid AND s.relkind = 'S' WHERE "
        "d.refclassid = 'pg_class'::regclass AND d.refobjid = %(oid)s AND d.classid = 'pg_class'::regclass",
    ),
    (
        "it is partitioned, or inherits from {}",
        "SELECT coalesce((SELECT inhparent::regclass::text FROM pg_inherits WHERE inhrelid = c.oid LIMIT 1), 'others') "
        "FROM pg_class c WHERE c.oid = %(oid)s AND (c.relkind = 'p' OR EXISTS (SELECT FROM pg_inherits WHERE inhrelid "
        "= c.oid OR inhparent = c.oid))",
    ),
    (
        "the publication {} replicates it",
        "SELECT p.pubname::text FROM pg_publication_rel r JOIN pg_publication p ON p.oid = r.prpubid WHERE r.prrelid = "
        "%(oid)s",
    ),
    ("it has the extended statistics {}", "SELECT stxname::text FROM pg_statistic_ext WHERE stxrelid = %(oid)s"),
    (
        "it has {}",
        "SELECT CASE WHEN relrowsecurity OR relforcerowsecurity THEN 'row-level security' WHEN relreplident <> 'd' "
        "THEN 'a replica identity' WHEN reltablespace <> 0 THEN 'a tablespace of its own' ELSE 'no log' END FROM "
        "pg_class WHERE oid = %(oid)s AND (relrowsecurity OR relforcerowsecurity OR relreplident <> 'd' OR "
        "reltablespace <> 0 OR relpersistence <> 'p')",
    ),
)


def check_replaceable(connection: Connection, table: Table) -> None:
    """Raise `DatabaseError` if something of a table would be lost if another table took its name."""
    found = [
        words.format(name)
        for words, query in _OBSTACLES
        for (name,) in connection.execute(query, {"oid": table.oid}).fetchall()
    ]
    if found:
        raise DatabaseError(
            f"table {table.schema}.{table.name} cannot be replaced: {'; '.join(found)}. Use --mode upsert, or remove "
            "what stands in the way"
        )


def new_name(request: LoadRequest, job_id: str) -> str:
    """Return the name of the table that a load fills before it replaces the old one."""
    return f"scoreline_{sha256_hex(f'{job_id} {request.load_id}'.encode())[:16]}"


def begin_new(connection: Connection, table: Table, name: str) -> Table:
    """Return the table that will replace another one, and create it if necessary, with its foreign keys."""
    if (found := find_table(connection, table.schema, name)) is not None:
        return found
    new = sql.Identifier(table.schema, name)
    connection.execute(sql.SQL("CREATE TABLE {} (LIKE {} INCLUDING ALL)").format(new, table.sql))
    keys = connection.execute(
        "SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint WHERE contype = 'f' AND conrelid = %s",
        (table.oid,),
    )
    for constraint, definition in keys.fetchall():
        connection.execute(
            sql.SQL("ALTER TABLE {} ADD CONSTRAINT {} {}").format(new, sql.Identifier(constraint), sql.SQL(definition))
        )
    created = find_table(connection, table.schema, name)
    if created is None:
        raise DatabaseError(f"table {table.schema}.{name} vanished")
    return created


def drop_new(connection: Connection, schema: str, name: str) -> None:
    """Drop the table of a load that will not replace the old one."""
    connection.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(sql.Identifier(schema, name)))


def swap(connection: Connection, table: Table, new: Table) -> None:
    """Give a new table the name, the owner, the grants and the comment of an old one, and drop the old one."""
    lock_ms = min(limits.LOCK_MS, LOCK_MS)
    connection.execute(f"SET LOCAL lock_timeout = {lock_ms}")
    connection.execute(sql.SQL("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE").format(table.sql))
    check_replaceable(connection, table)
    if _columns(connection, table) != _columns(connection, new):
        raise DatabaseError(
            f"the columns of table {table.schema}.{table.name} were changed while the new table was filled: request "
            "the load again"
        )
    for statement in _ownership(connection, table, new):
        connection.execute(statement)
    for statement in _grants(connection, table, new):  # compared once the owners are the same
        connection.execute(statement)
    names = _index_names(connection, table, new)
    connection.execute(sql.SQL("DROP TABLE {}").format(table.sql))
    connection.execute(sql.SQL("ALTER TABLE {} RENAME TO {}").format(new.sql, sql.Identifier(table.name)))
    for now, before in names:
        connection.execute(
            sql.SQL("ALTER INDEX {} RENAME TO {}").format(sql.Identifier(table.schema, now), sql.Identifier(before))
        )


def _columns(connection: Connection, table: Table) -> list[tuple[Any, ...]]:
    return connection.execute(
        "SELECT attname, format_type(atttypid, atttypmod), attnotnull, attgenerated FROM pg_attribute WHERE attrelid = "
        "%s AND attnum > 0 AND NOT attisdropped ORDER BY attnum",
        (table.oid,),
    ).fetchall()


def _ownership(connection: Connection, table: Table, new: Table) -> Iterator[sql.Composed]:
    """Yield the statements that give a table the owner, the comment and the options of another one."""
    found = connection.execute(
        "SELECT pg_get_userbyid(c.relowner), pg_get_userbyid(n.relowner), obj_description(c.oid, 'pg_class'), "
        "c.reloptions FROM pg_class c, pg_class n WHERE c.oid = %s AND n.oid = %s",
        (table.oid, new.oid),
    ).fetchone()
    owner, new_owner, comment, options = found or ("", "", None, None)
    if comment is not None:
        yield sql.SQL("COMMENT ON TABLE {} IS {}").format(new.sql, sql.Literal(comment))
    for option in options or ():
        name, _, value = option.partition("=")
        yield sql.SQL("ALTER TABLE {} SET ({} = {})").format(new.sql, sql.Identifier(name), sql.Literal(value))
    if owner != new_owner:
        yield sql.SQL("ALTER TABLE {} OWNER TO {}").format(new.sql, sql.Identifier(owner))


_GRANTS = """
SELECT '', e.grantee::regrole::text, e.grantee, e.privilege_type, e.is_grantable FROM pg_class c,
    aclexplode(coalesce(c.relacl, acldefault('r', c.relowner))) e WHERE c.oid = %(oid)s AND e.grantee <> c.relowner
UNION ALL SELECT a.attname, e.grantee::regrole::text, e.grantee, e.privilege_type, e.is_grantable FROM pg_attribute a,
    aclexplode(a.attacl) e WHERE a.attrelid = %(oid)s AND NOT a.attisdropped
"""


def _grants(connection: Connection, table: Table, new: Table) -> Iterator[sql.Composed]:
    """Yield the statements that give a table exactly the grants of another one."""
    before = set(connection.execute(_GRANTS, {"oid": table.oid}).fetchall())
    now = set(connection.execute(_GRANTS, {"oid": new.oid}).fetchall())
    for column, _, oid, privilege, _grantable in now - before:
        yield sql.SQL("REVOKE {} ON {} FROM {}").format(_privilege(privilege, column), new.sql, _role(connection, oid))
    for column, _, oid, privilege, grantable in before - now:
        option = sql.SQL(" WITH GRANT OPTION" if grantable else "")
        grant = sql.SQL("GRANT {} ON {} TO {}").format(_privilege(privilege, column), new.sql, _role(connection, oid))
        yield grant + option


def _privilege(privilege: str, column: str) -> sql.Composable:
    name = sql.SQL(privilege)
    return name + sql.SQL(" ({})").format(sql.Identifier(column)) if column else name


def _role(connection: Connection, oid: int) -> sql.Composable:
    if not oid:
        return sql.SQL("PUBLIC")
    found = connection.execute("SELECT rolname::text FROM pg_roles WHERE oid = %s", (oid,)).fetchone()
    return sql.Identifier(found[0] if found else "")


def _index_names(connection: Connection, table: Table, new: Table) -> list[tuple[str, str]]:
    """Return the name of each index of the new table, and that of the index of the old table with its definition."""
    now, before = ([*_indexes(connection, one)] for one in (new, table))
    if sorted(text for text, _ in now) != sorted(text for text, _ in before):
        raise DatabaseError(
            f"the indexes of table {table.schema}.{table.name} were changed while the new table was filled: request "
            "the load again"
        )
    pairs = zip(sorted(now), sorted(before), strict=True)
    return [(name, old) for (_, name), (_, old) in pairs]


def _indexes(connection: Connection, table: Table) -> Iterator[tuple[str, str]]:
    rows = connection.execute(
        "SELECT c.relname::text, pg_get_indexdef(c.oid) FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid WHERE "
        "i.indrelid = %s",
        (table.oid,),
    )
    for name, definition in rows.fetchall():
        head, _, rest = definition.partition(" USING ")
        yield f"{'UNIQUE' if re.match(r'CREATE UNIQUE', head) else ''} {rest}", name
