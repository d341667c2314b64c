"""``scoreline report`` writes a page, or the facts, and says what it cannot do."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from scoreline.storage.errors import InvalidRequest, JobNotFound
from scoreline.tasks.client import Client
from scoreline.testing import EagerClient
from scoreline.worker.cli.main import cli
from tests.unit.quality.report.conftest import DRIFTED, SOUND


@pytest.fixture
def run(churn: EagerClient, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Result]:
    monkeypatch.setattr(Client, "from_env", lambda: churn)
    monkeypatch.chdir(tmp_path)
    return lambda *words: CliRunner().invoke(cli, ["report", *words])


def test_the_page_is_written_to_a_file_that_has_the_name_of_the_job(run: Callable[..., Result]) -> None:
    done = run(DRIFTED)
    assert (done.exit_code, done.stdout) == (0, "")
    page = Path(f"{DRIFTED}.html").read_text()
    assert page.startswith("<!doctype html>")
    assert done.stderr.startswith(f"wrote {DRIFTED}.html (")
    assert f"job {DRIFTED} blocked, " in done.stderr
    assert "of which block" in done.stderr
    assert [path.name for path in Path().iterdir()] == [f"{DRIFTED}.html"], "a temporary file is left"


def test_the_page_can_be_written_elsewhere_and_compare_with_another_job(run: Callable[..., Result]) -> None:
    assert run(DRIFTED, "-o", "a.html", "--against", SOUND).exit_code == 0
    assert f"Compared with job {SOUND}" in Path("a.html").read_text()
    shown = run(SOUND, "-o", "-")
    assert shown.stdout.endswith("</html>\n") or shown.stdout.endswith("</html>")


def test_the_facts_are_printed_as_json_or_written(run: Callable[..., Result]) -> None:
    shown = json.loads(run(SOUND, "--json").stdout)
    assert (shown["job_id"], shown["rows"]) == (SOUND, 2_000)
    assert run(SOUND, "--json", "-o", "a.json").exit_code == 0
    assert json.loads(Path("a.json").read_text())["job_id"] == SOUND


def test_an_unknown_job_or_folder_is_an_error(run: Callable[..., Result]) -> None:
    assert isinstance(run("nope").exception, JobNotFound)
    assert isinstance(run(SOUND, "--against", "nope").exception, JobNotFound)
    done = run(SOUND, "-o", "missing/a.html")
    assert isinstance(done.exception, InvalidRequest)
    assert str(done.exception) == "missing is no folder: create it first"


def test_the_help_says_what_the_page_shows_and_what_it_needs() -> None:
    shown = CliRunner().invoke(cli, ["report", "--help"]).output
    assert "scoreline report nightly-20261125T020000Z" in shown
    assert "baseline" in shown
    assert max(map(len, shown.splitlines())) <= 80
