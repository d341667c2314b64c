"""Each accepted record is scored once, even if messages are lost, workers die, or Redis is emptied."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from scoreline.storage.errors import JobFailed
from scoreline.tasks.records.carried import MAX_CARRIED_ROWS
from scoreline.tasks.records.job import RecordsJob
from tests.support.rig import Rig
from tests.support.waiting import HANG_S


def test_records_survive_lost_messages_a_killed_worker_and_an_emptied_redis(rig: Rig) -> None:
    rig.publish()
    rig.rows = MAX_CARRIED_ROWS + 44  # more than what a job carries, so that the plan is written first
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
    rig.chaos(hold="part-00000.parquet? PUT")
    torn = rig.client.submit_records("paced", records)
    rig.wait(rig.held, "a part about to be written")
    rig.kill(rig.parents() + rig.children())
    rig.chaos(hold="_nothing")
    rig.redis.flushall()
    assert not torn.status().ended
    rig.start_worker(1)
    # Then each record of the third job is scored once as well, and the results are returned
    assert [row["prediction"] for row in torn.wait(timeout_s=HANG_S)] == [3.0 * n + 1 for n in range(rig.rows)]
    rig.verify(torn.status())


@pytest.mark.parametrize("flush", [False, True], ids=["", "and Redis is emptied"])
def test_a_small_job_is_scored_once_if_its_process_dies_before_or_after_the_answer(rig: Rig, *, flush: bool) -> None:
    rig.publish()
    rig.start_worker(1)
    records = [{"id": n, "x": float(n)} for n in range(5)]
    rig.rows = len(records)
    expected = [3.0 * n + 1 for n in range(5)]
    warm = rig.client.submit_records("paced", records)
    assert [row["prediction"] for row in warm.wait(HANG_S)] == expected
    rig.end(warm.status())
    # Given a request at which the process of a job waits: for each object that a job writes, and for its marker
    holds = ["plan.json.gz? PUT", "part-00000.parquet? PUT", "claim-1.json? PUT", "_manifest.json? PUT"]
    holds += ["_SUCCESS? PUT", "outcome.json? PUT", "jobs/active/"]
    for hold in holds[2:] if flush else holds:
        if hold == "jobs/active/":  # the marker is written and read by the same key
            hold = "? DELETE"
        rig.chaos(hold=hold)
        job = rig.client.submit_records("paced", records)
        rig.wait(rig.held, f"a request {hold}")
        # When the job is answered, unless its results or its plan are not written yet
        if hold.startswith(("plan", "part")):
            with pytest.raises(TimeoutError):
                job.wait(timeout_s=0.01)
        else:
            assert [row["prediction"] for row in job.wait(timeout_s=HANG_S)] == expected
        # And the process is killed
        rig.kill((rig.parents() if flush else []) + rig.children())
        rig.chaos(hold="_nothing")
        if flush:
            rig.redis.flushall()
            rig.start_worker(1)
            rig.ensure_beat()
        # Then the job ends with each record scored once, and each process reads the same results
        ended = rig.end(job.status())
        rig.verify(ended)
        rig.wait(partial(_is_listed, rig, job), "the job in a listing by state")  # once its marker is removed
        found = RecordsJob(rig.client, job.job_id).wait(timeout_s=HANG_S)
        assert np.array_equal([row["prediction"] for row in found], expected)


def _is_listed(rig: Rig, job: RecordsJob) -> bool:
    return job.job_id in {listed.job_id for listed in rig.client.jobs(20, state="succeeded")}
