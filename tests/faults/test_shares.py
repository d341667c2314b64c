"""Groups share the processes of real workers, and nothing is lost or done twice when processes die meanwhile."""

from __future__ import annotations

import contextlib
import random
import time
from typing import Any

import psutil
import pytest

from scoreline.storage.errors import NothingToResume
from scoreline.tasks.job.documents import read_outcome
from tests.support.rig import Rig


def test_jobs_of_several_groups_survive_killed_pool_processes(rig: Rig) -> None:
    # Given jobs of three groups, one of which has several jobs
    chance = random.Random(22)
    rig.start_beat()
    rig.start_worker(2, GROUP_WEIGHTS="web=3")
    rig.publish(seconds=0.1)
    groups: dict[str, Any] = {"web": {"max_processes": 1}, "bulk-1": {}, "bulk-2": {"priority": "high"}, "other": {}}
    jobs = [
        rig.submit(16, job_id=name, group=name.partition("-")[0], max_attempts=20, **options)
        for name, options in groups.items()
    ]
    rig.wait_for_parts(jobs[0], 1)
    # When pool processes are killed at random moments
    kills = 0
    while kills < 12:
        time.sleep(chance.uniform(0, 0.3))
        if children := rig.children():
            with contextlib.suppress(psutil.NoSuchProcess):
                chance.choice(children).kill()
                kills += 1
    # Then each row of each job is written exactly once
    for job in jobs:
        rig.verify(rig.end(job))


def test_a_job_of_another_group_is_scored_beside_a_long_one_even_if_redis_is_emptied(rig: Rig) -> None:
    rig.start_beat()
    rig.start_worker(2)
    rig.publish(seconds=0.2)
    long = rig.submit(500, rows=65, job_id="long", group="bulk")  # it takes a minute
    rig.wait_for_parts(long, 4)
    rig.redis.flushall()
    short = rig.submit(4, job_id="short", group="web", priority="low", folder="short")
    ended = rig.end(short)
    assert (ended.state, ended.parts_done) == ("succeeded", 4), (ended.error, rig.logs())
    now, progress = rig.client.status("long"), rig.client.ledger.progress("long")
    assert not now.ended, (now.error, rig.logs())
    assert progress is not None
    assert progress.failures == {}
    rig.client.cancel("long")


def test_a_job_ends_at_its_deadline_and_is_resumed(rig_at_work: Rig) -> None:
    rig = rig_at_work
    rig.publish(seconds=0.2)
    rig.ensure_beat()
    # Given a job that takes longer than its deadline allows, because its last part cannot be written
    rig.chaos(hold="part-00039.parquet")
    job = rig.submit(40, deadline="3s")
    ended = rig.end(job)
    assert (ended.state, ended.reason) == ("failed", "deadline")
    assert "`scoreline resume" in ended.error
    assert ended.parts_done < 40
    outcome = read_outcome(rig.store, job.job_id)
    assert outcome is not None
    assert outcome.reason == "deadline"
    # Then it is resumed without a deadline, and its results are kept
    rig.client.resume(job.job_id)
    with pytest.raises(NothingToResume, match="under way"):
        rig.client.resume(job.job_id, deadline="1h")
    rig.chaos()
    rig.rows = 40 * 100
    rig.verify(rig.end(job))
