"""An application whose answer is lost on a real Valkey server finds the results in the bucket."""

from __future__ import annotations

import secrets
from pathlib import Path

import pandas as pd
import pytest
import redis
from sklearn.linear_model import LinearRegression

from scoreline.storage.ledger.answers import Answer
from scoreline.storage.ledger.redis_ledger import RedisLedger
from scoreline.tasks.dispatch.answer_box import AnswerBox
from scoreline.tasks.records import job as records_job
from scoreline.tasks.records.job import RecordsJob
from scoreline.testing import eager
from scoreline.worker.dev.stack import Stack, free_port
from tests.support.waiting import HANG_S


@pytest.mark.parametrize("is_gone", [False, True], ids=["the answer is lost", "the server is gone"])
def test_results_are_found_without_their_answer(
    stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, is_gone: bool
) -> None:
    url, namespace = stack.environ["REDIS_URL"], f"bucket-{secrets.token_hex(4)}"
    monkeypatch.setattr(records_job, "_LOOK_EVERY_S", 0.01)
    # Given a job that has ended, and whose answer was given to the ledger
    with eager(tmp_path) as client, redis.Redis.from_url(url) as server:
        client.models.publish("line", LinearRegression().fit(pd.DataFrame({"x": [0.0, 1.0]}), [1.0, 3.0]))
        job_id = client.submit_records("line", [{"x": 1.0}, {"x": 2.0}]).job_id
        monkeypatch.setattr(client.queue, "pause", lambda seconds: True)  # other processes may work
        ledger = RedisLedger(url, namespace=namespace)
        answers = AnswerBox(ledger)
        ledger.answers.give(answers.reader, Answer(job_id=job_id, text="lost"))
        (key,) = server.keys(f"*{namespace}*answers:*")
        # When the answer is lost before the application waits, as in a failover, or the server with it
        server.delete(key)
        if is_gone:
            ledger.disconnect()
            ledger = RedisLedger(f"redis://127.0.0.1:{free_port()}/0", namespace=namespace)
            answers = AnswerBox(ledger)
        try:
            found = RecordsJob(client, job_id, answers=answers).wait(timeout_s=HANG_S)
        finally:
            ledger.disconnect()
    assert [row["prediction"] for row in found] == [pytest.approx(3.0), pytest.approx(5.0)]
