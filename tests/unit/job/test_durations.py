"""Durations have one grammar, whichever option they are given to."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import click
import pytest

from scoreline.storage.errors import InvalidRequest
from scoreline.tasks.job.deadline import resolve_deadline
from scoreline.tasks.job.durations import find_duration, parse_duration
from scoreline.tasks.job.results_keep import ResultsKeep
from scoreline.worker.cli.moments import Duration, Moment


def deadline(text: str) -> timedelta:
    start = "2026-11-25T02:00:00+00:00"
    return datetime.fromisoformat(resolve_deadline(text, start)) - datetime.fromisoformat(start)


def option(text: str) -> timedelta:
    return timedelta(seconds=Duration().convert(text, None, None))


def ago(text: str) -> timedelta:
    return timedelta(minutes=round((datetime.now(UTC) - Moment().convert(text, None, None)) / timedelta(minutes=1)))


def keep(text: str) -> timedelta:
    return timedelta(days=ResultsKeep.parse(text).days or 0)


ALL = (parse_duration, deadline, option, ago, keep)


@pytest.mark.parametrize("read", ALL)
@pytest.mark.parametrize(("text", "days"), [("2d", 2), ("48h", 2), ("1d24h", 2), ("0d72h", 3), ("2d0s", 2)])
def test_every_option_reads_the_same_durations(read: Callable[[str], timedelta], text: str, days: int) -> None:
    assert read(text) == timedelta(days=days)


@pytest.mark.parametrize("read", ALL)
@pytest.mark.parametrize("text", ["", "d", "-2d", "+2d", "2 d", "2D", "1h2d", "2d2d", "1.5d", "٣d", "1000000d", "1w"])
def test_no_option_reads_anything_else(read: Callable[[str], timedelta], text: str) -> None:
    with pytest.raises((InvalidRequest, click.BadParameter)):
        read(text)


def test_zero_and_very_long_durations_are_refused_where_time_is_needed() -> None:
    assert find_duration("0s") == timedelta(0)
    for read in (parse_duration, deadline, option):
        for text in ("0s", "3651d"):
            with pytest.raises(
                (InvalidRequest, click.BadParameter), match=re.escape(f"{text!r} is not a duration between 1 second")
            ):
                read(text)
