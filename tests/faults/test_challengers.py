"""A job with a challenger is scored and compared once, even if processes die, or if the challenger kills them."""

from __future__ import annotations

import contextlib
import random
import time

import psutil

from scoreline.tasks.job.documents import read_job
from scoreline.tasks.quality.challengers.comparison import Comparison, read_comparison
from tests.support.rig import Rig


def compared(rig: Rig, job_id: str) -> Comparison:
    found = read_comparison(rig.store, read_job(rig.client.buckets.main, job_id))
    assert found is not None
    return found


def test_every_row_is_compared_once_although_processes_are_killed(rig: Rig) -> None:
    # Given a job with a challenger, whose last part cannot be written until the kills are over
    chance = random.Random(7)
    rig.start_beat()
    rig.start_worker(2)
    rig.publish(seconds=0.05)
    challenger = rig.client.registry.resolve("paced").ref
    rig.publish(seconds=0.1)
    rig.chaos(hold="job_id=with-challenger/part-00019.parquet")
    job = rig.submit(20, max_attempts=20, challenger=challenger, job_id="with-challenger")
    rig.wait_for_parts(job, 1)
    kills = 0
    while kills < 6:
        time.sleep(chance.uniform(0, 0.4))
        if children := rig.children():
            with contextlib.suppress(psutil.NoSuchProcess):
                chance.choice(children).kill()
                kills += 1
        assert not rig.client.status(job.job_id).ended
    rig.chaos()
    # Then each row is in the results once, and in the comparison once
    rig.verify(rig.end(job))
    found = compared(rig, job.job_id)
    assert (found.rows, found.parts, found.failed_parts) == (rig.rows, 20, 0)
    assert found.scores["prediction"].largest == 0.0


def test_a_challenger_that_kills_its_process_costs_the_comparison_of_one_part(rig: Rig) -> None:
    rig.start_beat()
    rig.start_worker(2)
    rig.publish(kills_at=150.0)
    challenger = rig.client.registry.resolve("paced").ref
    rig.publish()
    job = rig.submit(4, max_attempts=1, challenger=challenger)
    rig.verify(rig.end(job))
    found = compared(rig, job.job_id)
    assert (found.parts, found.failed_parts) == (3, 1)
    assert [failure.part for failure in found.failures] == [1]
    assert "died in each attempt" in found.failures[0].reason
