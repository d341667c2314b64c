"""The view that receives notifications: signed, bounded, and with effect once."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from django.db import connections
from django.test import Client as Browser
from django.test import override_settings
from standardwebhooks import Webhook

from scoreline.storage.errors import LedgerUnavailable
from scoreline.tasks.django.scoring.signals import on_ended
from scoreline.tasks.django.views.webhook import MAX_BYTES
from scoreline.testing import EagerClient, eager
from tests.unit.django_home.conftest import HERE, SECRET

PATH = "/scoreline/webhook/"
INPUT = "s3://scoreline/in/"


@pytest.fixture
def ends(prediction: type[Any]) -> Iterator[list[str]]:
    got: list[str] = []

    def hear(instance: Any, **_: Any) -> None:
        got.append(f"{instance.state} {instance.run}")

    on_ended.connect(hear, sender=prediction)
    yield got
    on_ended.disconnect(hear, sender=prediction)


@pytest.fixture
def under_way(prediction: type[Any], scoreline: EagerClient) -> Any:
    """A row that was last seen under way, and whose job has ended since."""
    with eager(scoreline.folder, run=False, settings={"WEBHOOK_URL": HERE}) as later:
        row = prediction.submit("double", INPUT, customer="ann", options={"max_rejected": "50%"})
        later.run()
        (row.notification,) = later.notifications
    assert row.state == "submitted"
    return row


def signed(body: str, event_id: str, at: datetime | None = None, secret: str = SECRET) -> dict[str, str]:
    at = at or datetime.now(UTC)
    return {
        "webhook-id": event_id,
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": Webhook(secret).sign(event_id, at, body),
    }


def post(body: str, headers: dict[str, str]) -> Any:
    # A real browser's protection against forged forms is on, and the view needs no token
    return Browser(enforce_csrf_checks=True, headers=headers).post(PATH, body, content_type="application/json")


def notify(row: Any, **changes: Any) -> Any:
    """Send the notification of a row's job, as the worker would."""
    sent = row.notification
    body = json.dumps({**sent.body, "data": {**sent.body["data"], **changes}})
    return post(body, signed(body, sent.id))


def test_a_signed_notification_ends_its_row_once(
    prediction: type[Any], scoreline: EagerClient, under_way: Any, ends: list[str]
) -> None:
    before = prediction.objects.get()
    for _ in range(3):
        assert notify(under_way).status_code == 204
    row = prediction.objects.get()
    assert (before.state, row.state, row.rows, row.rejected, row.total_rows) == ("submitted", "partial", 2, 1, 3)
    assert row.version.startswith("double@")
    assert row.ended is not None
    assert ends == ["partial 1"]
    # And asking for the state finds nothing new
    assert row.refresh() is False
    assert ends == ["partial 1"]


def test_notifications_that_arrive_at_once_have_one_effect(
    prediction: type[Any], under_way: Any, ends: list[str]
) -> None:
    start = threading.Barrier(4)

    def send(_: int) -> int:
        start.wait()
        try:
            return int(notify(under_way).status_code)
        finally:
            connections["default"].close()

    with ThreadPoolExecutor(4) as threads:
        assert set(threads.map(send, range(4))) == {204}
    assert ends == ["partial 1"]


def test_a_notification_of_an_earlier_run_changes_nothing(
    prediction: type[Any], scoreline: EagerClient, under_way: Any, ends: list[str]
) -> None:
    body = json.dumps(under_way.notification.body)
    assert post(body, signed(body, f"{under_way.job_id}.2")).status_code == 204
    assert notify(under_way, state="failed").status_code == 204
    assert (prediction.objects.get().state, ends) == ("partial", ["partial 2"])


def test_a_notification_that_arrives_again_does_not_undo_a_decision(prediction: type[Any], under_way: Any) -> None:
    assert notify(under_way, state="blocked").status_code == 204
    under_way.refresh()  # the bucket says that the results are accepted
    assert under_way.state == "partial"
    assert notify(under_way, state="blocked").status_code == 204
    assert prediction.objects.get().state == "partial"


def wrong_requests(row: Any) -> Iterator[tuple[str, dict[str, str], int]]:
    body, event_id = json.dumps(row.notification.body), row.notification.id
    right = signed(body, event_id)
    now = datetime.now(UTC)
    yield body, {}, 401
    for name in right:
        yield body, {**right, name: ""}, 401
        yield body, {**right, name: "wrong \N{PILE OF POO}".encode().decode("latin-1")}, 401
    yield body + " ", right, 401
    yield body, {**right, "webhook-id": f"{event_id}0"}, 401
    yield body, {**right, "webhook-signature": right["webhook-signature"].replace("v1,", "v2,")}, 401
    yield body, signed(body, event_id, secret="whsec_" + "A" * 32), 401
    yield body, signed(body, event_id, at=now - timedelta(seconds=310)), 401
    yield body, signed(body, event_id, at=now + timedelta(seconds=310)), 401
    yield "x" * (MAX_BYTES + 1), signed("x" * (MAX_BYTES + 1), event_id), 413
    # Whoever knows the secret may still send nonsense
    data = row.notification.body["data"]
    for content in (
        "[]",
        "nonsense",
        "{}",
        json.dumps({"timestamp": "2026-11-29T02:30:00+00:00"}),
        json.dumps({"timestamp": "yesterday", "data": data}),
        json.dumps({**row.notification.body, "data": {**data, "job_id": "another"}}),
        json.dumps({**row.notification.body, "data": {**data, "state": "running"}}),
        json.dumps({**row.notification.body, "data": {**data, "rows": -1}}),
        json.dumps({**row.notification.body, "data": {**data, "rows": "many"}}),
        json.dumps({**row.notification.body, "data": {**data, "error": 5}}),
    ):
        yield content, signed(content, event_id), 400
    for other in (row.job_id, f"{row.job_id}.x", f"{row.job_id}.-1", f"{row.job_id}.999999999", ".1", "1"):
        yield body, signed(body, other), 400


def test_a_request_that_is_not_a_signed_notification_does_nothing(
    prediction: type[Any], under_way: Any, ends: list[str]
) -> None:
    for body, headers, code in wrong_requests(under_way):
        answer = post(body, headers)
        assert answer.status_code == code, (body[:80], headers, answer.content)
        assert json.loads(answer.content)["error"]
    assert Browser().get(PATH).status_code == 405
    assert (prediction.objects.get().state, ends) == ("submitted", [])
    # And of several signatures, one right one is enough, as while a secret is replaced
    body, event_id = json.dumps(under_way.notification.body), under_way.notification.id
    headers = signed(body, event_id)
    other = signed(body, event_id, secret="whsec_" + "A" * 32)["webhook-signature"]
    assert post(body, {**headers, "webhook-signature": f"{other} {headers['webhook-signature']}"}).status_code == 204
    assert ends == ["partial 1"]


@pytest.mark.parametrize("secret", ["", "whsec_short"])
def test_without_a_secret_nothing_is_believed_and_workers_try_again(
    prediction: type[Any], under_way: Any, ends: list[str], secret: str
) -> None:
    with override_settings(WEBHOOK_SECRET=secret):
        assert notify(under_way).status_code == 503
    assert ends == []


def test_a_notification_about_a_job_without_a_row_is_accepted(prediction: type[Any], under_way: Any) -> None:
    prediction.objects.all().delete()
    assert notify(under_way).status_code == 204


def test_texts_that_a_database_cannot_keep_are_changed(prediction: type[Any], under_way: Any) -> None:
    assert notify(under_way, state="failed", error="a\0b", output="s3://" + "o" * 2000).status_code == 204
    row = prediction.objects.get()
    assert (row.error, len(row.output)) == ("a\N{REPLACEMENT CHARACTER}b", 1200)


def test_after_an_error_of_a_receiver_the_worker_sends_the_notification_again(
    prediction: type[Any], under_way: Any, ends: list[str]
) -> None:
    def fail(**_: Any) -> None:
        raise RuntimeError("the receiver failed")

    on_ended.connect(fail, sender=prediction)
    try:
        browser = Browser(raise_request_exception=False)
        body = json.dumps(under_way.notification.body)
        headers = signed(body, under_way.notification.id)
        assert browser.post(PATH, body, content_type="application/json", headers=headers).status_code == 500
    finally:
        on_ended.disconnect(fail, sender=prediction)
    assert prediction.objects.get().ended is None
    assert notify(under_way).status_code == 204
    assert prediction.objects.get().state == "partial"


def test_a_notification_shows_that_services_answer_so_rows_that_wait_are_sent(
    prediction: type[Any], scoreline: EagerClient, under_way: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # Given rows that wait since an outage
    for _ in range(7):
        row = prediction(model="double", inputs=[INPUT], options={"max_rejected": "50%"}, customer="ann")
        row.tried = datetime.now(UTC) - timedelta(hours=1)
        row.save()
    # When the outage goes on, the notification is recorded nevertheless
    with monkeypatch.context() as away:

        def fail() -> None:
            raise LedgerUnavailable("away")

        away.setattr(scoreline.queue, "ping", fail)
        assert notify(under_way).status_code == 204
    assert prediction.objects.get(pk=under_way.pk).state == "partial"
    assert prediction.objects.submitting().count() == 7
    # When the services answer, a few rows are sent with each notification
    prediction.objects.submitting().update(tried=datetime.now(UTC) - timedelta(hours=1))
    assert notify(under_way).status_code == 204
    assert prediction.objects.submitting().count() == 2
