"""The command says how many dynos are needed, and refuses what it cannot do."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from benchmarks.heroku_api import APP, KEY, FakeHeroku
from scoreline.storage.errors import InvalidSettings, LedgerUnavailable
from scoreline.tasks.backlog.dynos import Decision
from scoreline.tasks.backlog.reader import Backlog
from scoreline.tasks.client import Client
from scoreline.worker.cli import scale
from scoreline.worker.cli.main import cli
from scoreline.worker.heroku import formation
from scoreline.worker.heroku.scaler import Look
from tests.support.one_job import OneJob


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Client:
    job = OneJob(tmp_path)
    job.ledger.watchlist.add(["j"])
    monkeypatch.setattr(Client, "from_env", lambda: job.client)
    return job.client


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHeroku]:
    monkeypatch.setenv("HEROKU_API_KEY", KEY)
    monkeypatch.setenv("HEROKU_APP_NAME", APP)
    with FakeHeroku(lambda: 0.0, worker=0, scorer=4) as api:
        monkeypatch.setattr(scale, "Formation", lambda *args: formation.Formation(*args, url=api.url))
        yield api


def run(*words: str) -> Result:
    return CliRunner().invoke(cli, ["scale", *words])


def test_it_says_what_is_needed_and_sets_it_on_demand(client: Client, api: FakeHeroku) -> None:
    assert run("--finish-within", "10m").output == (
        "worker: 0 dynos, should be 1: 1 job and 1 message wait for a worker\n"
    )
    assert api.formation["worker"] == 0
    done = run("--finish-within", "10m", "--apply")
    assert done.output == "worker: 0 dynos, now 1: 1 job and 1 message wait for a worker\n"
    assert api.formation == {"worker": 1, "scorer": 4}
    assert run("--finish-within", "10m", "--worker-type", "scorer").output.startswith("scorer: 4 dynos: 1 job and")


def test_without_a_platform_it_counts_the_workers(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client.queue, "workers", lambda timeout_s: ["a", "b"])
    assert run("--finish-within", "10m").output.startswith("worker: 2 dynos: 1 job and 1 message wait")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "Missing option '--finish-within'"),
        (("--finish-within", "10"), "'10' is not a duration such as 90s, 10m, 2h or 1d"),
        (("--finish-within", "0m"), "'0m' is not a duration"),
        (("--finish-within", "-5m"), "'-5m' is not a duration"),
        (("--finish-within", "1h", "--min", "3", "--max", "2"), "--min 3 is more than --max 2"),
    ],
)
def test_what_cannot_be_meant_is_a_usage_error(words: tuple[str, ...], said: str) -> None:
    done = run(*words)
    assert (done.exit_code, said in done.output) == (2, True), done.output


@pytest.mark.parametrize(
    ("given", "missing"),
    [
        ({}, "HEROKU_API_KEY and HEROKU_APP_NAME must be set for --apply"),
        ({"HEROKU_API_KEY": KEY}, "HEROKU_APP_NAME must be set"),
        ({"HEROKU_APP_NAME": APP}, "HEROKU_API_KEY must be set"),
    ],
)
def test_setting_needs_a_key_and_an_app(given: dict[str, str], missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    done = run("--finish-within", "10m", "--apply")
    assert isinstance(done.exception, InvalidSettings)
    assert missing in str(done.exception)
    assert KEY not in str(done.exception)


def test_only_changes_and_errors_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    say = scale._Reporter("worker", apply=True)

    def look(dynos: int, decided: int, reason: str) -> Look:
        return Look(dynos=dynos, decision=Decision(dynos=decided, reason=reason), backlog=Backlog(jobs=()))

    found: list[Any] = [look(0, 0, "a"), look(0, 0, "b"), look(0, 2, "c"), look(2, 2, "d"), look(2, 2, "e")]
    for item in [*found, LedgerUnavailable("Redis is down."), found[-1]]:
        say(item)
    out, err = capsys.readouterr()
    assert [line.rpartition(": ")[2] for line in out.splitlines()] == ["a", "c", "d", "e"]
    assert err.startswith("error: Redis is down")
