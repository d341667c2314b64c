"""Jobs that score 2x + 1 in this process, step by step: the engine only records its messages."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from scoreline.storage.ledger.base import Progress
from scoreline.tasks.steps.eager import LoadedModels
from scoreline.tasks.steps.engine import Engine
from scoreline.tasks.steps.planner import plan_job
from scoreline.tasks.steps.score_part import score_part
from scoreline.testing import EagerClient, eager
from tests.support.one_model import LINE


@dataclass(kw_only=True)
class Desk:
    """A client and an engine on the same buckets and ledger. Nothing runs until a test calls a method."""

    client: EagerClient
    engine: Engine
    sent: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    """The messages that the engine has sent, in order."""

    def submit(self, rows: int = 40, broken: tuple[int, ...] = (), **options: Any) -> str:
        """Submit a job over one object in which the `broken` rows lack a value, and return the id of the job."""
        x = np.arange(rows, dtype=float)
        x[list(broken)] = np.nan
        uri = self.client.put("in/a.parquet", pd.DataFrame({"id": range(rows), "x": x}))
        return self.client.submit("line", uri, **{"part_rows": 10} | options).job_id

    def plan(self, rows: int = 40, broken: tuple[int, ...] = (), **options: Any) -> str:
        """Submit and plan a job, and return its id."""
        job_id = self.submit(rows, broken, **options)
        plan_job(self.engine, job_id)
        return job_id

    def score(self, job_id: str, *parts: int) -> None:
        for part in parts:
            score_part(self.engine, job_id, part, f"message of part {part}")

    def progress(self, job_id: str) -> Progress:
        found = self.engine.ledger.progress(job_id)
        assert found is not None
        return found

    def names_sent(self) -> list[str]:
        """Return the names of the messages sent since the last call."""
        names = [name.removeprefix("scoreline.") for name, _ in self.sent]
        self.sent.clear()
        return names


@contextmanager
def desk(folder: Path, **settings: str) -> Iterator[Desk]:
    """Publish the model "line" in an empty folder, and return a `Desk` for this folder."""
    with eager(folder, run=False, settings=settings) as client:
        client.models.publish("line", LINE)
        sent: list[tuple[str, dict[str, Any]]] = []
        engine = Engine(
            buckets=client.buckets,
            ledger=client.ledger,
            send=lambda name, **kwargs: sent.append((name, kwargs)),
            models=LoadedModels(models=client.models, counters=client.ledger.counters),
        )
        yield Desk(client=client, engine=engine, sent=sent)
