"""A schedule on real services submits one job for each slot, even if beat stops, ticks late or runs twice."""

from __future__ import annotations

import random
import re
import subprocess
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from scoreline.storage import keys
from scoreline.storage.errors import InvalidRequest
from scoreline.tasks.client import Client
from scoreline.tasks.job.documents import Status
from scoreline.tasks.schedules.schedule import State
from scoreline.tasks.schedules.scheduler import Scheduler
from tests.support.rig import HASTE, Rig
from tests.support.warm import run_scoreline

HOURLY = """
[hourly]
cron = "0 * * * *"
zone = "Europe/Berlin"
model = "paced"
input = "s3://scoreline/in/"
"""


@pytest.fixture
def quiet(rig: Rig) -> Rig:
    """A rig without workers, with the model and the input of the schedules."""
    rig.publish(seconds=0.0)
    rig.put_input(2)
    return rig


@pytest.fixture
def working(rig_at_work: Rig) -> Rig:
    """The shared rig with two worker processes, and with the model and the input of the schedules."""
    rig_at_work.publish(seconds=0.0)
    rig_at_work.put_input(2)
    return rig_at_work


def in_bucket(rig: Rig, text: str) -> str:
    """Return schedules for the bucket of `rig`."""
    return text.replace("s3://scoreline/", f"s3://{rig.store.bucket}/")


def schedules(rig: Rig, text: str) -> None:
    rig.store.put(keys.SCHEDULES, in_bucket(rig, text).encode())


def scheduler(rig: Rig) -> Scheduler:
    return Scheduler(Client.from_env(rig.environ), Path("no-such-file.toml"))


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def jobs(rig: Rig) -> dict[str, Status]:
    return {job.job_id: job for job in rig.client.jobs()}


def ticks(rig: Rig) -> int:
    """Return how many ticks the worker has run."""
    log = next(rig.stack.folder.glob("worker*.log")).read_text()
    return len(re.findall(r"Task scoreline\.tick\S+ succeeded", log))


def until_idle(rig: Rig, ticker: Scheduler, now: datetime) -> None:
    """Tick until all jobs of due slots have ended."""

    def idle() -> bool:
        ticker.tick(now)
        rows = ticker.rows(now)
        return all(not row.pending and row.outcome != "running" for row in rows)

    rig.wait(idle, "an end of the runs")


def test_each_slot_of_a_night_runs_once_while_clocks_die_and_double(working: Rig) -> None:
    rig = working
    # Given an hourly schedule in Berlin, in the night when the clocks go back
    chance = random.Random(1)
    schedules(rig, HOURLY + 'catch_up = "all"\noverlap = "queue"\n')
    rig.ensure_beat()  # this beat runs the reconciler, and ticks only once an hour
    now, end = at("2026-10-24T21:59"), at("2026-10-25T06:59")
    scheduler(rig).tick(now)
    # When ticks come late, are missing for hours, or come ten at once, and Redis is emptied in between
    while now < end:
        now = min(end, now + timedelta(minutes=chance.choice([1, 5, 20, 59, 180])))
        tickers = [scheduler(rig) for _ in range(chance.choice([1, 1, 2, 10]))]
        with ThreadPoolExecutor(len(tickers)) as pool:
            list(pool.map(Scheduler.tick, tickers, [now] * len(tickers)))
        if chance.random() < 0.1:
            rig.redis.flushall()
    until_idle(rig, scheduler(rig), end)
    # Then exactly one job exists for each hour
    expected = [f"hourly-{at('2026-10-24T22:00') + timedelta(hours=n):%Y%m%dT%H%M%SZ}" for n in range(9)]
    done = jobs(rig)
    assert sorted(done) == expected
    assert {(job.state, job.rows) for job in done.values()} == {("succeeded", 200)}


def test_two_clocks_submit_a_slot_once(quiet: Rig) -> None:
    rig = quiet
    now = datetime.now(UTC)
    # Given a schedule whose next slot is hours away, so that it is not due during the test
    schedules(rig, HOURLY.replace("0 * * * *", f"0 {(now + timedelta(hours=12)).hour} * * *"))
    long_ago = now - timedelta(days=9)
    rig.store.put(keys.schedule_state("hourly"), State(through=long_ago.isoformat()).to_json())
    rig.start_worker(2)
    for _ in range(2):
        rig.stack.start_beat(HASTE | {"TICK_SECONDS": "1"})
    rig.wait(lambda: jobs(rig), "a job")
    (job,) = jobs(rig).values()  # of nine missed slots, only the latest is run
    assert rig.end(job).state == "succeeded"
    seen = ticks(rig)
    rig.wait(lambda: ticks(rig) >= seen + 6, "three more ticks of each clock")
    assert len(jobs(rig)) == 1


def test_only_new_scores_objects_whose_key_or_etag_is_new(working: Rig) -> None:
    rig = working
    schedules(rig, HOURLY + "only_new = true\n")
    ticker = scheduler(rig)
    ticker.tick(at("2026-11-25T00:30"))
    counts = []

    def run(hour: int) -> None:
        now = at(f"2026-11-25T{hour:02}:00")
        ticker.tick(now)
        until_idle(rig, ticker, now)
        job = jobs(rig)[f"hourly-20261125T{hour:02}0000Z"]
        counts.append((job.state, job.rows))

    run(1)  # two objects of 100 rows
    run(2)  # nothing is new
    rig.put_table("in/2.parquet", np.arange(7), 7)
    run(3)  # one object is new
    rig.store.delete("in/0.parquet")
    rig.put_table("in/0.parquet", np.arange(9), 9)
    run(4)  # one object was replaced
    assert counts == [("succeeded", 200), ("succeeded", 0), ("succeeded", 7), ("succeeded", 9)]


@pytest.mark.parametrize(
    ("overlap", "states", "first"),
    [("skip", ["skipped"], "running"), ("queue", [], "running"), ("cancel_running", ["cancelled"], "cancelled")],
)
def test_a_slot_that_is_due_during_a_run_is_skipped_or_queued_or_replaces_it(
    quiet: Rig, overlap: str, states: list[str], first: str
) -> None:
    rig = quiet
    # Given a slot whose job waits, because no worker is running
    schedules(rig, HOURLY + f'overlap = "{overlap}"\n')
    ticker = scheduler(rig)
    ticker.tick(at("2026-11-25T00:30"))
    ticker.tick(at("2026-11-25T01:00"))
    # When the next slot is due
    ticker.tick(at("2026-11-25T02:00"))
    # Then the next slot gets no job (skip), a job later (queue), or a job now, while the waiting job is cancelled
    state = State.from_json(rig.store.get(keys.schedule_state("hourly")).data)
    assert [past.state for past in state.history] == states
    assert state.pending == (("2026-11-25T02:00:00+00:00",) if overlap == "queue" else ())
    found = jobs(rig)
    assert found["hourly-20261125T010000Z"].state == first.replace("running", "submitted")
    assert ("hourly-20261125T020000Z" in found) == (overlap == "cancel_running")
    # And all jobs end after a worker starts
    rig.start_worker(2)
    until_idle(rig, ticker, at("2026-11-25T02:01"))
    ended = {job.job_id: job.state for job in jobs(rig).values()}
    assert ended.get("hourly-20261125T020000Z") == (None if overlap == "skip" else "succeeded")


def test_a_refused_submission_is_recorded_and_the_next_slot_is_submitted(quiet: Rig) -> None:
    rig = quiet
    schedules(rig, HOURLY.replace("paced", "nobody") + HOURLY.replace("hourly", "other"))
    ticker = scheduler(rig)
    ticker.tick(at("2026-11-25T00:30"))
    report = ticker.tick(at("2026-11-25T01:00"))
    assert "no model 'nobody'" in report["hourly"][0]
    assert report["other"] == ["submitted other-20261125T010000Z"]
    (row, _) = ticker.rows(at("2026-11-25T01:00"))
    assert (row.outcome, row.last) == ("refused", "2026-11-25T01:00:00+00:00")
    schedules(rig, HOURLY)
    assert ticker.tick(at("2026-11-25T02:00"))["hourly"] == ["submitted hourly-20261125T020000Z"]


def test_the_next_tick_submits_the_job_that_a_dead_tick_left_out(quiet: Rig) -> None:
    rig = quiet
    schedules(rig, HOURLY)
    slot = "2026-11-25T01:00:00+00:00"
    rig.store.put(keys.schedule_state("hourly"), State(through=slot, current=slot).to_json())
    assert scheduler(rig).tick(at("2026-11-25T01:01"))["hourly"] == ["submitted hourly-20261125T010000Z"]
    assert scheduler(rig).tick(at("2026-11-25T01:02"))["hourly"] == []


def test_a_user_can_check_list_run_and_backfill_schedules(quiet: Rig, tmp_path: Path) -> None:
    rig = quiet
    file = tmp_path / "schedules.toml"
    file.write_text(in_bucket(rig, HOURLY))

    def cli(*arguments: str) -> subprocess.CompletedProcess[str]:
        environ = {"PATH": "/usr/bin:/bin"} | rig.environ | {"SCHEDULES_FILE": str(file)}
        return run_scoreline("schedule", *arguments, environ=environ)

    assert cli("check").stdout.startswith("hourly: next 20")
    rig.start_worker(2)
    shown = cli("run", "hourly", "--at", "2026-10-25T12:00")  # this is Berlin time, after the change to winter time
    assert "submitted hourly-20261025T110000Z" in shown.stdout, shown.stderr
    assert "asked for 0 of 1" in cli("run", "hourly", "--at", "2026-10-25T11:00+00:00").stdout
    preview = cli("backfill", "hourly", "--from", "2026-10-25T00:00", "--to", "2026-10-25T04:00", "--dry-run")
    assert [line.split()[1] for line in preview.stdout.splitlines()] == [
        f"hourly-{at('2026-10-24T22:00') + timedelta(hours=n):%Y%m%dT%H%M%SZ}" for n in range(6)
    ]
    assert (
        "asked for 6 of 6" in cli("backfill", "hourly", "--from", "2026-10-25T00:00", "--to", "2026-10-25T04:00").stdout
    )
    assert cli("tick").returncode == 0
    until_idle(rig, Scheduler(rig.client, file), datetime.now(UTC))
    assert '"pending": 0' in cli("list", "--json").stdout
    assert "succeeded" in cli("list").stdout
    for line in cli("list").stdout.splitlines():
        assert len(line.rstrip()) <= 80
    # only the requested slots, not one that is due now
    asked = [job for job_id, job in jobs(rig).items() if job_id.startswith("hourly-202610")]
    assert [job.state for job in asked] == 7 * ["succeeded"]
    # And the commands report each mistake in the file
    file.write_text(in_bucket(rig, HOURLY.replace("0 * * * *", "0 25 * * *")))
    wrong = cli("check")
    assert (wrong.returncode, "line 3: [hourly] cron = '0 25 * * *': Bad hour" in wrong.stderr) == (1, True)
    assert "cannot be used: line 3" in cli("run", "hourly", "--at", "2026-10-25T12:00").stderr
    assert "no schedule 'daily'" in cli("run", "daily", "--at", "2026-10-25T12:00").stderr
    file.write_text(in_bucket(rig, HOURLY))
    assert "not a time in ISO 8601" in cli("run", "hourly", "--at", "noon").stderr
    between = cli("run", "hourly", "--at", "2026-10-25T12:01").stderr
    assert "is not a slot of 'hourly'" in between
    assert "the nearest slots are 2026-10-25T12:00 and 2026-10-25T13:00" in between
    assert "is still to come" in cli("run", "hourly", "--at", "2126-10-25T12:00").stderr
    whole = cli("backfill", "hourly", "--from", "2026-10-24", "--to", "2026-10-24", "--dry-run")
    assert len(whole.stdout.splitlines()) == 24
    assert "is after --to" in cli("backfill", "hourly", "--from", "2026-10-25", "--to", "2026-10-24").stderr


def test_an_unknown_schedule_is_named(quiet: Rig) -> None:
    rig = quiet
    with pytest.raises(InvalidRequest, match=rf"no schedule 'hourly' in s3://{rig.store.bucket}/schedules.toml"):
        scheduler(rig).get("hourly")
    assert scheduler(rig).tick() == {}
