"""Keeps the receipts of loaded parts, and the order of the jobs of each table, in the database itself.

Both tables are in the schema of the loaded table. What they say is committed together with the rows, so it is true
whenever a process dies, and Redis may lose everything. The tables are:

``scoreline_loads``
    One receipt for each part of a load: the digest of the file, and how many rows were loaded and set aside.
``scoreline_tables``
    One row for each table: the newest job that is, or was, loaded into the table, and which load of that job. Only
    this load may load a part. A newer job, or another load of the job, takes the place once this load has ended; an
    older job is superseded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC

from psycopg import sql

from scoreline.storage.databases.connection import Connection
from scoreline.storage.errors import DatabaseUnavailable, LoadSuperseded
from scoreline.tasks.databases.stored_column import quoted
from scoreline.tasks.databases.tables import Table, is_empty
from scoreline.tasks.job.loads import LoadRequest
from scoreline.tasks.quality.gate.latest import Place

_BEGUN = -1
"""The part of the receipt that says that a request was begun. It names the table if the table was empty then."""
_CREATE = """
CREATE TABLE IF NOT EXISTS {loads} (
    job text, load text, part integer, number integer NOT NULL, table_oid bigint NOT NULL, digest text NOT NULL,
    rows bigint NOT NULL, set_aside bigint NOT NULL, refused text NOT NULL DEFAULT '',
    loaded timestamptz NOT NULL DEFAULT now(), PRIMARY KEY (job, load, part));
CREATE TABLE IF NOT EXISTS {tables} (
    name text PRIMARY KEY, place text COLLATE "C" NOT NULL, job text NOT NULL, load text NOT NULL,
    ended boolean NOT NULL, changed timestamptz NOT NULL DEFAULT now());
"""


@dataclass(frozen=True, kw_only=True)
class Receipt:
    """What a part of a load has done."""

    rows: int
    set_aside: int


@dataclass(frozen=True, kw_only=True)
class Registry:
    """The receipts and the order of one load."""

    request: LoadRequest
    job_id: str
    place: str
    """The place of the job among all jobs; a newer job has a larger text."""

    @property
    def _loads(self) -> sql.Identifier:
        return quoted(self.request.schema, "scoreline_loads")

    @property
    def _tables(self) -> sql.Identifier:
        return quoted(self.request.schema, "scoreline_tables")

    def create(self, connection: Connection) -> None:
        """Create the two tables unless they exist."""
        found = connection.execute(
            "SELECT count(*) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = %s AND "
            "c.relname IN ('scoreline_loads', 'scoreline_tables')",
            (self.request.schema,),
        ).fetchone()
        if found != (2,):
            # two processes that create the same table at once collide in the catalog
            connection.execute("SELECT pg_advisory_xact_lock(hashtextextended('scoreline tables', 0))")
            loads, tables = (
                sql.Identifier(self.request.schema, name) for name in ("scoreline_loads", "scoreline_tables")
            )
            connection.execute(sql.SQL(_CREATE).format(loads=loads, tables=tables))  # without parameters

    def lock_order(self, connection: Connection) -> None:
        """Let only this transaction begin a load into the table."""
        connection.execute(
            "SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", (f"scoreline table {self.request.table}",)
        )

    def take_turn(self, connection: Connection, table: Table, is_over: Callable[[str, str], bool]) -> None:
        """Become the job that may load the table, if it is this job's turn.

        Parameters
        ----------
        is_over : callable
            Returns whether the load of another job has ended, by its id and the id of the load.

        Raises
        ------
        LoadSuperseded
            A newer job was loaded, or is being loaded.
        DatabaseUnavailable
            Transient: an older job is still being loaded.
        """
        request = self.request
        if request.mode == "append":
            return
        query = sql.SQL("SELECT place, job, load, ended FROM {} WHERE name = %s").format(self._tables)
        found = connection.execute(query, (request.table,)).fetchone()
        if found == (self.place, self.job_id, request.load_id, False) and self._begun(connection) >= request.number:
            return  # without a lock, for which parts under way would have to be waited for
        self.lock_order(connection)
        found = connection.execute(query + sql.SQL(" FOR UPDATE"), (request.table,)).fetchone()
        if found is not None:
            place, job, load, ended = found
            if place > self.place and not (request.older and self._begun(connection) < request.older):
                raise LoadSuperseded(
                    f"table {request.table} has the values of job {job}, which is newer: they are kept. `scoreline "
                    f"load {self.job_id} --into {request.table} --older` replaces them all the same"
                )
            if (place, load) != (self.place, request.load_id) and not ended and not is_over(job, load):
                which = "another load of this job" if job == self.job_id else f"job {job}"
                raise DatabaseUnavailable(f"{which} is being loaded into table {request.table}: wait until it ends")
        connection.execute(
            sql.SQL(
                "INSERT INTO {} (name, place, job, load, ended) VALUES (%s, %s, %s, %s, false) ON CONFLICT (name) DO "
                "UPDATE SET place = EXCLUDED.place, job = EXCLUDED.job, load = EXCLUDED.load, ended = false, "
                "changed = now()"
            ).format(self._tables),
            (self.request.table, self.place, self.job_id, self.request.load_id),
        )
        if self._begun(connection) < request.number:
            oid = table.oid if is_empty(connection, table) else 0
            self.note(connection, _BEGUN, oid, "", Receipt(rows=0, set_aside=0), "")

    def _begun(self, connection: Connection) -> int:
        found = connection.execute(
            sql.SQL("SELECT number FROM {} WHERE job = %s AND load = %s AND part = %s").format(self._loads),
            (self.job_id, self.request.load_id, _BEGUN),
        ).fetchone()
        return 0 if found is None else int(found[0])

    def began_empty(self, connection: Connection, oid: int) -> bool:
        """Return whether the table was empty when this request was begun."""
        found = connection.execute(
            sql.SQL(
                "SELECT FROM {} WHERE job = %s AND load = %s AND part = %s AND number = %s AND table_oid = %s"
            ).format(self._loads),
            (self.job_id, self.request.load_id, _BEGUN, self.request.number, oid),
        ).fetchone()
        return found is not None

    def check_turn(self, connection: Connection) -> None:
        """Raise `LoadSuperseded` if another job has taken the place. No job takes it until the transaction ends."""
        if self.request.mode == "append":
            return
        found = connection.execute(
            sql.SQL("SELECT place, load, job FROM {} WHERE name = %s FOR SHARE").format(self._tables),
            (self.request.table,),
        ).fetchone()
        if found is not None and found[0] == self.place and found[1] != self.request.load_id:
            raise DatabaseUnavailable(f"another load of this job has begun into table {self.request.table}: try again")
        if found is None or found[0] != self.place:
            by = "another job" if found is None else f"job {found[2]}"
            raise LoadSuperseded(f"{by} was loaded into table {self.request.table} meanwhile: its values are kept")

    def end_turn(self, connection: Connection) -> None:
        """Let newer jobs load the table."""
        connection.execute(
            sql.SQL("UPDATE {} SET ended = true, changed = now() WHERE name = %s AND place = %s AND load = %s").format(
                self._tables
            ),
            (self.request.table, self.place, self.request.load_id),
        )

    def receipts(self, connection: Connection, oid: int) -> Mapping[int, Receipt]:
        """Return the receipts of the loaded parts.

        Receipts of a table that was dropped meanwhile do not count, except those of appended rows, which must never be
        there twice.
        """
        rows = connection.execute(
            sql.SQL(
                "SELECT part, rows, set_aside FROM {} WHERE job = %s AND load = %s AND part >= 0 AND number >= %s AND "
                "(table_oid = %s OR %s)"
            ).format(self._loads),
            (self.job_id, self.request.load_id, self.request.again, oid, self.request.mode == "append"),
        )
        return {part: Receipt(rows=loaded, set_aside=aside) for part, loaded, aside in rows.fetchall()}

    def claim(self, connection: Connection, part: int) -> bool:
        """Return whether this transaction loads a part. No other transaction loads it until this one ends."""
        name = f"scoreline load {self.job_id} {self.request.load_id} {part}"
        found = connection.execute("SELECT pg_try_advisory_xact_lock(hashtextextended(%s, 0))", (name,)).fetchone()
        return found == (True,)

    def note(self, connection: Connection, part: int, oid: int, digest: str, receipt: Receipt, refused: str) -> None:
        """Write the receipt of a part, in the transaction of its rows."""
        connection.execute(
            sql.SQL(
                "INSERT INTO {} (job, load, part, number, table_oid, digest, rows, set_aside, refused) VALUES (%s, %s, "
                "%s, %s, %s, %s, %s, %s, %s) ON CONFLICT (job, load, part) DO UPDATE SET number = EXCLUDED.number, "
                "table_oid = EXCLUDED.table_oid, digest = EXCLUDED.digest, rows = EXCLUDED.rows, set_aside = "
                "EXCLUDED.set_aside, refused = EXCLUDED.refused, loaded = now()"
            ).format(self._loads),
            (
                self.job_id,
                self.request.load_id,
                part,
                self.request.number,
                oid,
                digest,
                receipt.rows,
                receipt.set_aside,
                refused,
            ),
        )


def place_text(place: Place) -> str:
    """Return a place as a text that sorts as places do."""
    at, submitted = (moment.astimezone(UTC).strftime("%Y%m%dT%H%M%S.%f") for moment in (place.at, place.submitted))
    return f"{at}~{place.number:09d}~{submitted}~{place.job_id}"
