"""``scoreline accept``, ``reject``, ``results``, and what ``status`` says about a blocked job."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from click.testing import CliRunner, Result

from scoreline.tasks.client import Client
from scoreline.worker.cli import output
from scoreline.worker.cli.main import cli
from tests.support.gated import BLOCKS, OUTPUT, WARNS, Gated


@pytest.fixture
def run(jobs: Gated, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    client = Client(jobs.buckets, jobs.client.queue, jobs.client.ledger, submitter="alice")
    monkeypatch.setattr(Client, "from_env", lambda: client)
    return lambda *words: CliRunner().invoke(cli, list(words))


def test_the_status_of_a_blocked_job_says_why_and_what_to_do(jobs: Gated, run: Callable[..., Result]) -> None:
    jobs.run("j", WARNS, BLOCKS)
    shown = run("status", "j")
    assert shown.exit_code == 5
    assert "j: blocked after" in shown.output
    assert "  blocks   rows: half of the rows are missing\n" in shown.output
    assert "  warning  nulls: x has more nulls than before\n" in shown.output
    assert "  hint     scoreline accept j --reason TEXT gives the results to readers" in shown.output
    as_json = run("status", "j", "--json")
    assert as_json.exit_code == 5
    assert [item["check"] for item in json.loads(as_json.output)["checks"]["findings"]] == ["rows", "nulls"]
    assert run("watch", "j").exit_code == 5
    listed = run("jobs", "--state", "blocked", "--json")
    assert [job["job_id"] for job in json.loads(listed.output)] == ["j"]


def test_accept_and_reject_say_which_run_readers_take(jobs: Gated, run: Callable[..., Result]) -> None:
    jobs.run("a")
    jobs.run("b", BLOCKS)
    done = run("accept", "b", "--reason", "a holiday")
    assert (done.exit_code, done.stdout) == (0, "accepted b\n")
    assert done.stderr == "b is now the latest run of its output\n"
    status = run("status", "b")
    assert status.exit_code == 0
    assert "  decision accepted by alice on " in status.output
    assert status.output.rstrip().endswith("UTC: a holiday")
    done = run("reject", "b", "--reason", "not a holiday")
    assert (done.exit_code, done.stdout, done.stderr) == (0, "withdrew b\n", "the latest run of its output is job a\n")
    status = run("status", "b")
    assert "  decision withdrawn by alice on " in status.output
    assert "  hint     scoreline accept b --reason TEXT gives the results back" in status.output
    assert run("reject", "a", "--reason", "x").stderr.startswith("no run of its output is accepted now")
    assert run("accept", "b").exit_code == 2
    assert run("accept", "none", "--reason", "x").exit_code != 0


def test_results_list_accepted_withdrawn_and_blocked_runs(
    jobs: Gated, run: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    none = run("results", OUTPUT).output
    assert none.startswith(f"no run of {OUTPUT} is accepted, withdrawn or blocked: `scoreline jobs` lists jobs")
    assert f"name the output, {OUTPUT}\n" in run("results", f"{OUTPUT}job_id=a/").output
    for name, finding in (("a", WARNS), ("b", WARNS), ("c", WARNS), ("d", BLOCKS)):
        jobs.run(name, finding)
    jobs.run("elsewhere", BLOCKS, output="s3://scoreline/other/")
    run("reject", "c", "--reason", "too many nulls")
    listed = json.loads(run("results", OUTPUT, "--json").output)
    assert [(item["job_id"], item["state"], item["who"]) for item in listed] == [
        ("d", "blocked", "checks"),
        ("c", "withdrawn", "alice"),
        ("b", "latest", "checks"),
        ("a", "accepted", "checks"),
    ]
    back = run("results", OUTPUT, "--rollback", "--reason", "wrong prices")
    assert (back.exit_code, back.output) == (0, "the latest run is now job a\n")
    monkeypatch.setattr(output, "terminal_width", lambda **_: 80)
    shown = run("results", OUTPUT[:-1]).output
    assert shown.splitlines()[0].split() == ["job", "state", "rows", "rejected", "time", "by"]
    assert "c: withdrawn: too many nulls\n" in shown
    assert "d: blocked: half of the rows are missing.\n" in shown
    assert "alice went back from job b to job a on " in shown
    assert max(map(len, shown.splitlines())) <= 80
    assert "older runs than the newest 2 are left out" in run("results", OUTPUT, "--limit", "2").stderr
    named = run("results", OUTPUT, "--rollback", "b", "--reason", "right prices")
    assert named.output == "the latest run is now job b\n"


def test_rows_are_written_to_a_file(jobs: Gated, run: Callable[..., Result], tmp_path: Path) -> None:
    jobs.run("j")
    target = tmp_path / "scores.csv"
    for source in (OUTPUT, "j"):
        done = run("results", source, "--to", str(target))
        assert (done.exit_code, done.stderr) == (0, f"40 rows of job j written to {target}\n")
        assert list(pd.read_csv(target)["id"]) == list(range(40))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("j",), "'j' is a job: name an output"),
        (("results/churn/",), "'results/churn/' is no URI: name an output"),
        ((OUTPUT, "--rollback"), "--rollback requires --reason"),
        ((OUTPUT, "--rollback", "a", "--to", "a.csv", "--reason", "x"), "--to and --rollback cannot be combined"),
        ((OUTPUT, "--to", "a.txt"), "none of the suffixes"),
        (("s3://elsewhere/out/",), "not in ALLOWED_BUCKETS"),
        (("s3://X/",), "is not of the form"),
    ],
)
def test_wrong_words_are_refused(jobs: Gated, run: Callable[..., Result], words: tuple[str, ...], message: str) -> None:
    jobs.run("j")
    done = run("results", *words)
    assert done.exit_code != 0
    assert message in f"{done.output}{done.exception}"
