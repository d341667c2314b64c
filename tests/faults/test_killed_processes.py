"""Processes are killed with SIGKILL in mid-job, and every row is still there exactly once."""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import psutil
import pyarrow.parquet as pq

from storage.models.manager import ModelStorageManager
from storage.objects.base import ObjectStore
from tasks.client import Client
from tasks.spec import parse_uri
from worker.dev.stack import Stack


def test_killed_children_lose_no_row_and_duplicate_none(
    worker: Stack, client: Client, models: ModelStorageManager, store: ObjectStore, put_table: Callable[..., str],
    trained: Any, cells: pd.DataFrame,
) -> None:  # fmt: skip
    # Given a job of 12 parts that are slow enough to be killed in
    scaler, forest, encoder = trained
    models.publish("killed", forest, scaler, encoder)
    rows = cells.iloc[np.random.default_rng(5).integers(0, len(cells), 1_200_000)]
    for number in range(12):
        ids = np.arange(number * 100_000, (number + 1) * 100_000)
        put_table(f"in/killed/{number:02}.parquet", rows.iloc[ids].assign(id=ids))
    job = client.submit("killed", store.uri("in/killed/"))
    # When pool processes are killed while it runs
    kills, deadline = 0, time.monotonic() + 120
    while not (now := client.status(job.job_id)).ended and time.monotonic() < deadline:
        if now.state == "running" and kills < 3 and now.parts_done >= 3 * kills:
            children = pool_processes(worker)
            if children:
                children[kills % len(children)].kill()
                kills += 1
        time.sleep(0.1)
    # Then the job ends with each row exactly once, in order
    assert (now.state, now.error, kills) == ("succeeded", "", 3)
    tables = [
        pq.read_table(io.BytesIO(store.get(info.key).data), columns=["id", "proba_benign"])
        for info in store.list(parse_uri(now.output)[1] + "part-")
    ]
    frame = pd.concat([table.to_pandas() for table in tables])
    assert np.array_equal(frame["id"], np.arange(1_200_000))
    assert np.array_equal(frame["proba_benign"], forest.predict_proba(scaler.transform(rows))[:, 0])


def pool_processes(stack: Stack) -> list[psutil.Process]:
    """Return the children of the stack's workers."""
    found = []
    for process in psutil.Process().children(recursive=True):
        parent = process.parent()
        if parent and is_worker(process) and is_worker(parent):
            found.append(process)
    return found


def is_worker(process: psutil.Process) -> bool:
    """Whether a process is a Celery worker or a child of one, and not the guard that started it."""
    try:
        command = process.cmdline()
    except psutil.Error:  # it ended meanwhile
        return False
    return "celery -A worker worker" in " ".join(command) and not any(word.endswith("guard.py") for word in command)
