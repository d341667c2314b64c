"""Loads one file of results into a table, in one transaction with its receipt."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import psycopg
import pyarrow as pa
from psycopg import sql

from scoreline.storage.databases.connection import Connection, is_of_row, is_transient, transaction
from scoreline.storage.errors import DatabaseUnavailable
from scoreline.tasks.databases.encoding import ROW
from scoreline.tasks.databases.file_keys import FileKeys
from scoreline.tasks.databases.part_rows import Batches, PartRows
from scoreline.tasks.databases.refused import Refused, budget_in_words, store_refused
from scoreline.tasks.databases.registry import Receipt, Registry
from scoreline.tasks.databases.stored_rows import COMPARED_ROWS, StoredRows
from scoreline.tasks.databases.tables import Mapped, Table, find_table, identifiers
from scoreline.tasks.job.loads import LoadRequest
from scoreline.tasks.quality.gate.latest import ResultFile
from scoreline.tasks.quality.results.reading import Results

_COPY = "scoreline_copy"
"""Name of the temporary table."""
_TEMPORARY = sql.Identifier("pg_temp", _COPY)
_MOSTLY = 0.75
"""The share of rows that differ above which the next rows of a file are no longer compared before they are copied."""


@dataclass(frozen=True, kw_only=True)
class Budget:
    """How many rows the table may refuse."""

    allowed: str
    rows: int
    """Number of rows of the job."""
    left: int
    """Number of rows that may be refused, after those that the job rejected."""


@dataclass(frozen=True, kw_only=True)
class PartLoader:
    """Loads the files of one job into one table."""

    request: LoadRequest
    registry: Registry
    results: Results
    table: Table
    """The table that receives the rows: the table of the request, or the one that will replace it."""
    columns: Mapped
    schema: pa.Schema
    """The columns of the results."""
    budget: Budget
    at_once: bool
    """Whether rows are first copied into the table itself, because no row is expected to have one of their keys."""
    stored: StoredRows

    def load(self, connection: Connection, part: int, file: ResultFile) -> bool:
        """Load a file unless its receipt exists. Return False if another process is loading it."""
        with self.results.opened(file) as batches, transaction(connection):
            if not self.registry.claim(connection, part):
                return False
            self.registry.check_turn(connection)
            receipts = self.registry.receipts(connection, self.table.oid)
            if part not in receipts:
                self._load(connection, part, file, batches, receipts)
        return True

    def _load(
        self,
        connection: Connection,
        part: int,
        file: ResultFile,
        batches: Batches,
        receipts: Mapping[int, Receipt],
    ) -> None:
        aside = sum(receipt.set_aside for receipt in receipts.values())
        words = budget_in_words(self.budget.allowed, self.budget.rows)
        refused = Refused(allowed=self.budget.left - aside, whole=words)
        self._check_table(connection)
        rows = PartRows(batches=batches, schema=self.schema, columns=self.columns, table=self.table)
        if not (self.at_once and self._copy_at_once(connection, rows)):
            stored = self.stored
            upserts = self.request.mode != "append"  # rows are appended whatever the table has, also with a key
            keys = FileKeys() if upserts and stored.has_plain_key(self.schema) else None
            compared = stored if keys is not None and stored.can_compare(self.schema) else None
            copied, once = self._copy(connection, rows, refused, keys, compared)
            if copied:
                self._insert(connection, file.rows, refused, once)
        uri = ""
        if refused.reasons:
            store, folder = self.results.place
            uri = store_refused(store, folder, self.request.load_id, part, refused, batches())
        loaded = Receipt(rows=file.rows - len(refused.reasons), set_aside=len(refused.reasons))
        self.registry.note(connection, part, self.table.oid, file.sha256, loaded, uri)

    def _create_copy(self, connection: Connection) -> None:
        """Create a temporary table with the types of the columns, but without constraints."""
        connection.execute(
            sql.SQL(
                "CREATE TEMPORARY TABLE {} ON COMMIT DROP AS SELECT 0::bigint AS {}, {} FROM {} WITH NO DATA"
            ).format(sql.Identifier(_COPY), sql.Identifier(ROW), identifiers(self.columns.targets), self.table.sql)
        )

    def _check_table(self, connection: Connection) -> None:
        """Raise `DatabaseUnavailable` if another table has the name now, or the table has other types.

        Receipts are those of one table, and rows are written in the form of its types. The table is locked until the
        transaction ends, so that it stays what it is.
        """
        lock = sql.SQL("SELECT {} FROM {} LIMIT 0").format(identifiers(self.columns.targets), self.table.sql)
        connection.execute(lock)
        found = find_table(connection, self.table.schema, self.table.name)
        if found is None or found.oid != self.table.oid:
            raise DatabaseUnavailable(
                f"table {self.table.schema}.{self.table.name} was dropped or replaced while it was loaded: try again"
            )
        if any(found.types.get(name) != self.table.types[name] for name in self.columns.targets):
            raise DatabaseUnavailable(
                f"columns of table {self.table.schema}.{self.table.name} were given other types meanwhile: try again"
            )

    def _copy_at_once(self, connection: Connection, rows: PartRows) -> bool:
        """Copy all rows into the table itself, which takes half of the time. Return False if it refuses any of them.

        The table refuses a key that is there, so that no row is changed. A deadlock is no reason to give up, because
        the other way writes rows in the order of their keys.
        """
        try:
            with connection.transaction():
                rows.copy(connection, rows.by_key(), self.table.sql, None)
        except psycopg.errors.DeadlockDetected:
            return False
        except psycopg.Error as error:
            if is_transient(error):
                raise
            return False
        return True

    def _copy(
        self,
        connection: Connection,
        rows: PartRows,
        refused: Refused,
        keys: FileKeys | None,
        stored: StoredRows | None,
    ) -> tuple[bool, bool]:
        """Copy all rows into the temporary table, except those whose values do not fit the types.

        Return whether there are any, and whether each key is known to be there once.

        Parameters
        ----------
        keys : FileKeys, optional
            If given, it is looked for keys that are missing or there twice. The file is copied whole if there are any.
        stored : StoredRows, optional
            If given, rows that are in the table with the same values are left out, as long as that saves time.
        """
        try:
            if keys is not None:
                with connection.transaction():
                    copied = self._copy_differing(connection, rows, keys, stored)
                    if copied is not None and keys.are_distinct():
                        return copied, True
                    raise psycopg.Rollback
            with connection.transaction():
                return bool(self._copy_differing(connection, rows, None, None)), False
        except psycopg.Error as error:
            if not is_of_row(error):
                raise
        self._create_copy(connection)
        for batch, numbers in rows.in_order():
            first = int(numbers[0])

            def load(low: int, high: int, batch: pa.RecordBatch = batch, first: int = first) -> None:
                piece = batch.slice(low - first, high - low), np.arange(low, high)
                rows.copy(connection, [piece], _TEMPORARY, ROW)

            refused.search(connection, first, first + batch.num_rows, load)
        return True, False

    def _copy_differing(
        self, connection: Connection, rows: PartRows, keys: FileKeys | None, stored: StoredRows | None
    ) -> bool | None:
        """Return whether there are any rows; None if a key is seen to be missing or there twice."""
        copied = False
        for batch, numbers in rows.by_key(COMPARED_ROWS if stored is not None else None):
            if keys is not None and not keys.add(batch.column(self.columns.key[0])):
                return None
            if stored is not None:
                differs = stored.differing(connection, batch)
                batch, numbers = batch.filter(pa.array(differs)), numbers[differs]
                if differs.mean() > _MOSTLY:
                    stored = None
            if batch.num_rows:
                if not copied:
                    self._create_copy(connection)
                rows.copy(connection, [(batch, numbers)], _TEMPORARY, ROW)
                copied = True
        return copied

    def _insert(self, connection: Connection, rows: int, refused: Refused, once: bool) -> None:
        """Insert the rows of the temporary table, except those that the table refuses.

        Parameters
        ----------
        once : bool
            Whether each key is known to be there once.
        """
        if self.request.mode != "append" and not once:
            self._refuse_without_key(connection, refused)
            self._refuse_repeated(connection, refused)
        try:
            with connection.transaction():
                connection.execute(self._statement(sql.SQL("true")))
        except psycopg.Error as error:
            if not is_of_row(error):
                raise
            connection.execute(sql.SQL("CREATE INDEX ON {} ({})").format(_TEMPORARY, sql.Identifier(ROW)))
            refused.search(connection, 0, rows, lambda low, high: self._insert_range(connection, low, high))

    def _insert_range(self, connection: Connection, low: int, high: int) -> None:
        condition = sql.SQL("{} >= {} AND {} < {}").format(
            sql.Identifier(ROW), sql.Literal(low), sql.Identifier(ROW), sql.Literal(high)
        )
        connection.execute(self._statement(condition))

    def _refuse_without_key(self, connection: Connection, refused: Refused) -> None:
        for name in self.request.key:
            gone = connection.execute(
                sql.SQL("DELETE FROM {} WHERE {} IS NULL RETURNING {}").format(
                    _TEMPORARY, sql.Identifier(name), sql.Identifier(ROW)
                )
            )
            for (row,) in gone.fetchall():
                refused.add(row, f"the key {name!r} is missing")

    def _refuse_repeated(self, connection: Connection, refused: Refused) -> None:
        """Set all rows aside whose key an earlier row of the file has.

        PostgreSQL refuses the second change of a row only if the first one changed it, so this is looked for.
        """
        copy, row, key = _TEMPORARY, sql.Identifier(ROW), identifiers(self.request.key)
        query = sql.SQL("SELECT EXISTS (SELECT FROM {} GROUP BY {} HAVING count(*) > 1)").format(copy, key)
        if connection.execute(query).fetchone() == (False,):
            return
        gone = connection.execute(
            sql.SQL(
                "DELETE FROM {copy} WHERE {row} IN (SELECT {row} FROM (SELECT {row}, row_number() OVER (PARTITION BY "
                "{key} ORDER BY {row}) AS n FROM {copy}) AS numbered WHERE n > 1) RETURNING {row}"
            ).format(copy=copy, row=row, key=key)
        )
        for (number,) in gone.fetchall():
            refused.add(number, "an earlier row has the same key")

    def _statement(self, condition: sql.Composable) -> sql.Composed:
        """Return the statement that inserts rows of the temporary table.

        Rows are inserted in the order of their keys, so that two transactions that change the same rows wait for each
        other and rarely deadlock. Rows that do not change are left out first: ON CONFLICT would lock and log them.
        """
        columns, order = self.columns, sql.Composed([])
        if self.request.key:
            order = sql.SQL(" ORDER BY ") + identifiers(self.request.key)
        insert = sql.SQL("INSERT INTO {} ({}) SELECT {} FROM {} AS copied WHERE {}").format(
            self.table.sql,
            identifiers(columns.targets),
            identifiers(columns.targets),
            _TEMPORARY,
            condition,
        )
        if self.request.mode == "append":
            return insert
        conflict = sql.SQL(" ON CONFLICT ({}) DO ").format(identifiers(self.request.key))
        if not columns.others:
            return insert + order + conflict + sql.SQL("NOTHING")
        stored, copied = (
            sql.SQL("ROW({})").format(sql.SQL(", ").join(self.table.compared(name, row) for name in columns.others))
            for row in ("stored", "copied")
        )
        same_key = sql.SQL(" AND ").join(
            sql.Identifier("stored", name) + sql.SQL(" = ") + sql.Identifier("copied", name)
            for name in self.request.key
        )
        changed = sql.SQL(" AND NOT EXISTS (SELECT FROM {} AS stored WHERE {} AND {} IS NOT DISTINCT FROM {})").format(
            self.table.sql, same_key, stored, copied
        )
        update = sql.SQL("UPDATE SET {}").format(
            sql.SQL(", ").join(
                sql.SQL("{} = {}").format(sql.Identifier(name), sql.Identifier("excluded", name))
                for name in columns.others
            )
        )
        return insert + changed + order + conflict + update
