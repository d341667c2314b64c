"""Compare the peak private memory of a worker that loads 20 million rows into PostgreSQL with that for 2 million.

Claim: the larger of the two peaks is at most 1.05 times the smaller one, for an upsert into an empty table, and for one
of rows that the table has already. Each load has a fresh worker. The anonymous memory of its pool processes is sampled
every 2 ms.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path

import numpy as np
import psycopg
import pyarrow as pa
from sklearn.linear_model import LinearRegression

from benchmarks.bench_postgres import COLUMNS, postgres, settings, upsert
from benchmarks.measure import PeakMemory, positive, record_figure, table
from benchmarks.stand import Stand

ROWS, LIMIT = (2_000_000, 20_000_000), 1.05
FILE_ROWS = 250_000
KINDS = ("into an empty table", "without a change")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=positive, nargs=2, default=ROWS, help="rows of the two jobs")
    parser.add_argument("--runs", type=positive, default=1, help="loads of each kind, in turns")
    given = parser.parse_args()
    took: dict[tuple[str, int], list[float]] = {}
    with postgres() as database, Stand(Path(".scoreline"), settings=settings(database)) as stand:
        jobs = {rows: score(stand, rows) for rows in given.rows}
        with psycopg.connect(database, autocommit=True) as connection:
            connection.execute(f"CREATE TABLE scores ({COLUMNS.format(' PRIMARY KEY')})")
            for _ in range(given.runs):
                for rows, job_id in jobs.items():
                    connection.execute("TRUNCATE scores")
                    for kind in KINDS:
                        took.setdefault((kind, rows), []).append(peak(stand, job_id))
                        if connection.execute("SELECT count(*) FROM scores").fetchone() != (rows,):
                            raise RuntimeError(f"the table does not have {rows:,} rows")
    table({f"MiB, {rows:,} rows {kind}": found for (kind, rows), found in took.items()})
    print()
    for number, kind in enumerate(KINDS):
        less, more = sorted(statistics.median(took[kind, rows]) for rows in given.rows)
        what = f"peak of private memory, {given.rows[1]:,} rows / {given.rows[0]:,}, upsert {kind}"
        record_figure(f"postgres-load-memory-{number + 1}", what, [more / less], LIMIT)


def score(stand: Stand, rows: int) -> str:
    """Score a job whose results have 6 columns, in files of `FILE_ROWS` rows. Return its id."""
    chance, files = np.random.default_rng(1), max(1, rows // FILE_ROWS)
    for number in range(files):
        columns = {
            "id": chance.permutation(rows // files) * files + number,
            "a": chance.normal(size=rows // files),
            "b": chance.normal(size=rows // files),
            "place": chance.choice(["Oslo", "Lima", "Kyoto"], rows // files),
            "visits": chance.integers(0, 10_000, rows // files),
        }
        stand.put(f"in/{rows}/{number:03}.parquet", pa.table(columns))
    x = np.column_stack([columns["a"], columns["b"]])
    stand.publish("line", LinearRegression().fit(x, x @ [2.0, 1.0]))
    keep = ["id", "a", "b", "place", "visits"]
    done = stand.score("line", f"in/{rows}/", features=["a", "b"], keep=keep, part_rows=FILE_ROWS)
    return done.job_id


def peak(stand: Stand, job_id: str) -> float:
    """Load a job with a fresh worker. Return the largest memory of one of its processes in MiB."""
    stand.restart_worker()
    pool = stand.pool()
    with PeakMemory(*(process.pid for process in pool)) as memory:
        seconds = upsert(stand, job_id)
    if set(stand.pool()) != set(pool):
        raise RuntimeError("a process of the pool was replaced: its memory is not all that was used")
    print(f"{job_id}: {seconds:.1f} s, {memory.peak / (1 << 20):.0f} MiB", flush=True)
    return memory.peak / (1 << 20)


if __name__ == "__main__":
    main()
