"""Each row of a query is scored once, whatever dies while a worker reads it."""

from __future__ import annotations

import contextlib

import psycopg
import pytest

from scoreline.storage import keys
from scoreline.tasks.job.documents import Status
from scoreline.tasks.job.staged import read_staged
from scoreline.tasks.quality.results.reading import open_results
from tests.support.postgres import Database
from tests.support.rig import Rig

ROWS = 600
GATE = 7
SECRET = "s3cr3t-of-the-database"
QUERIES = f"""
[gated]
sql = '''
SELECT id, x FROM numbers WHERE id <> :gate OR pg_advisory_xact_lock_shared({GATE}) IS NOT NULL
'''

[split]
sql = "SELECT id, gate(x) AS x FROM numbers"
split_by = "id"
"""
GATED = f"""
CREATE FUNCTION gate(x float8) RETURNS float8 STABLE LANGUAGE plpgsql
AS 'BEGIN PERFORM pg_advisory_xact_lock_shared({GATE}); RETURN x; END'
"""
WAITING = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"


@pytest.fixture
def settings(rig: Rig, database: Database) -> dict[str, str]:
    """Fill a table, publish a model, and return the settings of workers that read the table."""
    database.run("CREATE TABLE numbers (id bigint, x float8)")
    rows = f"INSERT INTO numbers SELECT g, g FROM generate_series(0, {ROWS - 1}) g"
    database.run(f"SET synchronous_commit = on; {rows}")  # the rows must survive the death of the server
    database.run(GATED)
    rig.store.put(keys.QUERIES, QUERIES.encode())
    rig.publish()
    return {"SOURCE_DATABASE_URL": database.url.replace("postgres@", f"postgres:{SECRET}@")}


def test_workers_and_a_server_that_die_while_rows_are_read_lose_and_double_none(
    rig: Rig, database: Database, settings: dict[str, str]
) -> None:
    rig.start_worker(2, **settings)
    with contextlib.suppress(psycopg.Error), database.connect() as holder:
        holder.execute("SELECT pg_advisory_lock(%s)", (GATE,))
        job = rig.client.submit("paced", query="gated", params={"gate": "300"}, part_rows=100)
        rig.wait(lambda: database.run(WAITING), "a query in its middle")
        # When the workers are killed there, Redis is emptied, and the server restarts
        rig.kill(rig.parents() + rig.children())
        assert read_staged(rig.store, job.job_id) is None
        rig.redis.flushall()
        database.server.kill()
    database.server.start()
    database.run("UPDATE numbers SET x = id + 0.5 WHERE id = 5")
    rig.start_worker(2, **settings)
    # Then another worker reads all rows again, as they are now
    rig.ensure_beat()
    verify(rig, rig.end(job))


def test_faults_one_after_another_while_two_connections_read_lose_and_double_no_row(
    rig: Rig, database: Database, settings: dict[str, str]
) -> None:
    settings["SOURCE_CONNECTIONS"] = "2"
    seen: set[int] = set()

    def wait_for_readers() -> None:
        """Wait until two more connections are in the middle of their pieces."""

        def readers() -> set[int]:
            return {pid for (pid,) in database.run(WAITING)} - seen

        rig.wait(lambda: len(readers()) == 2, "two readers in the middle")
        seen.update(readers())

    rig.start_worker(2, **settings)
    with contextlib.suppress(psycopg.Error), database.connect() as holder:
        holder.execute("SELECT pg_advisory_lock(%s)", (GATE,))
        job = rig.client.submit("paced", query="split", part_rows=100)
        wait_for_readers()
        rig.kill(rig.parents() + rig.children())
        rig.start_worker(2, **settings)
        rig.ensure_beat()
        wait_for_readers()
        rig.redis.flushall()  # so that another process reads, too, while the first goes on
        wait_for_readers()
        assert read_staged(rig.store, job.job_id) is None
        # When a row changes that the readers still see as it was, and the server dies
        database.run("SET synchronous_commit = on; UPDATE numbers SET x = id + 0.5 WHERE id = 5")
        database.server.kill()
    database.server.start()
    # Then all rows are read again, as they are now
    verify(rig, rig.end(job))


def verify(rig: Rig, done: Status) -> None:
    assert (done.state, done.rows, done.error) == ("succeeded", ROWS, ""), rig.logs()
    found = [row for batch in open_results(rig.client.buckets, done.job_id) for row in batch.to_pylist()]
    assert sorted(row["id"] for row in found) == list(range(ROWS))
    assert {row["id"]: row["prediction"] for row in found}[5] == 3.0 * 5.5 + 1
    staged = read_staged(rig.store, done.job_id)
    assert staged is not None
    known = [file.key for file in staged.files]
    rig.wait(
        lambda: [info.key for info in rig.store.list(keys.staged_folder(done.job_id))] == known,
        "the end of other attempts, which leave no files",
    )
    texts = [rig.store.get(info.key).data for info in rig.store.list("")]
    texts += [log.read_bytes() for log in rig.stack.folder.glob("*.log")]
    assert not any(SECRET.encode() in text for text in texts)
    assert not any(b"pg_advisory" in rig.store.get(info.key).data for info in rig.store.list(keys.JOBS))
