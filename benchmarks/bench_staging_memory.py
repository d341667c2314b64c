"""Compare the peak private memory of a process that stages 20 million rows of PostgreSQL with that for 2 million rows.

Claim: the larger of the two peaks is at most 1.05 times the smaller one, with one connection and with two. Each table
is staged by a fresh process that has imported what a worker imports. Its anonymous memory is sampled every 5 ms.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import psycopg

import scoreline.worker.tasks  # noqa: F401  # takes the memory of a worker
from benchmarks.bench_postgres import postgres
from benchmarks.measure import positive, private_bytes, record_figure, table
from scoreline.storage.databases.settings import Address
from scoreline.storage.objects.directory import DirectoryStore
from scoreline.storage.prefetch import prefetched
from scoreline.tasks.databases.source.reading import read_rows
from scoreline.tasks.databases.source.staging import write_files
from scoreline.worker.dev.stack import ROOT

ROWS, LIMIT = (2_000_000, 20_000_000), 1.05
TABLE = """
CREATE TABLE rows_{rows} AS SELECT g::bigint AS id, random() AS prediction, random() AS a, random() AS b,
(ARRAY['Oslo', 'Lima', 'Kyoto'])[1 + g % 3] AS place, g % 10000 AS visits FROM generate_series(1, {rows}) g
"""


def main() -> None:
    """Measure and print, or stage one table if a URL is given."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=positive, nargs=2, default=ROWS, help="rows of the two tables")
    parser.add_argument("--runs", type=positive, default=3, help="runs of each kind, in turns")
    parser.add_argument("--stage", nargs=3, metavar=("URL", "TABLE", "CONNECTIONS"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.stage:
        stage(given.stage[0], given.stage[1], int(given.stage[2]))
        return
    took: dict[tuple[int, int], list[float]] = {}
    with postgres() as database:
        with psycopg.connect(database, autocommit=True) as connection:
            for rows in given.rows:
                connection.execute(TABLE.format(rows=rows).encode())
        for _ in range(given.runs):
            for connections in (1, 2):
                for rows in given.rows:
                    took.setdefault((connections, rows), []).append(peak(database, rows, connections))
    table({f"MiB, {rows:,} rows, {connections} connections": found for (connections, rows), found in took.items()})
    print()
    for connections in (1, 2):
        less, more = sorted(statistics.median(took[connections, rows]) for rows in given.rows)
        what = f"peak of private memory, {given.rows[1]:,} rows / {given.rows[0]:,} staged by {connections} connections"
        record_figure(f"postgres-staging-memory-{connections}", what, [more / less], LIMIT)


def peak(database: str, rows: int, connections: int) -> float:
    """Stage a table in a fresh process. Return its largest memory in MiB."""
    arguments = ["--stage", database, f"public.rows_{rows}", str(connections)]
    environ = os.environ | {"ARROW_DEFAULT_MEMORY_POOL": "system", "MALLOC_ARENA_MAX": "1"}  # as `use_one_heap` does
    process = subprocess.Popen([sys.executable, "-m", "benchmarks.bench_staging_memory", *arguments], env=environ)
    most = 0
    while process.poll() is None:
        with contextlib.suppress(psutil.Error, OSError):
            most = max(most, private_bytes(process.pid))
        time.sleep(0.005)
    if process.returncode:
        raise RuntimeError(f"staging {rows:,} rows ended with exit code {process.returncode}")
    return most / (1 << 20)


def stage(database: str, name: str, connections: int) -> None:
    """Stage a table, as a worker does."""
    address = Address(name="database", url=database)
    with tempfile.TemporaryDirectory(dir=ROOT / ".cache/tmp") as folder:
        rows = read_rows(
            address, f"SELECT * FROM {name}", {}, timeout_s=480, what=name, table=name, connections=connections
        )
        write_files(DirectoryStore(Path(folder), "bucket"), "staged", "0" * 16, prefetched(rows))


if __name__ == "__main__":
    main()
