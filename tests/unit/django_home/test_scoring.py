"""Rows whose jobs are submitted after the commit, again after an outage, and never twice."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.db import IntegrityError, transaction
from django.utils import timezone

from scoreline.storage.audit import acting_as
from scoreline.storage.errors import AccessDenied, InvalidRequest, QueueUnavailable, StoreUnavailable
from scoreline.tasks.django.scoring import sending
from scoreline.tasks.django.scoring.observed import Observed, record
from scoreline.tasks.django.scoring.signals import on_ended
from scoreline.tasks.job.submit_options import SubmitOptions
from scoreline.testing import EagerClient, eager

INPUT = "s3://scoreline/in/"
HALF: SubmitOptions = {"max_rejected": "50%"}


def job_ids(scoreline: EagerClient) -> list[str]:
    return [job.job_id for job in scoreline.jobs()]


def test_a_row_and_its_job_appear_with_the_commit(
    prediction: type[Any], scoreline: EagerClient, ends: list[Any]
) -> None:
    with transaction.atomic():
        with acting_as("alice"):
            row = prediction.submit("double@champion", INPUT, customer="ann", options=HALF)
        assert (row.state, job_ids(scoreline)) == ("submitting", [])
    assert (row.state, row.rows, row.rejected, row.total_rows, row.percent) == ("partial", 2, 1, 3, 100)
    assert row.version.startswith("double@")
    assert row.ended >= row.submitted
    assert row.output == f"s3://scoreline/results/double/job_id={row.job_id}/"
    assert job_ids(scoreline) == [row.job_id]
    (job,) = scoreline.jobs()
    assert job.submitter is not None
    assert job.submitter.who == "alice"
    assert ends == [(row.job_id, "partial", 1)]
    saved = prediction.objects.ended().get()
    assert (saved.customer, saved.state, saved.version) == ("ann", "partial", row.version)
    assert row.page == f"/scoreline/jobs/{row.job_id}/"


def test_a_transaction_that_is_rolled_back_leaves_neither_row_nor_job(
    prediction: type[Any], scoreline: EagerClient
) -> None:
    def fail() -> None:
        with transaction.atomic():
            prediction.submit("double", INPUT, customer="ann", options=HALF)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert (prediction.objects.count(), job_ids(scoreline)) == (0, [])
    # And the next row has another job, although the database gives it the same key
    first, second = (prediction.submit("double", INPUT, customer="ann", options=HALF) for _ in range(2))
    assert len({first.job_id, second.job_id}) == 2


@pytest.mark.parametrize(
    ("model", "given", "options", "expected"),
    [
        ("double", "file:///etc/passwd", {}, "s3://bucket/key"),
        ("double", "s3://elsewhere/in/", {}, "ALLOWED_BUCKETS"),
        ("../double", INPUT, {}, "not a valid name"),
        ("double", INPUT, {"max_rejected": "many"}, "neither a count"),
        ("double", INPUT, {"colour": "red"}, "colour"),
        ("double", INPUT, {"checks": "nonsense"}, "checks"),
        ("double", INPUT, {"webhook": "https://evil.example.org/"}, "ALLOWED_WEBHOOKS"),
        ("double", INPUT, {"keep": {"a"}}, "must be JSON"),
    ],
)
def test_a_request_that_cannot_be_carried_out_saves_no_row(
    prediction: type[Any], scoreline: EagerClient, model: str, given: str, options: dict[str, Any], expected: str
) -> None:
    with pytest.raises(InvalidRequest, match=expected):
        prediction.submit(model, given, customer="ann", options=options)
    assert prediction.objects.count() == 0


def test_what_only_the_bucket_knows_makes_the_row_refused_and_ends_it(
    prediction: type[Any], scoreline: EagerClient, ends: list[Any]
) -> None:
    row = prediction.submit("nobody@champion", INPUT, customer="ann")
    assert (row.state, row.is_under_way) == ("refused", False)
    assert "no model 'nobody'" in row.error
    assert row.page == ""
    assert ends == [(row.job_id, "refused", 1)]
    assert sending.send_waiting() == sending.Resent()


@pytest.mark.parametrize("error", [QueueUnavailable("away"), StoreUnavailable("away"), AccessDenied("no key")])
def test_a_row_whose_job_could_not_be_submitted_is_sent_again(
    prediction: type[Any],
    scoreline: EagerClient,
    ends: list[Any],
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
) -> None:
    # Given a service that does not answer
    def fail() -> None:
        raise error

    with monkeypatch.context() as away:
        away.setattr(scoreline.queue, "ping", fail)
        rows = [prediction.submit("double", INPUT, customer=name, options=HALF) for name in ("ann", "bob")]
        assert [(row.state, row.error) for row in rows] == [("submitting", str(error))] * 2
        done = sending.send_waiting()
        assert (done.sent, done.error) == (0, str(error))
        assert done.waiting == (1 if getattr(error, "transient", False) else 2)  # an outage ends the round
        with pytest.raises(type(error)):
            rows[0].refresh()
    assert (job_ids(scoreline), ends) == ([], [])
    # When it answers again
    assert sending.send_waiting() == sending.Resent(sent=2)
    # Then each row has one job, and a second round finds nothing
    assert sorted(job_ids(scoreline)) == sorted(row.job_id for row in rows)
    assert {row.state for row in prediction.objects.all()} == {"partial"}
    assert prediction.objects.first().error == ""
    assert len(ends) == 2
    assert sending.send_waiting() == sending.Resent()


def test_a_job_that_was_submitted_although_the_answer_was_lost_is_not_submitted_twice(
    prediction: type[Any], scoreline: EagerClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lose(*_: Any, **__: Any) -> None:
        raise StoreUnavailable("the answer was lost")

    with monkeypatch.context() as away:
        away.setattr(scoreline.submission.statuses, "of", lose)
        row = prediction.submit("double", INPUT, customer="ann", options=HALF)
        assert row.state == "submitting"
    assert job_ids(scoreline) == [row.job_id]
    row.refresh()
    assert (row.state, job_ids(scoreline)) == ("partial", [row.job_id])


def test_the_next_submission_sends_what_has_waited_for_some_time(
    prediction: type[Any], scoreline: EagerClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sending, "_AGAIN_AFTER", timedelta(hours=1))  # the test takes less than an hour
    # Given rows of processes that died before they submitted the jobs, one of them a moment ago
    for hours in (1, 2, 0):
        row = prediction(model="double", inputs=[INPUT], options=HALF, customer="ann")
        row.tried = timezone.now() - timedelta(hours=hours)
        row.save()
    prediction.submit("double", INPUT, customer="bob", options=HALF)
    assert [row.state for row in prediction.objects.order_by("pk")] == ["partial", "partial", "submitting", "partial"]
    prediction.objects.submitting().get().cancel()  # its job has ended by itself
    assert prediction.objects.submitting().count() == 0


def test_a_job_id_may_be_chosen_but_not_that_of_another_job(prediction: type[Any], scoreline: EagerClient) -> None:
    scoreline.submit("double", "s3://scoreline/in/a.csv", job_id="taken", max_rejected="50%")
    row = prediction.submit("double", INPUT, customer="ann", options={**HALF, "job_id": "taken"})
    assert row.state == "refused"
    assert "taken" in row.error
    with pytest.raises(IntegrityError):
        prediction.submit("double", INPUT, customer="ann", options={**HALF, "job_id": "taken"})


def test_a_job_is_followed_cancelled_and_resumed(
    prediction: type[Any], scoreline: EagerClient, ends: list[Any]
) -> None:
    with eager(scoreline.folder, run=False) as later:
        row = prediction.submit("double", INPUT, customer="ann", options={**HALF, "part_rows": 1})
        assert (row.state, row.is_under_way, row.run) == ("submitted", True, 0)
        later.run(2)
        assert row.refresh() is False
        assert (row.state, row.percent) == ("running", 33)
        row.cancel()
        assert (row.state, row.run, ends) == ("cancelled", 1, [(row.job_id, "cancelled", 1)])
        row.cancel()
        assert row.refresh() is False
        # When a person resumes it
        later.resume(row.job_id)
        row.refresh()
        # Then it is under way again, and ends a second time
        assert (row.is_under_way, row.run) == (True, 1)
        later.run()
        assert row.refresh() is True
        assert ends[1:] == [(row.job_id, "partial", 2)]
        assert row.refresh() is False


def test_a_state_that_was_read_before_the_end_does_not_reopen_the_row(
    prediction: type[Any], scoreline: EagerClient, ends: list[Any]
) -> None:
    row = prediction.submit("double", INPUT, customer="ann", options=HALF)
    stale = Observed(state="running", run=1, is_ended=False, rows=1)
    assert record(row, stale) is False
    row.refresh_from_db()
    assert (row.state, row.is_under_way, len(ends)) == ("partial", False, 1)


def test_an_end_whose_receiver_fails_is_recorded_later(
    prediction: type[Any], scoreline: EagerClient, caplog: pytest.LogCaptureFixture
) -> None:
    tries: list[str] = []

    def fail_first(instance: Any, **_: Any) -> None:
        prediction.objects.create(model="of the receiver", inputs=[], ended=timezone.now(), state="refused")
        tries.append(instance.job_id)
        if len(tries) == 1:
            raise RuntimeError("the receiver failed")

    on_ended.connect(fail_first, sender=prediction)
    try:
        row = prediction.submit("double", INPUT, customer="ann", options=HALF)
        assert "the receiver failed" in caplog.text
        # Then neither the end nor what the receiver wrote is there
        assert [saved.state for saved in prediction.objects.all()] == ["submitting"]
        row.refresh()
    finally:
        on_ended.disconnect(fail_first, sender=prediction)
    assert tries == [row.job_id] * 2
    assert sorted(saved.state for saved in prediction.objects.all()) == ["partial", "refused"]


def test_results_that_a_person_accepts_change_the_state_without_a_second_signal(
    prediction: type[Any], scoreline: EagerClient, ends: list[Any]
) -> None:
    checks = '[rows]\nmin = 100\nlevel = "block"\n'
    row = prediction.submit("double", INPUT, customer="ann", options={**HALF, "checks": checks})
    assert row.state == "blocked"
    scoreline.accept(row.job_id, "looked at")
    assert row.refresh() is False
    assert (row.state, len(ends)) == ("partial", 1)


def test_a_job_that_is_gone_ends_its_row(prediction: type[Any], scoreline: EagerClient, ends: list[Any]) -> None:
    row = prediction(model="double", inputs=[INPUT], state="running", customer="ann")
    row.save()
    row.refresh()
    assert (row.state, len(ends)) == ("removed", 1)
    assert row.refresh() is False
