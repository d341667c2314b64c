"""Load 2 million rows of 6 columns into PostgreSQL: into an empty table, again without a change, and by hand.

Claims: an upsert into an empty table takes at most 1.6 times as long as a handwritten COPY of the same files into a
table without a key, also with 2 processes; an upsert of rows that do not change takes at most 0.6 times as long as an
upsert into an empty table; to read a table of these rows and to write them as Parquet files takes at most 1.3 times as
long as a COPY of it to nothing. The server runs on this machine, and does not wait for the disk. Times of an upsert
begin with the request, and end when the status says that everything is loaded.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import multiprocessing
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import psycopg
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
from sklearn.linear_model import LinearRegression

from benchmarks.measure import positive, record_figure, table
from benchmarks.stand import Stand
from scoreline.storage.databases.settings import Address
from scoreline.storage.prefetch import prefetched
from scoreline.tasks.databases.source.reading import read_rows
from scoreline.tasks.databases.source.staging import write_files
from scoreline.tasks.quality.results.reading import open_results
from scoreline.worker.dev.postgres import url
from scoreline.worker.dev.stack import ROOT, free_port

UPSERT_LIMIT, UNCHANGED_LIMIT, STAGED_LIMIT = 1.6, 0.6, 1.3
ROWS, PROCESSES, FILES = 2_000_000, 2, 8
COLUMNS = "id bigint{}, prediction double precision, a double precision, b double precision, place text, visits bigint"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=positive, default=ROWS, help="rows of the job")
    parser.add_argument("--rounds", type=positive, default=5, help="loads of each kind, in turns")
    given = parser.parse_args()
    took: dict[str, list[float]] = {"COPY by hand": [], "upsert into an empty table": [], "upsert without a change": []}
    with postgres() as database, Stand(Path(".scoreline"), settings=settings(database)) as stand:
        job_id = score(stand, given.rows)
        stand.client.ledger.note_processes(PROCESSES, 86_400)
        with pool() as processes, psycopg.connect(database, autocommit=True) as connection:
            connection.execute(f"CREATE TABLE scores ({COLUMNS.format(' PRIMARY KEY')})")
            connection.execute(f"CREATE TABLE bare ({COLUMNS.format('')})")
            files = [stand.store.get(key).data for key in result_keys(stand, job_id)]
            staged: list[float] = []
            for number in range(given.rounds + 1):
                connection.execute("TRUNCATE scores, bare")
                seconds = [by_hand(processes, database, files), upsert(stand, job_id), upsert(stand, job_id)]
                check(connection, given.rows)
                if number:  # the first round warms up
                    for found, one in zip(took.values(), seconds, strict=True):
                        found.append(one)
                    staged.append(stage(stand, database, f"{number:016x}") / to_nothing(connection))
    table({f"s, {name}": found for name, found in took.items()})
    print()
    hand, empty, unchanged = took.values()
    what = f"{given.rows:,} rows: seconds of an upsert into an empty table / COPY by hand into a table without a key"
    record_figure("postgres-upsert", what, [more / less for more, less in zip(empty, hand, strict=True)], UPSERT_LIMIT)
    what = f"{given.rows:,} rows: seconds of an upsert without a change / an upsert into an empty table"
    ratios = [less / more for more, less in zip(empty, unchanged, strict=True)]
    record_figure("postgres-unchanged", what, ratios, UNCHANGED_LIMIT)
    what = f"{given.rows:,} rows: seconds to stage a table as Parquet / COPY (SELECT * FROM it) TO STDOUT"
    record_figure("postgres-staged", what, staged, STAGED_LIMIT)


@contextlib.contextmanager
def postgres() -> Iterator[str]:
    """Run a server, and provide the URL of its database."""
    port, parent = free_port(), ROOT / ".cache/tmp"
    with tempfile.TemporaryDirectory(prefix="postgres-", dir=parent, ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o711)
        data = Path(folder, "data")
        with Path(folder, "log").open("wb") as log:
            command = [sys.executable, "-m", "scoreline.worker.dev.postgres", str(port), str(data)]
            server = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            until = time.monotonic() + 60
            while True:
                try:
                    psycopg.connect(url(port)).close()
                    break
                except psycopg.OperationalError:
                    if server.poll() is not None or time.monotonic() > until:
                        raise
                    time.sleep(0.1)
            yield url(port)
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait()


def settings(database: str) -> dict[str, str]:
    """Return the settings of the worker."""
    return {"RESULTS_DATABASE_URL": database, "ALLOWED_TABLES": "public.*", "LOAD_CONNECTIONS": str(PROCESSES)}


def score(stand: Stand, rows: int) -> str:
    """Score a job whose results have 6 columns, in as many files as the input has. Return its id."""
    chance, each = np.random.default_rng(1), rows // FILES
    for number in range(FILES):
        frame = pd.DataFrame(
            {
                "id": chance.permutation(each) * FILES + number,
                "a": chance.normal(size=each),
                "b": chance.normal(size=each),
                "place": chance.choice(["Oslo", "Lima", "Kyoto", "São Paulo"], each),
                "visits": chance.integers(0, 10_000, each),
            }
        )
        stand.put(f"in/{number}.parquet", pa.Table.from_pandas(frame, preserve_index=False))
    stand.publish("line", LinearRegression().fit(frame[["a", "b"]], frame["a"] * 2 + frame["b"]))
    keep = ["id", "a", "b", "place", "visits"]
    return stand.score("line", "in/", features=["a", "b"], keep=keep, part_rows=each).job_id


def result_keys(stand: Stand, job_id: str) -> list[str]:
    """Return the keys of the files with results."""
    return [file.uri.partition("://")[2].partition("/")[2] for file in open_results(stand.client.buckets, job_id).files]


def upsert(stand: Stand, job_id: str) -> float:
    """Load all rows. Return the seconds."""
    begun = time.perf_counter()
    stand.client.load(job_id, into="scores", key=["id"], again=True)
    while True:
        (load,) = stand.client.status(job_id).loads
        if load.state == "loaded":
            return time.perf_counter() - begun
        if load.ended or load.error:
            raise RuntimeError(f"{load.state}: {load.error}")
        time.sleep(0.02)


@contextlib.contextmanager
def pool() -> Iterator[ProcessPoolExecutor]:
    """Provide processes that have imported all they need."""
    with ProcessPoolExecutor(PROCESSES, multiprocessing.get_context("spawn")) as processes:
        list(processes.map(time.sleep, [0.5] * PROCESSES))
        yield processes


def by_hand(processes: ProcessPoolExecutor, database: str, files: list[bytes]) -> float:
    """Copy all files, in two processes. Return the seconds."""
    begun = time.perf_counter()
    list(processes.map(copy_file, [database] * len(files), files))
    return time.perf_counter() - begun


def copy_file(database: str, data: bytes) -> None:
    """Copy one file into the table without a key."""
    columns = ["id", "prediction", "a", "b", "place", "visits"]
    options = pa_csv.WriteOptions(include_header=False)
    statement = f"COPY bare ({', '.join(columns)}) FROM STDIN (FORMAT csv)"
    with psycopg.connect(database) as connection, connection.cursor() as cursor, cursor.copy(statement) as copy:
        for batch in pq.ParquetFile(io.BytesIO(data)).iter_batches(batch_size=65_536, columns=columns):
            text = pa.BufferOutputStream()
            pa_csv.write_csv(batch.select(columns), text, options)
            copy.write(memoryview(text.getvalue()))


def stage(stand: Stand, database: str, attempt: str) -> float:
    """Write the rows of a table as files, as a worker does. Return the seconds."""
    address = Address(name="database", url=database)
    begun = time.perf_counter()
    sql, name = "SELECT * FROM public.scores", "public.scores"
    rows = prefetched(read_rows(address, sql, {}, timeout_s=480, what="table scores", table=name))
    write_files(stand.store, "staged", attempt, rows)
    return time.perf_counter() - begun


def to_nothing(connection: psycopg.Connection[tuple[object, ...]]) -> float:
    """Copy the table to this process, which drops the rows. Return the seconds."""
    begun = time.perf_counter()
    server = connection.pgconn
    server.exec_(b"COPY (SELECT * FROM public.scores) TO STDOUT")
    while server.get_copy_data(0)[0] > 0:
        pass
    while server.get_result() is not None:
        pass
    return time.perf_counter() - begun


def check(connection: psycopg.Connection[tuple[object, ...]], rows: int) -> None:
    """Raise `RuntimeError` unless both tables have all rows."""
    found = connection.execute(
        "SELECT (SELECT count(*) FROM scores), (SELECT count(*) FROM bare JOIN scores USING (id, prediction, visits))"
    ).fetchone()
    whole = rows // FILES * FILES
    if found != (whole, whole):
        raise RuntimeError(f"the tables have {found} rows, and not {whole}")


if __name__ == "__main__":
    main()
