"""How fast a model was decides how large the parts of its next job are."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from storage import keys
from storage.models.manager import ModelStorageManager
from storage.objects.base import ObjectStore
from tasks.client import Client
from tasks.spec import Status, parse_uri
from tests.faults.estimators import Paced
from worker.dev.stack import Stack

ROWS, SECONDS = 2_400, 0.25


def test_the_next_job_of_the_same_version_and_method_is_cut_by_the_pace_of_the_last(
    worker: Stack, client: Client, models: ModelStorageManager, store: ObjectStore, put_table: Callable[..., str]
) -> None:
    frame = pd.DataFrame({"id": np.arange(ROWS), "x": np.arange(ROWS, dtype=float)})
    uri = put_table("in/paced/a.parquet", frame, row_group_size=400)
    manifest = models.publish("learned", Paced(seconds=SECONDS).fit(frame[["x"]]))
    pace = client.ledger.counters.pace

    def parts(**options: Any) -> tuple[int, dict[str, float]]:
        done: Status = list(client.watch(client.submit("learned", uri, **options).job_id, timeout_s=60))[-1]
        assert (done.state, done.rows) == ("succeeded", ROWS)
        listed = json.loads(store.get(keys.results_manifest(parse_uri(done.output)[1])).data)
        return len(listed["parts"]), listed["seconds"]

    # Given a job of which nothing is known before: one part, of one call
    known = f"{manifest.ref} default"
    assert pace(known) is None
    count, seconds = parts()
    assert count == 1
    assert seconds["predict"] >= SECONDS
    first = pace(known)
    assert first is not None
    assert ROWS / 5 < first <= ROWS / SECONDS
    # Then the next one is cut to about a thousand rows, in the least time that a part is worth
    count, seconds = parts()
    assert count == 3
    # And what is known is between the two
    later = pace(known)
    assert later is not None
    work = sum(seconds.values()) - seconds["queue"]
    assert ROWS / (work + 0.5) < later**2 / first <= ROWS / seconds["predict"]
    # And a job by another method is not, nor does it change what is known of the first
    assert parts(method="predict")[0] == 1
    assert pace(known) == later
    assert pace(f"{manifest.ref} predict") is not None
