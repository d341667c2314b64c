"""Each accepted record is scored once, even if messages are lost, workers die, or Redis is emptied."""

from __future__ import annotations

import pytest

from scoreline.storage import keys
from scoreline.storage.errors import JobFailed
from scoreline.storage.objects.base import exists
from tests.support.rig import Rig
from tests.support.waiting import HANG_S


def test_records_survive_lost_messages_a_killed_worker_and_an_emptied_redis(rig: Rig) -> None:
    rig.publish(seconds=1)
    rig.rows = 200
    records = [{"id": n, "x": float(n)} for n in range(rig.rows)]
    # Given two jobs that were accepted without a worker. One of the jobs was cancelled and resumed. Then Redis was
    # emptied
    lost, cancelled = (rig.client.submit_records("paced", records) for _ in range(2))
    with pytest.raises(TimeoutError, match=lost.job_id):
        lost.wait(timeout_s=0.01)
    rig.client.cancel(cancelled.job_id)
    with pytest.raises(JobFailed, match=f"job {cancelled.job_id} cancelled"):
        cancelled.wait(timeout_s=HANG_S)
    rig.client.resume(cancelled.job_id)
    rig.redis.flushall()
    # When a worker starts, it finds both jobs in the bucket
    rig.start_worker(1)
    rig.start_beat()
    for job in (lost, cancelled):
        assert [row["id"] for row in job.wait(timeout_s=HANG_S)] == list(range(rig.rows))
        rig.verify(job.status())
    # And when the worker dies while it scores a third job, and Redis is emptied once more
    torn = rig.client.submit_records("paced", records)
    rig.wait(lambda: exists(rig.store, keys.plan(torn.job_id)), "a plan")
    rig.kill(rig.parents() + rig.children())
    rig.redis.flushall()
    assert not torn.status().ended
    rig.start_worker(1)
    # Then each record of the third job is scored once as well, and the results are returned
    assert [row["prediction"] for row in torn.wait(timeout_s=HANG_S)] == [3.0 * n + 1 for n in range(rig.rows)]
    rig.verify(torn.status())
