"""Begins a load of a job: looks at the table or creates it, and takes the turn of the job."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import pyarrow as pa

from scoreline.storage.databases.connection import Connection, transaction
from scoreline.storage.errors import DatabaseError
from scoreline.storage.objects.base import ObjectStore
from scoreline.tasks.databases.part import Budget, PartLoader
from scoreline.tasks.databases.registry import Receipt, Registry
from scoreline.tasks.databases.stored_rows import StoredRows
from scoreline.tasks.databases.swap import begin_new, check_replaceable, new_name
from scoreline.tasks.databases.tables import (
    Mapped,
    Table,
    check_fits,
    create_table,
    find_table,
    mapped,
    takes_rows_at_once,
)
from scoreline.tasks.job.documents import Job, Outcome, read_run
from scoreline.tasks.job.loads import LoadRequest
from scoreline.tasks.job.spec import budget_rows
from scoreline.tasks.quality.results.reading import Results


@dataclass(frozen=True, kw_only=True)
class Beginning:
    """What is done before the first part, by each message, as if no other message had done it."""

    main: ObjectStore
    job: Job
    outcome: Outcome
    request: LoadRequest
    registry: Registry
    is_over: Callable[[str, str], bool]
    """Returns whether the load of another job has ended, by its id and the id of the load."""

    def begin(
        self, connection: Connection, results: Results, schema: pa.Schema, parts: int
    ) -> tuple[PartLoader | None, Mapping[int, Receipt]]:
        """Prepare the table, and take the turn of this job.

        Return None and the receipts if a table that this load has filled has already replaced the old one.
        """
        request, registry = self.request, self.registry
        columns = mapped(request, schema)
        with transaction(connection):
            registry.create(connection)
            if request.mode == "replace":
                registry.lock_order(connection)  # another process may give the new table its name just now
            table = self._table(connection, registry, columns, schema)
            check_fits(connection, table, columns, request, schema)
            registry.take_turn(connection, table, self.is_over)
            if request.mode == "replace":
                whole = registry.receipts(connection, table.oid)
                if len(whole) == parts:
                    registry.end_turn(connection)
                    return None, whole
                check_replaceable(connection, table)
                name = new_name(request, registry.job_id)
                table = begin_new(connection, table, name)
            at_once = takes_rows_at_once(connection, table, request) and (
                request.mode != "upsert" or registry.began_empty(connection, table.oid)
            )
        return (
            PartLoader(
                request=request,
                registry=registry,
                results=results,
                table=table,
                columns=columns,
                schema=schema,
                budget=self._budget(),
                at_once=at_once,
                stored=StoredRows.of(connection, table, columns),
            ),
            {},
        )

    def _table(self, connection: Connection, registry: Registry, columns: Mapped, schema: pa.Schema) -> Table:
        request = self.request
        found = find_table(connection, request.schema, request.name)
        if found is None and request.create:
            registry.lock_order(connection)  # another process may create it meanwhile
            found = find_table(connection, request.schema, request.name)
            if found is None:
                comment = f"Scores of {self.job.model.ref}, first loaded by job {registry.job_id}"
                create_table(connection, request, columns, schema, comment)
                found = find_table(connection, request.schema, request.name)
        if found is None:
            raise DatabaseError(f"there is no table {request.table}: create it, or let --create do so")
        return found

    def _budget(self) -> Budget:
        run, _ = read_run(self.main, self.registry.job_id)
        allowed = run.max_rejected or self.job.spec.max_rejected
        rows = self.outcome.rows + self.outcome.rejected
        return Budget(allowed=allowed, rows=rows, left=budget_rows(allowed, rows) - self.outcome.rejected)
