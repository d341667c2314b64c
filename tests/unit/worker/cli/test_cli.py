"""What the command line shows, without any service."""

from __future__ import annotations

from dataclasses import fields
from datetime import UTC, datetime
from typing import Any, get_type_hints

import pytest
from click.testing import CliRunner
from rich.console import Console

from scoreline.tasks.job.submit_options import SubmitOptions
from scoreline.tasks.schedules.schedule import Schedule
from scoreline.tasks.schedules.scheduler import Row
from scoreline.worker.cli import schedule
from scoreline.worker.cli.main import cli


def test_the_help_of_schedules_shows_every_key_that_a_schedule_may_have() -> None:
    shown = CliRunner().invoke(cli, ["schedule", "--help"]).output
    keys = {item.name for item in fields(Schedule)} | get_type_hints(SubmitOptions).keys()
    assert sorted(key for key in keys - {"name", "options", "job_id"} if f"  {key} = " not in shown) == []


def test_help_says_that_features_are_not_carried_over() -> None:
    shown = " ".join(CliRunner().invoke(cli, ["submit", "--help"]).output.split())
    assert "'all' means every column that is neither a feature nor nested" in shown


def test_schedules_take_a_line_each_in_a_terminal_and_an_error_is_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    # Given two schedules, of which one was refused for a long reason
    error = "bucket 'theirs' is not in ALLOWED_BUCKETS (scoreline): add it there, or name another input altogether"
    due = datetime(2026, 11, 26, 2, 30, tzinfo=UTC)
    rows = [
        Row(
            schedule=Schedule(name=name, cron="30 2 * * 1-5", zone="Europe/Berlin", model="m", input="s3://data/in/"),
            next=due,
            last="2026-11-25T01:30:00+00:00",
            outcome=outcome,
            error=told,
            pending=waiting,
        )
        for name, outcome, told, waiting in (("customers-eu", "succeeded", "", 2), ("orders", "refused", error, 0))
    ]

    class Known:
        def rows(self) -> list[Any]:
            return rows

    monkeypatch.setattr(schedule, "_scheduler", Known)
    monkeypatch.setattr(schedule, "console", lambda: Console(width=80))
    # When they are listed where 80 characters fit
    lines = [line.rstrip() for line in CliRunner().invoke(cli, ["schedule", "list"]).output.splitlines()]
    # Then
    assert lines[1].split()[6:] == ["2026-11-26", "02:30", "UTC", "2026-11-25", "02:30", "succeeded"]
    assert lines[1].split()[0] == "customers-eu"
    assert " 30 2 * * 1-5 " in lines[1]
    assert lines[3:] == ["customers-eu: 2 slots wait", f"orders: refused: {error}"]
