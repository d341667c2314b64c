"""Two deployments, each with its bucket, share one Redis."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd
from sklearn.linear_model import LinearRegression

from scoreline import Client
from scoreline.storage.models.manager import ModelStorageManager
from scoreline.worker.dev.stack import Stack
from tests.support.waiting import HANG_S, wait_until


def test_a_worker_leaves_the_messages_of_another_deployment_alone(
    worker: Stack, client: Client, models: ModelStorageManager, put_table: Callable[..., str], tmp_path: Path
) -> None:
    # Given a second deployment on the same Redis, with a job but without a worker
    environ = worker.environ | {"ENVIRONMENT": "development", "STORE_DIR": str(tmp_path), "R2_BUCKET": "others"}
    others = Client.from_env(environ)
    model = LinearRegression().fit(pd.DataFrame({"x": [0.0, 1.0]}), [0, 2])
    ModelStorageManager.from_env(environ).publish("shared", model)
    others.buckets.main.put("in.csv", b"x\n1\n")
    theirs = others.submit("shared", "s3://others/in.csv").job_id
    # When the worker of this deployment has finished all its jobs
    models.publish("shared", model)
    ours = [client.submit("shared", put_table(f"shared/{n}.parquet", pd.DataFrame({"x": [1.0]}))) for n in range(3)]
    for job in ours:
        assert list(client.watch(job.job_id, timeout_s=HANG_S))[-1].state == "succeeded"
    # Then the other job still waits for a worker of its deployment, and neither deployment counts the other's workers
    assert others.status(theirs).state == "submitted"
    assert others.queue.backlog().waiting["scoreline.steps.others"] == 1
    wait_until(client.queue.workers, "an answer of our worker")
    assert others.queue.workers(timeout_s=0.5) == []
