"""Processes are killed and Redis is emptied in mid-job, and every row is still there exactly once."""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import psutil
import pyarrow.parquet as pq
import redis

from storage.models.manager import ModelStorageManager
from storage.objects.base import ObjectStore
from tasks.client import Client
from tasks.spec import Status, parse_uri
from worker.dev.stack import Stack


def test_killed_children_lose_no_row_and_duplicate_none(
    worker: Stack, client: Client, models: ModelStorageManager, store: ObjectStore, put_table: Callable[..., str],
    trained: Any, cells: pd.DataFrame,
) -> None:  # fmt: skip
    # Given a job of 12 parts that are slow enough to be killed in
    rows, uri = slow_job("killed", models, put_table, trained, cells)
    job = client.submit("killed", uri)
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
    assert_each_row_once(store, now, rows, trained)


def test_an_emptied_redis_loses_no_row_of_a_job_under_way(
    worker: Stack, client: Client, models: ModelStorageManager, store: ObjectStore, put_table: Callable[..., str],
    trained: Any, cells: pd.DataFrame,
) -> None:  # fmt: skip
    # Given a job under way
    rows, uri = slow_job("flushed", models, put_table, trained, cells)
    job = client.submit("flushed", uri)
    for now in client.watch(job.job_id, timeout_s=60):
        if now.parts_done >= 2:
            break
    # When Redis, this test's own, forgets everything
    with redis.Redis.from_url(worker.environ["REDIS_URL"]) as connection:
        connection.flushall()
    # Then the parts in flight bring the job back
    now = list(client.watch(job.job_id, timeout_s=100))[-1]
    assert (now.state, now.error) == ("succeeded", "")
    assert_each_row_once(store, now, rows, trained)


def slow_job(
    name: str, models: ModelStorageManager, put_table: Callable[..., str], trained: Any, cells: pd.DataFrame
) -> tuple[pd.DataFrame, str]:
    """Publish a bundle and write 12 parts of input with ids; returns the features of all rows, and the input's URI."""
    scaler, forest, encoder = trained
    models.publish(name, forest, scaler, encoder)
    rows = cells.iloc[np.random.default_rng(5).integers(0, len(cells), 1_200_000)]
    for number in range(12):
        ids = np.arange(number * 100_000, (number + 1) * 100_000)
        uri = put_table(f"in/{name}/{number:02}.parquet", rows.iloc[ids].assign(id=ids))
    return rows, uri.rpartition("/")[0] + "/"


def assert_each_row_once(store: ObjectStore, job: Status, rows: pd.DataFrame, trained: Any) -> None:
    """Read the results: every id once, in order, with the values of the estimators themselves."""
    scaler, forest, _ = trained
    tables = [
        pq.read_table(io.BytesIO(store.get(info.key).data), columns=["id", "proba_benign"])
        for info in store.list(parse_uri(job.output)[1] + "part-")
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
