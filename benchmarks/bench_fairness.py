"""Measure how groups of jobs share two worker processes.

Claims: a group with one job and a group with a hundred jobs each get between 45% and 55% of the time of the processes
over 60 s. A job of 10 parts that is submitted behind a job of 10,000 parts of another group takes at most 1.2 times as
long as it would take alone with half of the processes. The parts take 2 s and 5 s; the model sleeps, so other programs
hardly change the figures. The store is a directory. A run takes about two and a half minutes.
"""

from __future__ import annotations

import io
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.busy import Asleep
from benchmarks.measure import no_options, record_figure
from scoreline.storage.models.manager import ModelStorageManager
from scoreline.tasks.client import Client
from scoreline.worker.dev.stack import Stack

ROW_S, PROCESSES = 0.001, 2
SHARED_S, SHARED_ROWS, MANY = 60.0, 2_000, 100
LONG, SHORT, ROWS = 10_000, 10, 5_000


def main() -> None:
    """Measure and print."""
    no_options(__doc__)
    with tempfile.TemporaryDirectory(dir=".scoreline") as folder, Stack(Path(".scoreline")) as stack:
        environ = stack.environ | {"ENVIRONMENT": "development", "STORE_DIR": folder}
        client = _client(environ)
        for name, parts, rows in (
            ("long", LONG, ROWS),
            ("short", SHORT, ROWS),
            ("shared", 200, SHARED_ROWS),
            ("few", 5, SHARED_ROWS),
        ):
            client.buckets.main.put(f"in/{name}.parquet", _groups(parts, rows))
        stack.start_worker(PROCESSES, environ)
        with ThreadPoolExecutor(1) as pool:
            alone = pool.submit(_alone)
            share = _share(client)
            ratio = _short_behind_long(client) / alone.result()
    record_figure(
        "fairness", f"share of a group with 1 job beside one with {MANY}, over {SHARED_S:.0f} s", [share], 0.55
    )
    record_figure("fairness-least", "the same share", [share], -0.45)
    record_figure(
        "fairness-seconds",
        f"time of a job of {SHORT} parts behind a job of {LONG:,}, over its time alone with half of the processes",
        [ratio],
        1.2,
    )


def _share(client: Client) -> float:
    """Return the share of a group with one job in the time of both groups."""
    one = [_submit(client, "shared", SHARED_ROWS, group="one")]
    many = [_submit(client, "few", SHARED_ROWS, group="many") for _ in range(MANY)]
    while not (_rows(client, one) and _rows(client, many)):
        time.sleep(0.1)
    before = _rows(client, one), _rows(client, many)
    time.sleep(SHARED_S)
    first, second = _rows(client, one) - before[0], _rows(client, many) - before[1]
    for job_id in (*one, *many):
        client.cancel(job_id)
    print(f"rows in {SHARED_S:.0f} s: {first:,} of one job, {second:,} of {MANY}", flush=True)
    return first / (first + second)


def _alone() -> float:
    """Return the seconds that the short job takes alone with half of the processes, in a deployment of its own."""
    with tempfile.TemporaryDirectory(dir=".scoreline") as folder, Stack(Path(folder)) as stack:
        environ = stack.environ | {"ENVIRONMENT": "development", "STORE_DIR": f"{folder}/store"}
        client = _client(environ)
        client.buckets.main.put("in/short.parquet", _groups(SHORT, ROWS))
        stack.start_worker(PROCESSES // 2, environ)
        return _short(client)


def _short_behind_long(client: Client) -> float:
    """Return the seconds from the submission to the end of a short job behind a long one."""
    long = _submit(client, "long", ROWS, group="long")
    while not _rows(client, [long]):
        time.sleep(0.1)
    seconds = _short(client)
    assert not client.status(long).ended
    client.cancel(long)
    return seconds


def _short(client: Client) -> float:
    """Return the seconds from the submission of a short job to its end."""
    begun = time.perf_counter()
    job_id = _submit(client, "short", ROWS, group="short")
    while not client.status(job_id).ended:
        time.sleep(0.05)
    return time.perf_counter() - begun


def _client(environ: dict[str, str]) -> Client:
    ModelStorageManager.from_env(environ).publish("asleep", Asleep(ROW_S).fit(pd.DataFrame({"x": [0.0]})))
    return Client.from_env(environ)


def _submit(client: Client, name: str, part_rows: int, group: str) -> str:
    uri = client.buckets.main.uri(f"in/{name}.parquet")
    return client.submit("asleep", uri, part_rows=part_rows, group=group).job_id


def _rows(client: Client, job_ids: list[str]) -> int:
    """Return the rows that are scored, with those of parts under way."""
    found = [client.ledger.progress(job_id) for job_id in job_ids]
    return sum(now.rows + now.rows_under_way for now in found if now is not None)


def _groups(parts: int, rows: int) -> bytes:
    """Return a Parquet file with one row group for each part."""
    table, sink = pa.table({"x": np.zeros(rows)}), io.BytesIO()
    with pq.ParquetWriter(sink, table.schema) as writer:
        for _ in range(parts):
            writer.write_table(table)
    return sink.getvalue()


if __name__ == "__main__":
    main()
