"""The audit is read from its newest line backwards, and a page costs the page."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from scoreline.storage import audit, keys
from scoreline.tasks.audit.reading import UNREADABLE, AuditFilter, read_audit
from scoreline.worker.cli import output
from scoreline.worker.cli.main import cli
from tests.support.copies import copy_objects
from tests.support.counting_store import CountedRequests

NOON = datetime(2026, 11, 25, 12, tzinfo=UTC)


class _Clock:
    moment = NOON

    @classmethod
    def now(cls, tz: Any) -> datetime:
        return cls.moment


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a store with 300 lines of three days, one every 12 minutes until noon."""
    folder = tmp_path_factory.mktemp("audit")
    made = CountedRequests(folder, "scoreline")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(audit, "datetime", _Clock)
        for number in range(300):
            patch.setattr(_Clock, "moment", NOON - timedelta(minutes=12 * number))
            with audit.acting_as("alice" if number % 10 else "bob", "laptop, CLI"):
                action = "job.cancel" if number % 3 else "alias.set"
                audit.record(made, action=action, target=f"job-{number}", details={"run": 1})
    return folder


@pytest.fixture
def store(written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CountedRequests:
    """A store of the test alone, with these lines and the clock of the oldest one."""
    monkeypatch.setattr(audit, "datetime", _Clock)
    monkeypatch.setattr(_Clock, "moment", NOON - timedelta(minutes=12 * 299))
    copy_objects(written, tmp_path)
    return CountedRequests(tmp_path, "scoreline")


def targets(store: CountedRequests, limit: int = 1_000, **chosen: Any) -> list[str]:
    return [line.target for line in read_audit(store, AuditFilter(**chosen), limit)]


def test_the_newest_lines_come_first_over_all_days(store: CountedRequests) -> None:
    assert targets(store) == [f"job-{number}" for number in range(300)]


def test_a_page_costs_two_listings_and_its_lines(store: CountedRequests) -> None:
    assert targets(store, 20) == [f"job-{number}" for number in range(20)]
    assert store.requests == {"folders": 1, "list": 1, "get": 20}


def test_a_target_is_found_without_reading_other_lines(store: CountedRequests) -> None:
    assert targets(store, 20, target="job-299") == ["job-299"]
    assert store.requests == {"folders": 1, "list": 3, "get": 1}


def test_lines_are_chosen_by_action_person_and_time(store: CountedRequests) -> None:
    assert targets(store, 3, action="alias.set") == targets(store, 3, action="alias") == ["job-0", "job-3", "job-6"]
    assert targets(store, 3, action="ali") == []
    assert targets(store, 2, who="bob") == ["job-0", "job-10"]
    since, until = NOON - timedelta(hours=25), NOON - timedelta(hours=24)
    assert targets(store, since=since, until=until) == [f"job-{number}" for number in range(120, 126)]


def test_days_outside_of_the_period_are_not_listed(store: CountedRequests) -> None:
    targets(store, since=NOON - timedelta(minutes=20))
    assert store.requests == {"folders": 1, "list": 1, "get": 2}


def test_a_malformed_line_is_shown_and_other_objects_are_ignored(store: CountedRequests) -> None:
    forged = keys.audit_line(NOON + timedelta(minutes=1), "0" * 8, "job.cancel", "a")
    store.put(forged, b"{}")
    store.put("audit/notes.txt", b"")
    store.put("audit/2026-11-25/notes.txt", b"")
    store.put("audit/2026-11-25/00~a~b~c.json", b"")
    for other in ("not-a-day/a~b~c.json", "2026-99-99/a~b~c.json", "2026-11-25/00/x~b~c.json"):
        store.put(f"audit/{other}", b"")
    found = list(read_audit(store, AuditFilter(), 1_000))
    (line,) = (line for line in found if line.who == UNREADABLE)
    assert (line.action, line.target, line.at) == ("job.cancel", "a", "2026-11-25T12:01:00.000+00:00")
    assert len(found) == 301


@pytest.mark.parametrize("target", ["s3://scoreline/results/churn/", "a~b~c", "x" * 300, "ü" * 100, "../../x"])
def test_any_target_can_be_written_and_found(store: CountedRequests, target: str) -> None:
    audit.record(store, action="results.gc", target=target)
    assert targets(store, target=target) == [target]


def show(tmp_path: Path, *words: str) -> str:
    environ = {"ENVIRONMENT": "development", "STORE_DIR": str(tmp_path), "R2_BUCKET": "scoreline"}
    result = CliRunner(env=environ).invoke(cli, ["audit", *words], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_the_command_shows_who_did_what_from_where(store: CountedRequests, tmp_path: Path) -> None:
    assert show(tmp_path, "--limit", "2") == (
        "older lines than the latest 2 are left out: see --limit\n"
        "2026-11-25 12:00:00  alias.set  job-0\n"
        "    bob (laptop, CLI); run 1\n"
        "2026-11-25 11:48:00  job.cancel  job-1\n"
        "    alice (laptop, CLI); run 1\n"
    )
    (line,) = json.loads(show(tmp_path, "--until", "2026-11-22", "--target", "job-299", "--json") or "[]") or [{}]
    assert line == {}
    (line,) = json.loads(show(tmp_path, "--since", "2026-11-23", "--target", "job-299", "--json"))
    assert line == {
        "at": "2026-11-23T00:12:00.000+00:00",
        "action": "job.cancel",
        "target": "job-299",
        "who": "alice",
        "where": "laptop, CLI",
        "details": {"run": 1},
    }


def test_every_line_fits_into_a_terminal_of_80_columns(
    store: CountedRequests, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_Clock, "moment", NOON + timedelta(minutes=1))
    with audit.acting_as("a person with a long name", "run.4821 of an-application-with-a-long-name, CLI"):
        audit.record(
            store,
            action="alias.set",
            target="customers-of-all-markets@champion",
            details={"from": "20261101T120000Z-0a1b2", "to": "20261102T120000Z-0a1b3"},
        )
    monkeypatch.setattr(output, "terminal_width", lambda stderr=False: 80)
    lines = show(tmp_path).splitlines()
    assert max(map(len, lines)) <= 80
    assert "20261102T120000Z-0a1b3" in " ".join(lines)
