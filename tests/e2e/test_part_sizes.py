"""The pace of a model in one job decides how large the parts of its next job are."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from scoreline.storage import keys
from scoreline.storage.models.manager import ModelStorageManager
from scoreline.storage.objects.base import ObjectStore
from scoreline.tasks.client import Client
from scoreline.tasks.job.documents import Status
from scoreline.tasks.job.uris import parse_uri
from scoreline.worker.dev.stack import Stack
from tests.support.estimators import Paced
from tests.support.waiting import HANG_S

ROWS, SECONDS = 4_000, 0.5


def test_a_job_is_cut_by_the_pace_of_the_last_job_of_the_same_version_and_method(
    worker: Stack, client: Client, models: ModelStorageManager, store: ObjectStore, put_table: Callable[..., str]
) -> None:
    frame = pd.DataFrame({"id": np.arange(ROWS), "x": np.arange(ROWS, dtype=float)})
    uri = put_table("in/paced/a.parquet", frame, row_group_size=400)
    manifest = models.publish("learned", Paced(seconds=SECONDS).fit(frame[["x"]]))
    pace = client.ledger.counters.pace

    def parts(uri: str, **options: Any) -> tuple[int, float, float]:
        """Run a job, and return its number of parts, the seconds of `predict`, and the seconds of all work."""
        done: Status = list(client.watch(client.submit("learned", uri, **options).job_id, timeout_s=HANG_S))[-1]
        assert (done.state, done.rows) == ("succeeded", ROWS)
        listed = json.loads(store.get(keys.results_manifest(parse_uri(done.output)[1])).data)
        seconds = listed["seconds"]
        return len(listed["parts"]), seconds["predict"], sum(seconds.values()) - seconds["queue"]

    # Given a job whose model has no known pace, so that one part scores all rows in one call
    known = f"{manifest.ref} default"
    assert pace(known) is None
    count, predict, work = parts(uri)
    assert (count, predict >= SECONDS) == (1, True)
    first = pace(known)
    assert first is not None
    assert ROWS / (work + 0.5) < first <= ROWS / predict
    # Then the next job is divided into smaller parts, of about a thousand rows on an idle machine
    smaller = put_table("in/paced-more/a.parquet", frame, row_group_size=200)
    count, predict, work = parts(smaller)
    assert 1 < count <= 20
    assert predict >= count * SECONDS
    # And the ledger stores a pace between the paces of the two jobs, because the second job calls the model with fewer
    # rows
    later = pace(known)
    assert later is not None
    assert ROWS / (work + 0.5) < later**2 / first <= ROWS / predict
    # And a job that uses another method of the model has one part, and does not change the pace of the first method
    assert parts(uri, method="predict")[0] == 1
    assert pace(known) == later
    assert pace(f"{manifest.ref} predict") is not None
