"""A worker's memory does not grow with its input."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
from sklearn.linear_model import LinearRegression

from scoreline.storage.models.manager import ModelStorageManager
from scoreline.tasks.client import Client
from scoreline.worker.dev.stack import Stack
from tests.support.waiting import HANG_S

FEATURES = ["a", "b", "c", "d"]
GROUP_ROWS = 65_536
MIB = 1 << 20


def test_ten_times_the_rows_take_the_same_memory(own: Stack) -> None:
    # Given one worker process, and inputs of 10 and of 100 row groups with 2.5 MiB each
    client = Client.from_env(own.environ)
    x = pd.DataFrame(np.random.default_rng(0).normal(size=(GROUP_ROWS, 4)), columns=FEATURES)
    ModelStorageManager.from_env(own.environ).publish("line", LinearRegression().fit(x, x["a"]))
    sink = io.BytesIO()
    table = pa.Table.from_pandas(x.assign(id=np.arange(GROUP_ROWS)), preserve_index=False)
    pq.write_table(pa.concat_tables([table] * 5), sink, row_group_size=GROUP_ROWS)
    for number in range(20):
        client.buckets.main.put(f"in/{number:02}.parquet", sink.getvalue())
    guard = own.start_worker(1)
    assert " arrow_pool=system" in next(own.folder.glob("worker*.log")).read_text()
    # When both inputs are scored, the small input several times, because memory grows during the first parts of a
    # process
    peaks = []
    small = ("in/0[01].parquet", 10 * GROUP_ROWS)
    for uri, rows in (*[small] * 5, ("in/", 100 * GROUP_ROWS)):
        done = list(client.watch(client.submit("line", client.buckets.main.uri(uri)).job_id, timeout_s=HANG_S))[-1]
        assert (done.state, done.rows) == ("succeeded", rows)
        peaks.append(peak_bytes(guard.pid))
    # Then the peak of the last job, which reads 250 MiB, exceeds the previous peak by less than 40 MiB
    assert peaks[-1] < peaks[-2] + 40 * MIB, [peak // MIB for peak in peaks]


def peak_bytes(guard: int) -> int:
    """Return the peak resident memory of a pool process."""
    (worker,) = psutil.Process(guard).children()
    status = [Path(f"/proc/{child.pid}/status").read_text() for child in worker.children()]
    return max(int(text.partition("VmHWM:")[2].split()[0]) * 1024 for text in status)
