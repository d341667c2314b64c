"""A mistake in `schedules.toml` stops no schedule, and every command and tick reports it until it is corrected."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from scoreline.storage import keys
from scoreline.storage.errors import DocumentCorrupt, InvalidRequest, InvalidSettings
from scoreline.tasks.schedules.scheduler import Scheduler
from scoreline.tasks.schedules.settings import ScheduleSettings
from tests.unit.schedules.conftest import BEFORE, HOURLY, JOB, NIGHTLY, SLOT, Night, at

BROKEN: dict[str, tuple[str | bytes, str]] = {
    "a bracket is missing": (NIGHTLY + "[nightly2\n", "line 7: is not TOML"),
    "a quotation mark is missing": (NIGHTLY.replace('"Europe/Berlin"', '"Europe/Berlin'), "line 4: is not TOML"),
    "a table stands twice": (NIGHTLY + NIGHTLY, "line 8: is not TOML"),
    "another encoding": (NIGHTLY.encode() + b"# caf\xe9\n", "schedules.toml is not UTF-8"),
    "one schedule has a fault": (NIGHTLY.replace("Europe/Berlin", "Europe/Bonn"), "line 4: [nightly] zone"),
}
broken = pytest.mark.parametrize(("text", "says"), BROKEN.values(), ids=BROKEN)


def errors(caplog: pytest.LogCaptureFixture, event: str) -> list[str]:
    return [record.error for record in caplog.records if (record.levelname, record.msg) == ("ERROR", event)]  # type: ignore[attr-defined]


@broken
def test_the_last_good_text_stays_in_force_and_each_tick_logs_the_fault(
    night: Night, text: str | bytes, says: str, caplog: pytest.LogCaptureFixture
) -> None:
    night.write(text)
    assert night.tick(SLOT) == {"nightly": [f"submitted {JOB}"]}
    assert night.tick(at("2026-11-26T01:30")) == {"nightly": ["submitted nightly-20261126T013000Z"]}
    first, second = errors(caplog, "schedule.invalid")
    assert first == second
    assert says in first


@broken
def test_the_list_shows_what_is_in_force_and_the_fault(night: Night, text: str | bytes, says: str) -> None:
    assert night.cli("list").exit_code == 0
    night.write(text)
    said = night.cli("list")
    assert (said.exit_code, says in said.stderr) == (1, True)
    assert "until this is corrected, nightly runs as it was" in said.stderr
    assert said.stdout.splitlines()[1].startswith("nightly   30 2 * * *")
    (row,) = json.loads(night.cli("list", "--json").stdout)
    assert (row["name"], len(row["faults"])) == ("nightly", 1)
    assert max(map(len, said.stderr.splitlines())) <= 200


def test_a_file_to_check_that_is_not_a_text_is_an_error_of_its_own(night: Night) -> None:
    (night.folder / "mine.toml").write_bytes(b"# caf\xe9\n")
    error = night.cli("check", "mine.toml").exception
    assert isinstance(error, DocumentCorrupt)
    assert str(error).startswith("mine.toml is not UTF-8: ")


@broken
def test_schedule_tick_reports_a_fault_by_its_exit_code(night: Night, text: str | bytes, says: str) -> None:
    assert night.cli("tick").exit_code == 0
    night.write(text)
    assert night.cli("tick").exit_code == 1


def test_a_run_on_request_needs_the_text_as_it_is_now(night: Night) -> None:
    night.write(BROKEN["one schedule has a fault"][0])
    with pytest.raises(InvalidRequest, match=r"schedule 'nightly' cannot be used: line 4: \[nightly\] zone"):
        night.scheduler().get("nightly")


def test_a_fault_in_one_schedule_leaves_that_one_as_it_was_and_changes_the_others(night: Night) -> None:
    night.write(NIGHTLY + HOURLY)
    night.tick(BEFORE)
    # When one schedule has a fault, another is changed, and a third is new
    text = NIGHTLY.replace("30 2 *", "99 2 *") + HOURLY.replace("0 *", "15 *") + HOURLY.replace("hourly", "third")
    night.write(text)
    rows = {row.schedule.name: row.schedule.cron for row in night.scheduler().rows()}
    assert rows == {"nightly": "30 2 * * *", "hourly": "15 * * * *", "third": "0 * * * *"}
    # Then the changed schedule and the new one stay in force, even if the next text cannot be parsed
    night.tick(BEFORE)
    night.write(text + "[")
    assert {row.schedule.name: row.schedule.cron for row in night.scheduler().rows()} == rows


def test_a_schedule_that_is_removed_is_not_in_force_any_more(night: Night) -> None:
    night.write(HOURLY)
    assert list(night.tick(SLOT)) == ["hourly"]
    night.write(HOURLY + "[")
    assert list(night.tick(SLOT)) == ["hourly"]
    night.client.buckets.main.delete(keys.SCHEDULES)
    assert night.tick(SLOT) == {}


def test_a_new_schedule_with_a_fault_is_not_in_force(night: Night) -> None:
    night.write(NIGHTLY + HOURLY.replace("0 *", "99 *"))
    assert list(night.tick(BEFORE)) == ["nightly"]


def test_a_corrected_text_is_in_force_at_once(night: Night) -> None:
    night.write(NIGHTLY + "[")
    night.tick(BEFORE)
    night.write(HOURLY)
    assert list(night.tick(BEFORE)) == ["hourly"]
    assert night.cli("list").exit_code == 0


def test_the_schedules_in_force_are_written_only_when_they_change(night: Night) -> None:
    main = night.client.buckets.main
    before = main.head(keys.SCHEDULES_IN_FORCE).etag
    night.tick(SLOT)
    assert main.head(keys.SCHEDULES_IN_FORCE).etag == before
    night.write(NIGHTLY + HOURLY)
    night.tick(SLOT)
    assert main.head(keys.SCHEDULES_IN_FORCE).etag != before


@pytest.mark.parametrize("data", [b"{", b"[]", b'{"source": "", "tables": 3, "faults": []}'])
def test_a_document_that_cannot_be_read_is_written_again(night: Night, data: bytes) -> None:
    night.client.buckets.main.put(keys.SCHEDULES_IN_FORCE, data)
    assert night.tick(SLOT) == {"nightly": [f"submitted {JOB}"]}
    assert json.loads(night.client.buckets.main.get(keys.SCHEDULES_IN_FORCE).data)["tables"].keys() == {"nightly"}


def test_a_bucket_without_schedules_gets_no_document(make: Callable[..., Night]) -> None:
    night = make()
    main = night.client.buckets.main
    main.delete(keys.SCHEDULES)
    main.delete(keys.SCHEDULES_IN_FORCE)
    assert night.tick(SLOT) == {}
    assert list(main.list(keys.SCHEDULES_IN_FORCE)) == []


def test_a_schedule_that_breaks_the_code_does_not_hold_up_the_others(
    night: Night, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    night.write(NIGHTLY + HOURLY)
    night.tick(BEFORE)
    submit = night.client.submit_spec

    def breaks(spec: object, **options: object) -> object:
        if "nightly" in str(spec):
            raise KeyError("x")
        return submit(spec, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(night.client, "submit_spec", breaks)
    report = night.tick(at("2026-11-25T02:00"))
    assert report == {"nightly": ["failed: KeyError: 'x'"], "hourly": ["submitted hourly-20261125T020000Z"]}
    assert "schedule.failed" in {record.msg for record in caplog.records if record.levelno == logging.ERROR}


# SCHEDULES_FILE names a file


def test_a_file_that_a_setting_names_and_that_does_not_exist_is_a_fault(
    night: Night, caplog: pytest.LogCaptureFixture
) -> None:
    # Given the setting SCHEDULES_FILE, and schedules in the bucket that were valid before
    settings = ScheduleSettings.from_env({"SCHEDULES_FILE": "deployed.toml"})
    scheduler = Scheduler.from_settings(night.client, settings)
    # Then the earlier schedules still run, and every tick logs the fault
    assert scheduler.tick(SLOT) == {"nightly": [f"submitted {JOB}"]}
    reason = "SCHEDULES_FILE=deployed.toml is not a file: deploy the file, or unset SCHEDULES_FILE"
    assert errors(caplog, "schedule.invalid") == [reason]
    # And commands report the fault
    with pytest.raises(InvalidSettings, match=reason):
        scheduler.source()
    said = night.cli("list", SCHEDULES_FILE="deployed.toml")
    assert (said.exit_code, said.stderr.splitlines()[0]) == (1, f"deployed.toml: {reason}")
    assert isinstance(night.cli("check", SCHEDULES_FILE="deployed.toml").exception, InvalidSettings)
    run = night.cli("run", "nightly", "--at", "2026-11-24T02:30", SCHEDULES_FILE="deployed.toml")
    assert f"schedule 'nightly' cannot be used: {reason}" in str(run.exception)


def test_the_default_file_need_not_exist(night: Night) -> None:
    scheduler = Scheduler.from_settings(night.client, ScheduleSettings.from_env({}))
    assert scheduler.source() == ("s3://scoreline/schedules.toml", NIGHTLY)
    Path("schedules.toml").write_text(HOURLY)
    assert scheduler.source() == ("schedules.toml", HOURLY)
