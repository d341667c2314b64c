"""Each row is in the table once, with the values of the job, whatever dies while it is loaded."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import psycopg
import pytest

from scoreline.storage import keys
from scoreline.tasks.databases.registry import Registry
from scoreline.tasks.job.documents import Status
from scoreline.tasks.job.loads import LoadRequest, LoadStatus
from tests.support.postgres import Database
from tests.support.rig import Rig
from tests.support.warm import run_scoreline

PARTS = 6
SECRET = "s3cr3t-of-the-database"
WAITING = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"


class Bench:
    """A rig whose workers know a database."""

    def __init__(self, rig: Rig, database: Database) -> None:
        self.rig, self.database = rig, database
        database.run("CREATE TABLE scores (id bigint PRIMARY KEY, prediction double precision)")
        url = database.url.replace("postgres@", f"postgres:{SECRET}@")
        self.settings = {"RESULTS_DATABASE_URL": url, "ALLOWED_TABLES": "public.*", "LOAD_CONNECTIONS": "2"}
        self.start()
        rig.publish()

    def start(self) -> None:
        self.rig.start_worker(2, **self.settings)

    def submit(self) -> Status:
        return self.rig.submit(PARTS, into="scores", key=["id"], into_columns=["prediction"])

    @contextlib.contextmanager
    def killed_at(self, lock: str, waiting: str = WAITING) -> Iterator[None]:
        """Submit a job, kill the workers and empty Redis once a lock makes the load wait, and run the block.

        The server notices that its clients are gone once it has the lock and has done what it was told last.
        """
        with locked(self.database, lock):
            job = self.submit()
            self.rig.wait(lambda: self.database.run(waiting), "a load that waits")
            self.rig.kill(self.rig.parents() + self.rig.children())
            self.rig.redis.flushall()
        clients = "SELECT pid FROM pg_stat_activity WHERE application_name = 'scoreline'"
        self.rig.wait(lambda: not self.database.run(clients), "the end of the connections")
        yield
        self.start()
        self.verify(job)

    def load(self, job: Status) -> LoadStatus | None:
        return next(iter(self.rig.client.status(job.job_id).loads), None)

    def end(self, job: Status) -> LoadStatus:
        """Wait until the load has ended, and the job has no marker."""
        self.rig.ensure_beat()
        self.rig.end(job)

        def ended() -> LoadStatus | None:
            found = self.load(job)
            return found if found is not None and found.ended else None

        self.rig.wait(ended, "the end of the load")
        self.rig.wait(lambda: not list(self.rig.store.list(keys.active(job.job_id))), "the marker's end")
        found = ended()
        assert found is not None
        return found

    def verify(self, job: Status) -> None:
        """Check each row and each receipt, and that nothing that can be read has the password."""
        done = self.end(job)
        rows = self.rig.rows
        assert (done.state, done.parts_done, done.rows, done.error) == ("loaded", PARTS, rows, ""), self.rig.logs()
        assert self.database.run("SELECT * FROM scores ORDER BY id") == [(n, 3.0 * n + 1) for n in range(rows)]
        assert self.database.run("SELECT count(*), sum(rows) FROM scoreline_loads WHERE part >= 0") == [(PARTS, rows)]
        self.verify_secret()

    def verify_secret(self) -> None:
        texts = [self.rig.store.get(info.key).data for info in self.rig.store.list("")]
        texts += [log.read_bytes() for log in self.rig.stack.folder.glob("*.log")]
        for key in self.rig.redis.scan_iter("*"):
            with contextlib.suppress(Exception):  # a key that has expired meanwhile
                texts.append(self.rig.redis.dump(key) or b"")
        assert not any(SECRET.encode() in text for text in texts)


@pytest.fixture
def bench(rig: Rig, database: Database) -> Bench:
    return Bench(rig, database)


@contextlib.contextmanager
def locked(database: Database, statement: str) -> Iterator[psycopg.Connection[tuple[object, ...]]]:
    """Hold a lock, so that a load waits at a known place."""
    with database.connect() as holder, holder.transaction():
        holder.execute(statement)
        yield holder


@pytest.mark.parametrize(
    ("where", "statement"),
    [
        ("before the copy", "LOCK TABLE scores"),
        ("between the copy and the rows", "LOCK TABLE scores IN SHARE MODE"),
        ("between the rows and the commit", "LOCK TABLE scoreline_loads IN SHARE MODE"),
    ],
)
def test_workers_killed_in_a_load_leave_nothing_half_done(bench: Bench, where: str, statement: str) -> None:
    # Given the tables of receipts, and a table that is loaded in the way that the test is about
    request = LoadRequest.of_options(into="scores", key=["id"], columns=None, mode=None, create=None, database=None)
    with bench.database.connect() as connection:
        Registry(request=request, job_id="", place="").create(connection)
    if where == "between the copy and the rows":  # the rows of a part are copied into a table that was never filled
        bench.database.run("INSERT INTO scores VALUES (0, 0)")
        bench.database.run("DELETE FROM scores")
    # When the workers are killed there, then no row is there, and others load every row once
    with bench.killed_at(statement):
        assert bench.database.run("SELECT count(*) FROM scores") == [(0,)]


def test_a_server_that_is_killed_and_started_again_has_every_row_once(bench: Bench) -> None:
    with contextlib.suppress(psycopg.Error), locked(bench.database, "LOCK TABLE scores IN SHARE MODE"):
        job = bench.submit()
        bench.rig.wait(lambda: bench.database.run(WAITING), "a load")
        bench.database.server.kill()
    bench.rig.wait(lambda: (bench.load(job) or LOADING).error, "the error in the status")
    bench.database.server.start()
    bench.verify(job)


def test_a_read_only_server_after_a_failover_lets_the_load_wait(bench: Bench) -> None:
    name = bench.database.name
    bench.database.run(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    job = bench.submit()
    bench.rig.wait(lambda: "read-only" in (bench.load(job) or LOADING).error, "the error in the status")
    with bench.database.connect() as connection:
        connection.execute("SET default_transaction_read_only = off")
        connection.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = off")
    bench.verify(job)


def test_a_column_that_is_dropped_in_mid_load_fails_the_load_until_it_is_there_again(bench: Bench) -> None:
    with locked(bench.database, "LOCK TABLE scores") as holder:
        job = bench.submit()
        bench.rig.wait(lambda: bench.database.run(WAITING), "a load")
        holder.execute("ALTER TABLE scores DROP COLUMN prediction")
    done = bench.end(job)
    assert done.state == "failed"
    assert 'column "prediction" does not exist' in done.error or "has no column 'prediction'" in done.error
    bench.database.run("ALTER TABLE scores ADD prediction double precision")
    bench.rig.client.resume(job.job_id)
    bench.verify(job)


def test_workers_killed_in_the_middle_of_a_copy_leave_nothing_half_done(bench: Bench) -> None:
    # Given a column whose type waits at one value, so that the server has read a half of the bytes of a part
    database = bench.database
    database.run(
        "CREATE FUNCTION waits(float) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN IF $1 = 151 THEN PERFORM "
        "pg_advisory_xact_lock_shared(7); END IF; RETURN true; END $$"
    )
    database.run("CREATE DOMAIN slow AS double precision CHECK (waits(VALUE))")
    database.run("ALTER TABLE scores ALTER prediction TYPE slow")
    copying = (
        "SELECT pid FROM pg_stat_progress_copy WHERE relid = 'scores'::regclass AND bytes_processed > 0 AND pid IN "
        f"({WAITING})"
    )
    with bench.killed_at("SELECT pg_advisory_xact_lock(7)", copying):
        assert 50 not in [row for (row,) in database.run("SELECT id FROM scores")]


def test_a_load_that_is_the_victim_of_a_deadlock_is_tried_again(bench: Bench) -> None:
    # Given a table whose trigger holds a load between its first row and its last one
    database = bench.database
    database.run("INSERT INTO scores SELECT n, -1 FROM generate_series(0, %s) n", 100 * PARTS - 1)
    database.run(
        "CREATE FUNCTION waits() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF NEW.id = 50 THEN PERFORM "
        "pg_advisory_xact_lock_shared(7); END IF; RETURN NEW; END $$"
    )
    database.run("CREATE TRIGGER gate BEFORE UPDATE ON scores FOR EACH ROW EXECUTE FUNCTION waits()")
    with locked(database, "SET LOCAL deadlock_timeout = '1h'") as other:
        other.execute("SELECT FROM scores WHERE id = 99 FOR UPDATE")
        with locked(database, "SELECT pg_advisory_xact_lock(7)"):
            job = bench.submit()
            first = "SELECT id FROM scores WHERE id = 0 FOR UPDATE"
            bench.rig.wait(lambda: not database.run(f"{first} SKIP LOCKED"), "a load that has its first row")
            # When another transaction waits for the first row, and the load then wants the last one
            thread = threading.Thread(target=other.execute, args=(first,))
            thread.start()
            bench.rig.wait(lambda: (other.info.backend_pid,) in database.run(WAITING), "the other transaction")
        # Then the server ends the load, which was the last to wait
        deadlocks = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
        bench.rig.wait(lambda: database.run(deadlocks) != [(0,)], "the deadlock")
        thread.join()
    bench.verify(job)


@pytest.mark.parametrize("dies", [False, True])
def test_a_load_that_is_requested_while_another_is_under_way_begins_without_a_reconciler(
    bench: Bench, *, dies: bool
) -> None:
    # When a second load is requested while the first one waits for the table, and its process perhaps dies
    def all_wait() -> bool:
        waiting = len(bench.database.run(WAITING))
        return waiting > 0 and waiting == bench.rig.redis.hlen("unacked") and not bench.rig.messages()

    with locked(bench.database, "LOCK TABLE scores IN SHARE MODE"):
        job = bench.submit()
        bench.rig.wait(all_wait, "each message of the load at the lock")
        bench.rig.client.load(job.job_id, into="scores", key=["id"], columns=["prediction"], again=True)
        if dies:
            before = bench.rig.children()
            bench.rig.kill(before)
            bench.rig.wait(lambda: (found := bench.rig.children()) and not set(found) & set(before), "new processes")
    # Then its rows are loaded, although there is no beat
    bench.rig.wait(lambda: (found := bench.load(job)) and found.ended and found.number == 2, "the second load")
    assert not bench.rig.clocks()
    bench.verify(job)
    assert bench.database.run("SELECT DISTINCT number FROM scoreline_loads WHERE part >= 0") == [(2,)]


def test_the_command_line_loads_shows_how_far_it_is_and_says_what_went_wrong(bench: Bench) -> None:
    rig, environ = bench.rig, bench.rig.environ
    job = rig.submit(PARTS)
    rig.end(job)
    said = f"{job.job_id}: the workers load its results into public."
    fits = ("load", job.job_id, "--into", "scores", "--key", "id", "--columns", "prediction")
    # A load that fails says why, and its exit code is 1
    failed = run_scoreline("load", job.job_id, "--into", "missing", "--key", "id", "--watch", environ=environ)
    assert (failed.returncode, failed.stderr) == (1, f"{said}missing\n")
    assert "failed: 0 rows, into public.missing (upsert)" in failed.stdout
    assert "there is no table public.missing: create it, or let --create do so" in failed.stdout
    # Another load of the same table that failed before is of no interest
    other = ("load", job.job_id, "--into", "scores", "--key", "prediction", "--columns", "id", "--watch")
    assert run_scoreline(*other, environ=environ).returncode == 1
    done = run_scoreline(*fits, "--watch", environ=environ)
    assert (done.returncode, done.stderr) == (0, f"{said}scores\n"), done
    last = f"loaded: {PARTS} of {PARTS} parts, {rig.rows} rows, into public.scores (upsert)"
    assert done.stdout.splitlines()[-1] == last
    assert bench.database.run("SELECT count(*) FROM scores") == [(rig.rows,)]
    status = " ".join(run_scoreline("status", job.job_id, environ=environ).stdout.split())
    assert last in status
    assert "there is no table public.missing" in status
    assert f"scoreline resume {job.job_id} loads what is missing" in status
    # And a job that names the table is watched until its results are loaded
    into = ("--into", "scores", "--key", "id", "--into-columns", "prediction", "--watch")
    bench.database.run("TRUNCATE scores")
    bench.database.run("ALTER TABLE scores ADD CHECK (id <> 7)")
    options = (*into, "--max-rejected", "1", "--part-rows", "100")
    watched = run_scoreline("submit", "paced", rig.store.uri("in/"), *options, environ=environ)
    assert watched.returncode == 3, watched
    assert f"loaded: {PARTS} of {PARTS} parts, {rig.rows - 1} rows, 1 set aside, into" in " ".join(
        watched.stdout.split()
    )
    assert bench.database.run("SELECT count(*) FROM scores") == [(rig.rows - 1,)]
    bench.verify_secret()


LOADING = LoadStatus(number=1, state="loading", load_id="", table="", mode="upsert")
