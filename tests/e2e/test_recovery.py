"""A user cancels, resumes and reconciles jobs on the command line."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LinearRegression

from scoreline.storage.models.manager import ModelStorageManager
from scoreline.storage.objects.base import ObjectStore
from scoreline.tasks.client import Client
from scoreline.tasks.job.documents import Status
from scoreline.worker.cli.idle_hint import IdleHint
from scoreline.worker.cli.progress import follow_job
from scoreline.worker.dev.stack import Stack
from tests.support.elsewhere import application
from tests.support.estimators import Staged
from tests.support.waiting import HANG_S, wait_until

Cli = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Path]:
    """A file that the model `slow` waits for. The fixture creates the file at the end, so that no process waits for
    ever."""
    path = tmp_path / "gate"
    yield path
    path.touch()


@pytest.fixture
def slow(models: ModelStorageManager, put_table: Callable[..., str], gate: Path) -> str:
    """Publish a model that waits for `gate`, and write an input of 20 parts."""
    models.publish("slow", Staged(gate=str(gate)).fit(pd.DataFrame({"x": [0.0]})))
    frame = pd.DataFrame({"id": np.arange(2_000), "x": np.arange(2_000.0)})
    return put_table("in/slow.parquet", frame, row_group_size=100)


def test_a_user_can_cancel_and_resume_a_job(worker: Stack, cli: Cli, slow: str, gate: Path) -> None:
    job = cli("submit", "slow", slow, "--part-rows", "100").stdout.strip()
    refused = cli("resume", job)
    assert (refused.returncode, refused.stderr.strip()) == (
        2,
        f"error: job {job} is under way: follow it with `scoreline watch {job}`",
    )
    cancelled = cli("cancel", job)
    assert cancelled.returncode == 0
    assert f"{job}: cancelled after" in cancelled.stdout
    assert [cli(command, job).returncode for command in ("watch", "status")] == [4, 4]
    again = cli("cancel", job)
    assert again.stderr.strip() == f"{job} has already ended, so there is nothing to cancel"
    resumed = cli("resume", job)
    assert re.search(rf"resumed {job}, (with \d+ of 20 parts done|which had no plan yet)", resumed.stderr)
    assert not re.search("parts +0 of 0|of 0$", resumed.stdout, re.MULTILINE)
    gate.touch()
    resumed = cli("watch", job)
    assert resumed.returncode == 0, resumed.stderr
    assert "2,000 scored, 0 rejected, of 2,000" in resumed.stdout
    assert f"{job} " in cli("jobs").stdout  # if the output is not a terminal, ids are not shortened
    assert job in {item["job_id"] for item in json.loads(cli("jobs", "--json").stdout)}
    again = cli("resume", job)
    assert (again.returncode, again.stderr.strip()) == (
        2,
        f"error: job {job} has all its results (succeeded): there is nothing to resume",
    )


def test_a_user_can_run_the_reconciler(worker: Stack, cli: Cli, store: ObjectStore, slow: str) -> None:
    job = cli("submit", "slow", slow, "--part-rows", "100").stdout.strip()
    report = cli("reconcile")
    assert report.returncode == 0
    named = report.stdout.splitlines()  # jobs of other tests may still lose their markers
    assert [line for line in named if line.startswith(f"{job}: ")] != []
    assert report.stderr.strip() == f"jobs under way: {len(named)}"
    cli("cancel", job)
    assert f"{job}: " not in cli("reconcile").stdout


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("cancel", "nobody"), "no job 'nobody'"),
        (("resume", "nobody"), "no job 'nobody'"),
        (("resume", "nobody", "--max-rejected", "some"), "no job 'nobody'"),
        (("submit", "slow", "s3://scoreline/in/", "--part-rows", "0"), "--part-rows"),
        (("submit", "slow", "s3://scoreline/in/", "--max-attempts", "x"), "--max-attempts"),
    ],
)
def test_a_command_that_cannot_be_carried_out_says_why(
    stack: Stack, cli: Cli, arguments: tuple[str, ...], expected: str
) -> None:
    done = cli(*arguments)
    assert done.returncode == 2
    assert expected in done.stderr


def test_messages_for_jobs_that_do_not_exist_are_dropped(worker: Stack, client: Client, store: ObjectStore) -> None:
    client.queue.send("scoreline.score_part", job_id="never-was", part=0)
    client.queue.send("scoreline.finalize", job_id="never-was")
    client.queue.send("scoreline.plan", job_id="never-was")
    client.queue.send("scoreline.plan", job_id="../up")

    def dropped() -> int:
        logs = [log.read_text() for log in worker.folder.glob("worker*.log")]
        return "".join(logs).count("job.unknown job_id=never-was error=")

    wait_until(lambda: dropped() >= 3, "three messages dropped")
    assert dropped() == 3
    assert list(store.list("jobs/never-was/")) == []


def test_a_message_that_submits_is_one_job_however_often_it_is_delivered(
    worker: Stack, client: Client, slow: str, gate: Path
) -> None:
    gate.touch()
    message = {"model": "slow", "input": slow, "max_rejected": "0"}
    with application(worker.environ["REDIS_URL"]) as app:
        for _ in range(2):
            app.send_task("scoreline.submit", kwargs=message, task_id="from-elsewhere", queue="scoreline")
    wait_until(lambda: "from-elsewhere" in {job.job_id for job in client.jobs()}, "the job")
    assert list(client.watch("from-elsewhere", timeout_s=HANG_S))[-1].rows == 2_000


@pytest.mark.parametrize(
    "command", [(), ("dev",), ("models", "publish"), ("models", "alias"), ("schedule",), ("resume",)]
)
def test_help_keeps_the_lines_of_its_examples(cli: Cli, command: tuple[str, ...]) -> None:
    shown = cli(*command, "--help")
    assert shown.returncode == 0
    assert "\\b" not in shown.stdout
    if not command:
        assert "  scoreline demo\n  scoreline models publish churn" in shown.stdout


def test_rejected_shows_the_reasons_with_counts_and_examples(
    worker: Stack, cli: Cli, client: Client, models: ModelStorageManager, put_table: Callable[..., str]
) -> None:
    # Given two files with NaN and infinity, and with columns that are named like the columns of the rejects table
    models.publish("strict", LinearRegression().fit(pd.DataFrame({"x": [0.0, 1.0]}), [0.0, 2.0]))
    frame = pd.DataFrame({"id": np.arange(500), "x": np.arange(500.0), "row": "theirs", "source": 7})
    frame.loc[[3, 17], "x"] = np.nan
    frame.loc[20, "x"] = np.inf
    put_table("in/strict/a.parquet", frame)
    uri = put_table("in/strict/b.parquet", frame).rpartition("/")[0] + "/"
    job = cli("submit", "strict", uri, "--max-rejected", "5%", "--watch").stdout.split()[0]
    # When a user runs `scoreline rejected`
    said = cli("rejected", job, "--examples", "1")
    # Then the command shows each reason with its number of rows, its objects and an example row
    assert said.returncode == 0, said.stderr
    lines = said.stdout.splitlines()
    assert lines[0] == f"{job}: 6 rejected, 994 scored, of 1,000 rows; partial"
    assert lines[2].startswith("4 rows  schema  'x'  … is null or NaN, which the model does not take: ")
    assert f"  2 of {uri}a.parquet" in lines
    assert any(line.startswith("  row 3 of a.parquet: 'x' is null or NaN") for line in lines)
    shown = [json.loads(line) for line in lines if line.startswith("    {")]
    assert shown[0] == {"id": 3, "x": None, "row": "theirs", "source": 7}
    assert any(line.startswith("2 rows  schema  'x'  … is infinite") for line in lines)
    reasons = json.loads(cli("rejected", job, "--json").stdout)["reasons"]
    assert [(reason["rows"], len(reason["examples"])) for reason in reasons] == [(4, 3), (2, 2)]
    # And the command also says whether no row was rejected, or the job does not exist
    none = cli("submit", "strict", put_table("in/sound.parquet", frame[30:40]), "--watch").stdout.split()[0]
    assert cli("rejected", none).stdout == f"{none}: 0 rejected, 10 scored, of 10 rows; succeeded\n"
    assert "no job 'nobody'" in cli("rejected", "nobody").stderr


def test_only_the_budget_limits_how_many_rows_may_be_rejected(
    worker: Stack, cli: Cli, models: ModelStorageManager, put_table: Callable[..., str]
) -> None:
    # Given a part of 20,000 rows, of which 5,000 cannot be scored, among them the first 3,000
    models.publish("quarter", LinearRegression().fit(pd.DataFrame({"x": [0.0, 1.0]}), [0.0, 2.0]))
    frame = pd.DataFrame({"id": np.arange(20_000), "x": np.arange(20_000.0)})
    frame.loc[np.r_[0:3_000, 9_000:11_000], "x"] = np.nan
    uri = put_table("in/quarter.parquet", frame)
    failed = cli("submit", "quarter", uri, "--max-rejected", "4999", "--job-id", "quarter", "--watch")
    assert failed.returncode == 1
    assert "more than 4999 rows were rejected" in failed.stdout
    assert "The first is row 0" in failed.stdout
    assert "Input X contains NaN.\n" in failed.stdout  # the advice in scikit-learn's message is cut off
    assert "scoreline resume quarter --max-rejected N|P%" in failed.stdout
    # Then the same job ends after it is resumed with a budget of 5,000 rejected rows
    done = cli("resume", "quarter", "--max-rejected", "25%", "--watch")
    assert done.returncode == 3, done.stdout
    assert "15,000 scored, 5,000 rejected, of 20,000" in done.stdout
    shown = cli("status", "quarter").stdout
    assert "scoreline rejected quarter says why" in shown
    assert "_rejected/ of the results contains them" in shown
    assert "hint" not in cli("status", "quarter", "--json").stdout


def test_watch_says_once_that_no_worker_answers(
    own: Stack, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a job and no worker
    client = Client.from_env(own.environ)
    ModelStorageManager.from_env(own.environ).publish("idle", LinearRegression().fit([[0.0], [1.0]], [0.0, 2.0]))
    job = client.submit("idle", "s3://scoreline/in/").job_id
    said, looks, watch = "", 0, client.watch

    def watched(job_id: str) -> Iterator[Status]:
        nonlocal looks
        for status in watch(job_id):
            looks += 1
            yield status

    monkeypatch.setattr(client, "watch", watched)

    def is_told() -> bool:
        nonlocal said
        said += capfd.readouterr().err
        return "no worker has answered" in said

    # When a user watches the job
    with ThreadPoolExecutor(1) as pool:
        watching = pool.submit(follow_job, client, job, 0.5)
        try:
            wait_until(is_told, "the hint")
            seen = looks
            wait_until(lambda: looks > seen + 3, "more looks, at each of which it could be said again")
        finally:
            client.cancel(job)
        assert watching.result(timeout=HANG_S) == 4
    # Then the hint to start a worker is printed once
    said += capfd.readouterr().err
    assert said.count("no worker has answered for 0.5 s: start one with `celery -A scoreline worker`") == 1


def test_watch_says_nothing_about_workers_while_they_answer(worker: Stack, client: Client) -> None:
    answers: list[list[str]] = []

    def ask(_: float) -> list[str]:
        answers.append(wait_until(client.queue.workers, "an answer of the worker"))  # it may be busy
        return answers[-1]

    idle_hint, job = IdleHint(ask, after_s=0), Status(job_id="j", state="submitted", model="m", output="s3://data/")
    said: list[str | None] = []

    def is_told_or_asks_again() -> bool:
        said.append(idle_hint.update(job))
        return said[-1] is not None or len(answers) > 1

    wait_until(is_told_or_asks_again, "a second question, which is asked after the first answer was considered")
    assert set(said) == {None}
