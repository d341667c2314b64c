"""Each row of a query is scored once, whatever dies while a worker reads it."""

from __future__ import annotations

import contextlib

import psycopg

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
"""
WAITING = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"


def test_workers_and_a_server_that_die_while_rows_are_read_lose_and_double_none(rig: Rig, database: Database) -> None:
    database.run("CREATE TABLE numbers (id bigint, x float8)")
    database.run("INSERT INTO numbers SELECT g, g FROM generate_series(0, %s) g", ROWS - 1)
    settings = {"SOURCE_DATABASE_URL": database.url.replace("postgres@", f"postgres:{SECRET}@")}
    rig.store.put(keys.QUERIES, QUERIES.encode())
    rig.start_worker(2, **settings)
    rig.publish()
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


def verify(rig: Rig, done: Status) -> None:
    assert (done.state, done.rows, done.error) == ("succeeded", ROWS, ""), rig.logs()
    found = [row for batch in open_results(rig.client.buckets, done.job_id) for row in batch.to_pylist()]
    assert sorted(row["id"] for row in found) == list(range(ROWS))
    assert {row["id"]: row["prediction"] for row in found}[5] == 3.0 * 5.5 + 1
    staged = read_staged(rig.store, done.job_id)
    assert staged is not None
    assert [file.key for file in staged.files] == [info.key for info in rig.store.list(keys.staged_folder(done.job_id))]
    texts = [rig.store.get(info.key).data for info in rig.store.list("")]
    texts += [log.read_bytes() for log in rig.stack.folder.glob("*.log")]
    assert not any(SECRET.encode() in text for text in texts)
    assert not any(b"pg_advisory" in rig.store.get(info.key).data for info in rig.store.list(keys.JOBS))
