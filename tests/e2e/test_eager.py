"""An eager job has the same results as a job of real worker processes."""

from __future__ import annotations

import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from scoreline.storage.models.manager import ModelStorageManager
from scoreline.storage.objects.base import ObjectStore
from scoreline.tasks.client import Client
from scoreline.tasks.job.uris import parse_uri
from scoreline.testing import eager
from tests.support.waiting import HANG_S

VARY = {"seconds", "submitted", "work_s", "model", "result_bytes", "class_a", "class_b"}
"""Fields of a status that differ: the times, the version of the model, which is published twice and stands in each
result, and the requests. Each process caches what it has read, and how often a job's progress is written depends on
when its parts end."""


def objects(store: ObjectStore, output: str) -> dict[str, pa.Table]:
    """Return the tables below a job's output by name, including those of rejected rows, without digests in the names.

    The digests differ, because each file names its model version, and each bucket has its own version.
    """
    folder = parse_uri(output)[1]
    listed = [info.key for info in store.list(folder) if info.key.endswith(".parquet")]
    return {
        re.sub("-[0-9a-f]{16}(?=[.])", "", key.removeprefix(folder)): pq.read_table(
            pa.BufferReader(store.get(key).data)
        )
        for key in listed
    }


@pytest.mark.usefixtures("worker")
def test_an_eager_job_has_the_results_of_a_real_worker(
    client: Client, models: ModelStorageManager, trained: Any, cells: pd.DataFrame, tmp_path: Path
) -> None:
    scaler, forest, encoder = trained
    broken = cells.assign(patient=range(len(cells)))
    broken.loc[[5, 300], "mean radius"] = float("inf")
    options: dict[str, Any] = {"job_id": "compared", "part_rows": 100, "output": "s3://scoreline/compared/"}
    found = []
    with eager(tmp_path) as here:
        models.publish("compared", forest, preprocessor=scaler, label_encoder=encoder)
        here.models.publish("compared", forest, preprocessor=scaler, label_encoder=encoder)
        uri = here.put("compared-in/cells.parquet", broken)
        client.buckets.main.put(
            "compared-in/cells.parquet", (tmp_path / "scoreline/compared-in/cells.parquet").read_bytes()
        )
        for one in (here, client):
            one.submit("compared", uri, **options)
            *_, status = one.watch("compared", timeout_s=HANG_S)
            found.append((status, objects(one.buckets.main, status.output), one.rejected("compared")))
    (eager_status, eager_objects, eager_rejected), (status, written, rejected) = found
    assert status.state == "partial"
    assert {k: v for k, v in asdict(eager_status).items() if k not in VARY} == {
        k: v for k, v in asdict(status).items() if k not in VARY
    }
    assert len(written) == 8  # six result files, and the rejected rows of two parts
    assert eager_objects == written
    assert eager_rejected.reasons == rejected.reasons
