"""A client that runs jobs in this process, and schedules whose model can or cannot score the input."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
import pytest
from click.testing import CliRunner, Result
from sklearn.linear_model import LinearRegression

from scoreline.storage import keys
from scoreline.tasks.job.documents import Outcome, read_outcome
from scoreline.tasks.schedules.schedule import State
from scoreline.tasks.schedules.scheduler import Scheduler
from scoreline.testing import EagerClient, eager
from scoreline.worker.cli.main import cli

X = pd.DataFrame({"x": [0.0, 1.0]})
GOOD = LinearRegression().fit(X, [1.0, 3.0])
BAD = LinearRegression().fit(X.assign(tenure=[1.0, 5.0]), [1.0, 3.0])
"""A model that needs a column that is missing from the input."""
NIGHTLY = """
[nightly]
cron = "30 2 * * *"
zone = "Europe/Berlin"
model = "churn@champion"
input = "s3://scoreline/in/"
"""
HOURLY = '[hourly]\ncron = "0 * * * *"\nmodel = "churn"\ninput = "s3://scoreline/in/"\n'


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


BEFORE, SLOT, MORNING = at("2026-11-25T00:30"), at("2026-11-25T01:30"), at("2026-11-25T08:00")
"""A slot of `NIGHTLY` (half past two in Berlin), and a time before and a time after it."""
JOB = "nightly-20261125T013000Z"


@dataclass
class Night:
    """A deployment in one process, and its clock."""

    client: EagerClient
    folder: Path
    environ: dict[str, str] = field(default_factory=dict)

    def write(self, text: str | bytes) -> None:
        self.client.buckets.main.put(keys.SCHEDULES, text.encode() if isinstance(text, str) else text)

    def scheduler(self) -> Scheduler:
        return Scheduler(self.client, Path("no-such-file.toml"))

    def tick(self, now: datetime) -> dict[str, list[str]]:
        return self.scheduler().tick(now)

    def state(self, name: str = "nightly") -> State:
        return State.from_json(self.client.buckets.main.get(keys.schedule_state(name)).data)

    def outcome(self, job_id: str) -> Outcome:
        found = read_outcome(self.client.buckets.main, job_id)
        assert found is not None, job_id
        return found

    def cli(self, *words: str, **environ: str) -> Result:
        return CliRunner(env=self.environ | environ).invoke(cli, ["schedule", *words])


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Night]]:
    """Return a function that makes a deployment with a good model, a bad champion, two rows and one schedule."""
    monkeypatch.chdir(tmp_path)
    settings = {"ENVIRONMENT": "development", "REDIS_URL": "redis://127.0.0.1:9/0"}
    running = []

    def start(run: bool = True, **more: str) -> Night:
        block = eager(tmp_path / "buckets", run=run, settings=more)
        running.append(block)
        client = block.__enter__()
        client.models.publish("churn", GOOD, alias="champion")
        bad = client.models.publish("churn", BAD).version
        client.models.alias("churn", "champion", bad, force=True, reason="it has a new feature")
        client.put("in/a.parquet", X)
        night = Night(client, tmp_path, settings | more)
        night.write(NIGHTLY)
        night.tick(BEFORE)
        return night

    yield start
    for block in running:
        block.__exit__(None, None, None)


@pytest.fixture
def night(make: Callable[..., Night]) -> Night:
    """Return a deployment whose champion fails its jobs."""
    return make()
