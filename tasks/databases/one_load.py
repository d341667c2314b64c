"""Does what one message does for one load of a job: takes the turn of the table, and loads file after file."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace

from psycopg import sql

from scoreline.storage import keys
from scoreline.storage.databases.connection import Connection, connected, transaction
from scoreline.storage.databases.settings import Address, DatabaseSettings
from scoreline.storage.errors import (
    DatabaseError,
    JobNotFound,
    LedgerError,
    LoadBudgetExceeded,
    LoadSuperseded,
    ScorelineError,
    describe,
)
from scoreline.tasks.databases.beginning import Beginning
from scoreline.tasks.databases.part import PartLoader
from scoreline.tasks.databases.progress import end_load, totals
from scoreline.tasks.databases.registry import Receipt, Registry, place_text
from scoreline.tasks.databases.swap import drop_new, new_name, swap
from scoreline.tasks.databases.tables import (
    find_table,
)
from scoreline.tasks.dispatch.dispatcher import Dispatcher
from scoreline.tasks.job.alert import alert_of_load
from scoreline.tasks.job.documents import COMPLETE, Job, Outcome, read_job, read_outcome
from scoreline.tasks.job.loads import (
    LoadProgress,
    LoadRequest,
    LoadState,
    pending,
    read_progress,
)
from scoreline.tasks.quality.gate.latest import Place, ResultFile, RunEntry
from scoreline.tasks.quality.results.reading import Results, open_results

log = logging.getLogger(__name__)

_NOTE_S = 5.0
"""Seconds between two notes of how far a load is. R2 takes one write per second to a key, and lets a lane wait."""


@dataclass(frozen=True, kw_only=True)
class Load:
    """One load of one job, as one message sees it."""

    dispatcher: Dispatcher
    settings: DatabaseSettings
    job: Job
    outcome: Outcome
    request: LoadRequest
    lane: int | None = None

    def run(self, until: float) -> bool:
        """Load files until a time. Return whether files are left for this lane."""
        try:
            address = self.settings.address(self.request.database)
            self.settings.check_table(self.request.table)
            results = open_results(self.dispatcher.buckets, self.job_id)
            with connected(address) as connection:
                return self._run(connection, address, results, until)
        except ScorelineError as error:
            if error.transient:
                self._note(replace(self._known(), state="waiting", error=describe(error)))
                raise
            self._fail(error)
            return False

    @property
    def job_id(self) -> str:
        """The id of the job."""
        return self.job.spec.job_id

    @property
    def registry(self) -> Registry:
        """The receipts of this load."""
        return Registry(request=self.request, job_id=self.job_id, place=place_text(self._place()))

    def _place(self) -> Place:
        """Return the place of the job. A job that scores rejected rows of another job comes right after that job."""
        own = RunEntry.of(self.job, self.outcome).place
        first = self.job
        while first.spec.rejected_of is not None:
            try:
                first = read_job(self.dispatcher.buckets.main, first.spec.rejected_of)
            except JobNotFound:  # it was removed
                return own
        before = RunEntry.of(first, self.outcome).place
        return replace(own, at=before.at, number=before.number)

    def _run(self, connection: Connection, address: Address, results: Results, until: float) -> bool:
        files = results.files
        if not files:
            self._end_empty()
            return False
        loader, whole = self._beginning().begin(connection, results, results.schema, len(files))
        if loader is None:
            self._finish(whole, len(files))
            return False
        receipts = loader.registry.receipts(connection, loader.table.oid)
        if self.lane is None:
            self._send_lanes(len(files) - len(receipts))
        left = self._load_files(connection, loader, files, receipts, until)
        if not self._is_accepted():
            self._drop_new(connection)
            return True  # a person may accept them again before this message ends
        receipts = loader.registry.receipts(connection, loader.table.oid)
        if len(receipts) == len(files):
            self._complete(connection, loader, files)
            return False
        self._note(totals(self.request, "loading", receipts, len(files)))
        return left

    def _beginning(self) -> Beginning:
        return Beginning(
            main=self.dispatcher.buckets.main,
            job=self.job,
            outcome=self.outcome,
            request=self.request,
            registry=self.registry,
            is_over=self._is_over,
        )

    def _is_over(self, job_id: str, load_id: str) -> bool:
        """Return whether a load of an older job no longer goes on, so that this one need not wait for it."""
        main = self.dispatcher.buckets.main
        try:
            job, outcome = read_job(main, job_id), read_outcome(main, job_id)
        except JobNotFound:
            return True
        if outcome is None or outcome.state not in COMPLETE:
            return True
        return all(request.load_id != load_id for request in pending(main, job.spec, outcome.loads))

    def _send_lanes(self, missing: int) -> None:
        """Send the messages of the other lanes. If one is lost, the remaining lanes load its files."""
        try:
            lanes = min(self.settings.load_connections, missing, max(1, self.dispatcher.ledger.processes()))
        except LedgerError:
            lanes = 1
        for lane in range(1, lanes):
            if self.dispatcher.ledger.claim_step(self.job_id, lane_step(lane)):  # otherwise, it was sent before
                self.dispatcher.send("scoreline.load", job_id=self.job_id, lane=lane)

    def _load_files(
        self,
        connection: Connection,
        loader: PartLoader,
        files: list[ResultFile],
        receipts: Mapping[int, Receipt],
        until: float,
    ) -> bool:
        """Load files without a receipt until a time. Return whether files are left that no other process loads."""
        missing = [part for part in range(len(files)) if part not in receipts]
        start = (self.lane or 0) * len(missing) // self.settings.load_connections
        loaded, note_due = 0, 0.0
        for part in (*missing[start:], *missing[:start]):
            if part in receipts:  # another process has loaded it meanwhile
                continue
            if (loaded and time.monotonic() >= until) or not self._is_accepted():
                return True
            if loader.load(connection, part, files[part]):
                loaded += 1
                receipts = loader.registry.receipts(connection, loader.table.oid)
                if time.monotonic() >= note_due:
                    self._note(totals(self.request, "loading", receipts, len(files)))
                    note_due = time.monotonic() + _NOTE_S
        return False

    def _is_accepted(self) -> bool:
        """Return whether no person has withdrawn the results meanwhile."""
        now = read_outcome(self.dispatcher.buckets.main, self.job_id)
        return now is not None and now.state in COMPLETE

    def _complete(self, connection: Connection, loader: PartLoader, files: list[ResultFile]) -> None:
        """End a load whose files all have receipts."""
        registry, request = loader.registry, self.request
        with transaction(connection):
            registry.lock_order(connection)
            registry.check_turn(connection)
            receipts = registry.receipts(connection, loader.table.oid)
            if sum(receipt.set_aside for receipt in receipts.values()) > loader.budget.left:
                raise LoadBudgetExceeded(
                    f"the table refused more rows than the job may reject ({loader.budget.allowed})"
                )
            if request.mode == "replace":
                old = find_table(connection, request.schema, request.name)
                if old is None:
                    raise DatabaseError(f"table {request.table} was dropped meanwhile: request the load again")
                if old.oid != loader.table.oid:  # otherwise, another process has done this meanwhile
                    connection.execute(sql.SQL("ANALYZE {}").format(loader.table.sql))
                    swap(connection, old, loader.table)
            registry.end_turn(connection)
        self._finish(receipts, len(files))

    def _finish(self, receipts: Mapping[int, Receipt], parts: int) -> None:
        done = totals(self.request, "loaded", receipts, parts)
        end_load(self.dispatcher, self.job_id, self.request, done)
        log.info(
            "load.ended",
            extra={"job_id": self.job_id, "table": self.request.table, "rows": done.rows, "set_aside": done.set_aside},
        )

    def _end_empty(self) -> None:
        """End the load of a job without results. A table is not replaced by an empty one."""
        if self.request.mode == "replace":
            raise DatabaseError(f"job {self.job_id} has no rows with a result, so it replaces no table")
        end_load(self.dispatcher, self.job_id, self.request, LoadProgress(number=self.request.number, state="loaded"))

    def _fail(self, error: ScorelineError) -> None:
        """Record that the load does not go on, and let newer jobs load the table.

        The table that would have replaced the old one is dropped. If the database does not answer, that table stays.
        """
        state: LoadState = "superseded" if isinstance(error, LoadSuperseded) else "failed"
        ended = replace(self._known(), state=state, error=describe(error))
        if state == "failed":
            self.dispatcher.outbox.leave(alert_of_load(self.job, self.request, error))
        log.error("load.failed", extra={"job_id": self.job_id, "table": self.request.table, "error": describe(error)})
        end_load(self.dispatcher, self.job_id, self.request, ended)
        self.drop_unfinished()

    def drop_unfinished(self) -> None:
        """Drop the table that would have replaced the old one. If the database does not answer, that table stays."""
        if self.request.mode != "replace":
            return
        try:
            address = self.settings.address(self.request.database)
            self.settings.check_table(self.request.table)
            with connected(address) as connection:
                self._drop_new(connection)
        except ScorelineError as error:
            log.warning("load.table_left", extra={"job_id": self.job_id, "error": describe(error)})

    def _drop_new(self, connection: Connection) -> None:
        """Drop the table that would have replaced the old one."""
        if self.request.mode == "replace":
            with transaction(connection):
                drop_new(connection, self.request.schema, new_name(self.request, self.job_id))

    def _known(self) -> LoadProgress:
        """Return the last progress of this request."""
        known = read_progress(self.dispatcher.buckets.main, self.job_id, self.request.load_id)
        if known is not None and known.number == self.request.number:
            return known
        return LoadProgress(number=self.request.number, state="waiting")

    def _note(self, progress: LoadProgress) -> None:
        """Write how far the load is."""
        main = self.dispatcher.buckets.main
        main.put(keys.load_progress(self.job_id, self.request.load_id), progress.to_json())


def lane_step(lane: int) -> str:
    """Return the name of the step of a lane, whose attempts are counted."""
    return f"load-{lane}" if lane else "load"
