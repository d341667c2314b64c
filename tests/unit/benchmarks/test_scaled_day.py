"""A day of the scaler against an API over HTTP: deadlines are met, and no dyno is stopped at work."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

import pytest

from benchmarks.heroku_api import FakeHeroku, Request
from benchmarks.scaled_day import API_DOWN, FINISH_WITHIN_S, LIMITED, MIDNIGHT, MOST_DYNOS, RETRY_AFTER_S, Day, draw

PICTURE = Path(__file__).resolve().parents[3] / "docs/how-to/scaled-day.svg"


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> tuple[Day, FakeHeroku]:
    day = Day(tmp_path_factory.mktemp("day"))
    return day, day.run()


@pytest.fixture(scope="module")
def day(simulated: tuple[Day, FakeHeroku]) -> Day:
    return simulated[0]


@pytest.fixture(scope="module")
def requests(simulated: tuple[Day, FakeHeroku]) -> list[Request]:
    return simulated[1].requests


def dynos_at(day: Day, begin_h: float, end_h: float) -> set[int]:
    return {moment.wanted for moment in day.moments if begin_h * 3_600 <= moment.at < end_h * 3_600}


def test_each_job_ends_in_time(day: Day) -> None:
    assert len(day.jobs) == 31
    assert [job.job_id for job in day.jobs.values() if not job.in_time] == []


def test_a_job_with_a_deadline_gets_the_dynos_that_it_needs(day: Day) -> None:
    urgent = day.jobs["urgent"]
    assert urgent.deadline_s is not None
    assert urgent.ended is not None
    assert urgent.ended - urgent.submitted <= urgent.deadline_s < FINISH_WITHIN_S
    assert max(dynos_at(day, 13.2, 13.4)) > 2  # two would be enough without it


def test_no_dyno_is_stopped_while_it_works(day: Day) -> None:
    assert day.stopped_at_work == []
    assert max(moment.running for moment in day.moments) <= MOST_DYNOS


def test_there_is_no_dyno_in_quiet_hours(day: Day) -> None:
    assert dynos_at(day, 0, 2) == dynos_at(day, 3, 8.5) == dynos_at(day, 17, 21.5) == dynos_at(day, 22, 24) == {0}


def test_the_nightly_jobs_begin_although_no_dyno_runs_the_schedules(day: Day) -> None:
    assert {job.submitted for job in day.jobs.values() if job.job_id.startswith("nightly")} == {2 * 3_600.0}


def test_dynos_stay_as_they_are_while_the_api_is_down(day: Day, requests: list[Request]) -> None:
    down = [request for request in requests if API_DOWN[0] <= request.at - MIDNIGHT < API_DOWN[1]]
    assert len(down) == 60
    assert {request.status for request in down} == {0, 503}
    assert len(dynos_at(day, 14, 15)) == 1


def test_no_request_comes_before_the_time_that_a_429_names(requests: list[Request]) -> None:
    limited = [n for n, request in enumerate(requests) if request.status == 429]
    assert len(limited) == (LIMITED[1] - LIMITED[0]) // RETRY_AFTER_S + 1
    assert all(requests[n + 1].at - requests[n].at >= RETRY_AFTER_S for n in limited)


def test_a_number_is_set_only_if_it_changes(requests: list[Request]) -> None:
    numbers = [0, *(request.quantity for request in requests if request.method == "PATCH")]
    assert all(before != after for before, after in pairwise(numbers))
    assert len(requests) < 24 * 60 + 60


def test_the_picture_is_that_of_the_day(day: Day) -> None:
    assert draw(day) == PICTURE.read_text(), "python -m benchmarks.scaled_day draws it again"
    assert re.findall(r"\d+ of \d+ jobs in time", PICTURE.read_text()) == ["31 of 31 jobs in time"]
