"""What a dry run and the outcome say about requests and work agrees with what a job really does."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LinearRegression

from scoreline.storage.errors import LedgerUnavailable
from scoreline.storage.ledger.memory_ledger import MemoryLedger
from scoreline.storage.models.bundle import Bundle
from scoreline.storage.objects.directory import DirectoryStore
from scoreline.tasks.client import Client
from scoreline.tasks.job.documents import Job, read_job, read_outcome
from scoreline.tasks.job.end_time import PART_S, READ_S_PER_BYTE
from scoreline.tasks.steps import planner
from scoreline.tasks.steps.sampling import Draft
from scoreline.testing import EagerClient, eager
from scoreline.worker.cli.main import cli
from tests.support.waiting import HANG_S

PRICES = "dyno_hour = 0.36\nclass_a_million = 4.5\nclass_b_million = 0.36\ngb_month = 0.015\n"


class Counted:
    """Counts requests as R2 bills them, apart from the counters of the code."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.a = self.b = 0
        for name in ("put", "list"):
            monkeypatch.setattr(DirectoryStore, name, self._counting(getattr(DirectoryStore, name), "a"))
        for name in ("get", "head"):
            monkeypatch.setattr(DirectoryStore, name, self._counting(getattr(DirectoryStore, name), "b"))

    def _counting(self, method: Any, kind: str) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            setattr(self, kind, getattr(self, kind) + 1)
            return method(*arguments, **options)

        return call


@pytest.fixture
def client(tmp_path: Path) -> Iterator[EagerClient]:
    with eager(tmp_path) as client:
        client.models.publish("line", LinearRegression().fit(pd.DataFrame({"x": [0.0, 1.0]}), [1.0, 3.0]))
        yield client


def put(client: EagerClient, objects: int, rows: int) -> str:
    """Write objects of random numbers, which cannot be compressed, and return the prefix of their names."""
    chance = np.random.default_rng(1)
    for number in range(objects):
        client.put(f"in/{number:04}.parquet", pd.DataFrame({"x": chance.normal(size=rows)}))
    return "s3://scoreline/in/"


@pytest.mark.parametrize(
    ("objects", "rows", "part_rows"),
    [(1, 100, 100), (4, 4_000, 2_000), (40, 100, 1_000), (2, 400_000, 100_000)],
    ids=["small", "parts", "small files", "large"],
)
def test_a_dry_run_and_the_outcome_know_the_requests(
    objects: int, rows: int, part_rows: int, client: EagerClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = put(client, objects, rows)
    expected = client.preflight("line", uri, part_rows=part_rows).expected
    counted = Counted(monkeypatch)
    client.submit("line", uri, part_rows=part_rows, job_id="j")
    used_a, used_b = counted.a, counted.b
    outcome = read_outcome(client.buckets.main, "j")
    assert outcome is not None
    assert outcome.state == "succeeded"
    assert expected.class_a == pytest.approx(used_a, rel=0.25)
    assert expected.class_b == pytest.approx(used_b, rel=0.25)
    assert outcome.class_a == pytest.approx(used_a, rel=0.1)
    assert outcome.class_b == pytest.approx(used_b, rel=0.1)


def test_rejected_rows_cost_a_request_more_for_each_part(client: EagerClient, monkeypatch: pytest.MonkeyPatch) -> None:
    client.put("in/a.parquet", pd.DataFrame({"x": [1.0, np.nan, 2.0, 3.0, np.nan, 4.0]}))
    counted = Counted(monkeypatch)
    client.submit("line", "s3://scoreline/in/", part_rows=2, max_rejected="100%", job_id="j")
    used_a = counted.a
    now = client.status("j")
    assert (now.state, now.rejected) == ("partial", 2)
    assert now.class_a == pytest.approx(used_a, rel=0.1)
    assert now.result_bytes > 0


def test_the_work_follows_from_the_pace_of_earlier_jobs(client: EagerClient) -> None:
    uri = put(client, 1, 6_000)
    first = client.preflight("line", uri, part_rows=2_000)
    assert not first.expected.pace_known
    job_id = client.submit("line", uri, part_rows=2_000).job_id
    client.ledger.counters.note_pace(read_job(client.buckets.main, job_id).work, 50.0)
    again = client.preflight("line", uri, part_rows=2_000)
    assert again.expected.pace_known
    assert again.expected.work_s == pytest.approx(6_000 / 50.0 + again.parts * PART_S)


def test_without_an_earlier_job_the_work_is_scoring_more_rows_than_the_sample_and_reading(
    client: EagerClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = put(client, 1, 6_000)
    made: list[Draft] = []

    def pace(job: Job, bundle: Bundle, tried: Draft) -> float:
        made.append(tried)
        return 2_000.0

    monkeypatch.setattr(planner, "try_pace", pace)
    monkeypatch.setattr(planner, "SLOW_ROWS_PER_S", 0)
    found = client.preflight("line", uri)
    assert not found.expected.pace_known
    read_s = 6_000 * found.batch_row_bytes * READ_S_PER_BYTE
    assert read_s > 0
    assert found.expected.work_s == pytest.approx(6_000 / 2_000 + read_s + found.parts * PART_S)
    assert len(made) == 1
    client.submit("line", uri)
    assert len(made) == 1  # the cut of this job does not depend on the pace


def test_the_outcome_adds_up_the_work_of_the_parts(client: EagerClient) -> None:
    job_id = client.submit("line", put(client, 2, 100), part_rows=100).job_id
    now = client.status(job_id)
    assert 0 < now.work_s < now.seconds
    manifest = json.loads(client.buckets.main.get(f"results/line/job_id={job_id}/_manifest.json").data)
    assert now.result_bytes == sum(part["bytes"] for part in manifest["parts"])


def test_a_job_that_failed_says_no_requests(client: EagerClient) -> None:
    client.put("in/a.parquet", pd.DataFrame({"x": [np.nan]}))
    now = client.submit("line", "s3://scoreline/in/a.parquet", max_rejected="0")
    assert (now.state, now.class_a, now.class_b) == ("failed", 0, 0)
    assert not {"class_a", "class_b"} & now.to_dict().keys()


def test_a_dry_run_needs_no_redis(client: EagerClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: MemoryLedger) -> int:
        raise LedgerUnavailable("Redis does not answer")

    monkeypatch.setattr(MemoryLedger, "processes", refuse)
    monkeypatch.setattr(MemoryLedger, "worker_size", refuse)
    assert client.preflight("line", put(client, 1, 10)).expected.class_b > 0


def test_a_dry_run_knows_that_a_worker_fetches_small_objects_once(client: EagerClient) -> None:
    uri = put(client, 40, 10)
    client.ledger.note_processes(4, HANG_S)
    found = []
    for size in (1, 4):
        client.ledger.note_worker_size(size)
        found.append(client.preflight("line", uri, part_rows=100).requests)
    assert found == [30, 0]


def test_prices_are_applied_to_both(client: EagerClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "prices.toml").write_text(PRICES)
    monkeypatch.setenv("PRICES_FILE", str(tmp_path / "prices.toml"))
    monkeypatch.setattr(Client, "from_env", lambda: client)
    client.ledger.note_worker_size(2)
    uri = put(client, 2, 1_000)
    expected = client.preflight("line", uri).expected
    assert expected.currency == "USD"
    assert expected.costs["dynos"] == pytest.approx(expected.work_s / 3_600 * 0.36 / 2)
    assert expected.costs["class A"] == pytest.approx(expected.class_a * 4.5e-6)
    job = client.submit("line", uri)
    done = CliRunner().invoke(cli, ["status", job.job_id, "--json"])
    shown = json.loads(done.output)
    assert shown["costs"]["class B"] == pytest.approx(shown["class_b"] * 0.36e-6)
    assert list(shown["costs"]) == ["dynos", "class A", "class B", "storage for a month"]
    text = CliRunner().invoke(cli, ["status", job.job_id]).output
    assert f"{shown['class_a']} requests that wrote or listed, {shown['class_b']} that read" in text
    assert " USD: dynos " in text
    dry = CliRunner().invoke(cli, ["submit", "line", uri, "--dry-run"]).output
    assert "  work     about " in dry
    assert "  costs    " in dry


def test_scores_to_carry_over_cost_a_request_more_for_each_part(
    client: EagerClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    forest = RandomForestClassifier(2, random_state=0).fit(pd.DataFrame({"x": [0.0, 1.0]}), ["no", "yes"])
    client.models.publish("forest", forest)
    uri = put(client, 2, 10_000)
    for job_id in ("j1", "j2"):
        with monkeypatch.context() as patched:
            expected = client.preflight("forest", uri, part_rows=1_000, only_changed=True).expected
            counted = Counted(patched)
            client.submit("forest", uri, part_rows=1_000, job_id=job_id, only_changed=True)
        outcome = read_outcome(client.buckets.main, job_id)
        assert outcome is not None
        assert outcome.carried == (0 if job_id == "j1" else 20_000)
        assert (expected.class_a, outcome.class_a) == (counted.a, counted.a)
        assert expected.class_b == pytest.approx(counted.b, rel=0.1)
        assert outcome.class_b == pytest.approx(counted.b, rel=0.1)
