"""A job in this process. A test runs the steps of the job one by one, in one or several workers with different
models."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.linear_model import LinearRegression

from scoreline.storage import keys
from scoreline.storage.hashing import sha256_hex
from scoreline.storage.ledger.memory_ledger import MemoryLedger
from scoreline.storage.models.manifest import PinnedModel
from scoreline.storage.objects.base import CREATE, exists
from scoreline.storage.objects.buckets import Buckets
from scoreline.tasks.client import Client
from scoreline.tasks.dispatch.dispatcher import Documents
from scoreline.tasks.dispatch.memory_queue import MemoryQueue, Message
from scoreline.tasks.job.documents import Job, Outcome, mark_active, read_outcome
from scoreline.tasks.job.layout import ResultsLayout
from scoreline.tasks.job.spec import JobSpec
from scoreline.tasks.steps.eager import EagerWorker
from scoreline.tasks.steps.engine import Engine
from scoreline.tasks.webhooks.settings import WebhookSettings
from tests.support.one_model import LINE, Models

FOLDER = "out/job_id=j/"
PART = f"{FOLDER}part-00000.parquet"


class Refuses(LinearRegression):
    """A model that refuses some values of x."""

    def __init__(self, *values: float) -> None:
        self.values = values

    def predict(self, x: Any) -> Any:
        if np.isin(np.asarray(x), self.values).any():
            raise ValueError("refused")
        return LINE.predict(x)


class OneJob:
    """The job "j", which scores one object and is not planned yet. The object's column x contains row numbers.

    Parameters
    ----------
    folder : Path
        Contains the buckets.
    rows, part_rows : int
        Number of rows, in all and in a part.
    refused : tuple of float
        Values of x that the model of this process refuses.
    **options
        Options of the spec.
    """

    def __init__(
        self, folder: Path, *, rows: int = 4, part_rows: int = 4, refused: tuple[float, ...] = (), **options: Any
    ) -> None:
        self.rows = rows
        self.buckets = Buckets.from_env({"ENVIRONMENT": "development", "R2_BUCKET": "data", "STORE_DIR": str(folder)})
        self.store = self.buckets.main
        self.ledger = MemoryLedger()
        self.messages = MemoryQueue(self._deliver, at_once=False)
        self.engine = self.worker(*refused)
        self.client = Client(self.buckets, self.messages, self.ledger)
        sink = io.BytesIO()
        table = pa.table({"id": np.arange(rows), "x": np.arange(rows, dtype=float)})
        pq.write_table(table, sink, row_group_size=part_rows)
        self.store.put("in/a.parquet", sink.getvalue())
        given: dict[str, Any] = {"job_id": "j", "model": "m", "inputs": ("s3://data/in/",), "output": "s3://data/out/"}
        spec = JobSpec(**given | {"max_rejected": "100%", "part_rows": part_rows} | options)
        pinned = PinnedModel(name="m", version="20260101T000000Z-00000", manifest_sha256="0" * 64)
        job = Job(spec=spec, model=pinned, submitted="2026-11-25T00:00:00+00:00")
        mark_active(self.store, "j")
        self.store.put(keys.job("j"), job.to_json(), mode=CREATE)
        self.layout = ResultsLayout.of(self.buckets, job)
        self.messages.send("scoreline.plan", job_id="j")

    def worker(self, *refused: float) -> Engine:
        """Return the engine of another worker. The model of that worker refuses the values in `refused`."""
        models = Models(Refuses(*refused))
        return Engine(buckets=self.buckets, ledger=self.ledger, send=self.messages.send, models=models)

    def _deliver(self, message: Message) -> None:
        EagerWorker(engine=self.engine, webhooks=WebhookSettings(), send=lambda *_: None).do(message)

    def run(self, messages: int | None = None) -> None:
        """Handle waiting messages: the first plans the job, each of the following scores a part, the last finalizes."""
        self.messages.run(messages)

    @property
    def documents(self) -> Documents:
        return self.engine.documents("j")

    @property
    def outcome(self) -> Outcome:
        found = read_outcome(self.store, "j")
        assert found is not None, "the job has not ended"
        return found

    @property
    def is_complete(self) -> bool:
        return exists(self.store, self.layout.success)

    def listed(self, prefix: str) -> list[str]:
        return [info.key for info in self.store.list(prefix)]

    def copy(self, key: str, to: str, **metadata: str | None) -> None:
        """Copy an object, also onto itself, and change its receipt: replace values, or remove those that are None."""
        stored = self.store.get(key)
        receipt = {**stored.info.metadata, **metadata}
        self.store.put(to, stored.data, metadata={name: value for name, value in receipt.items() if value is not None})

    def ids(self, key: str) -> list[int]:
        return list(pq.read_table(io.BytesIO(self.store.get(key).data))["id"].to_pylist())

    def verify(self, rejected: list[int]) -> None:
        """Check that each row is in one place, that only `rejected` are rejected, and that no object is left over."""
        assert self.is_complete, self.outcome
        manifest = json.loads(self.store.get(self.layout.manifest).data)
        scored = [row for entry in manifest["parts"] for row in self.ids(entry["key"])]
        named = [entry["rejected_key"] for entry in manifest["parts"] if entry["rejected"]]
        refused = [row for key in named for row in self.ids(key)]
        for entry in manifest["parts"]:
            for key, digest in (("key", "sha256"), ("rejected_key", "rejected_sha256")):
                assert key not in entry or sha256_hex(self.store.get(entry[key]).data) == entry[digest]
        assert sorted(scored + refused) == list(range(self.rows))
        assert refused == rejected
        assert self.listed(self.layout.rejected_folder) == sorted(named)
        assert (manifest["rows"], manifest["rejected"]) == (len(scored), len(refused))
        assert (self.outcome.rows, self.outcome.rejected) == (len(scored), len(refused))
        assert self.client.rejected("j").rows == len(refused)
        assert self.listed(keys.JOBS_ACTIVE) == []


def before_put(
    monkeypatch: pytest.MonkeyPatch, job: OneJob, matches: Callable[[str, Any], bool], act: Callable[[], object]
) -> None:
    """Call `act` once, before the first PUT whose key and mode match, to simulate a faster process."""
    put = job.store.put
    done: list[str] = []

    def hooked(key: str, data: bytes, **options: Any) -> Any:
        if not done and matches(key, options.get("mode", "overwrite")):
            done.append(key)
            act()
        return put(key, data, **options)

    monkeypatch.setattr(job.store, "put", hooked)
