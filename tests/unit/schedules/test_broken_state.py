"""If the state or the job of a schedule cannot be read, an error names the schedule, and the other schedules run."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from scoreline.storage import keys
from tests.unit.schedules.conftest import BEFORE, HOURLY, JOB, NIGHTLY, SLOT, Night, at

NEXT = at("2026-11-26T01:30")
STATES: list[Any] = [
    {"through": "yesterday"},
    {"through": "2026-11-25T00:00:00"},
    {"through": 5},
    {"current": "2026"},
    {"current": ["x"]},
    {"pending": "2026-11-25T00:00:00+00:00"},
    {"pending": ["tomorrow"]},
    {"asked": [None]},
    {"history": [{"slot": "never", "state": "failed"}]},
    {"history": [{"slot": "2026-11-25T00:00:00+00:00", "state": 5}]},
    {"numbers": {"2026-11-25T00:00:00+00:00": "2"}},
    {"refusals": [{"job_id": "x"}]},
    {"refusals": [{"job_id": "x", "at": "now", "error": "", "model": "m", "output": "s3://b/o/"}]},
]


def break_state(night: Night, broken: Any) -> None:
    main, key = night.client.buckets.main, keys.schedule_state("nightly")
    whole = isinstance(broken, bytes)
    main.put(key, broken if whole else json.dumps(json.loads(main.get(key).data) | broken).encode())


@pytest.mark.parametrize("broken", [*STATES, b"", b"[1]", b"\xff"], ids=str)
def test_a_state_that_cannot_be_read_stops_only_its_schedule(night: Night, broken: Any) -> None:
    night.write(NIGHTLY + HOURLY)
    night.tick(BEFORE)
    break_state(night, broken)
    # The other schedule runs, and the report for the broken schedule says what is wrong and what to do
    report = night.tick(at("2026-11-25T01:00"))
    assert report["hourly"] == ["submitted hourly-20261125T010000Z"]
    (failed,) = report["nightly"]
    assert "schedules/nightly/state.json is not what Scoreline writes there" in failed
    assert "delete the object, and the schedule begins anew" in failed
    # Both schedules are listed
    listed = night.cli("list")
    assert listed.exit_code == 1
    assert [line.split()[0] for line in listed.stdout.splitlines()[1:3]] == ["nightly", "hourly"]
    assert "nightly: unreadable: s3://scoreline/schedules/nightly/state.json is not" in listed.stdout
    assert json.loads(night.cli("list", "--json").stdout)[0]["outcome"] == "unreadable"
    # And the remedy helps
    night.client.buckets.main.delete(keys.schedule_state("nightly"))
    night.tick(BEFORE)
    assert night.tick(SLOT)["nightly"] == [f"submitted {JOB}"]


@pytest.mark.parametrize("key", [keys.job, keys.outcome], ids=["job", "outcome"])
def test_a_job_that_cannot_be_read_counts_as_failed_and_the_next_slot_runs(
    make: Callable[..., Night], key: Any, caplog: pytest.LogCaptureFixture
) -> None:
    night = make(run=False)
    night.tick(SLOT)
    night.client.buckets.main.put(key(JOB), b'{"state": "[/red]"}')
    assert night.tick(NEXT) == {"nightly": ["submitted nightly-20261126T013000Z"]}
    (past,) = night.state().history
    assert (past.state, f"{JOB}/" in past.error) == ("failed", True)
    assert "schedule.job_unreadable" in caplog.messages
