"""Each run of a job sends one signed notification to an allowed address; until it is sent, the job keeps its marker."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from scoreline.storage import keys
from scoreline.storage.errors import WebhookUnavailable
from scoreline.storage.objects.base import exists
from scoreline.tasks.dispatch.reconcile import reconcile_job
from scoreline.tasks.job.documents import Delivery, read_delivery
from scoreline.tasks.webhooks.delivery import Notification
from scoreline.tasks.webhooks.notify import notify
from scoreline.tasks.webhooks.settings import WebhookSettings
from tests.support.line_jobs import Desk, desk

URL = "https://example.org/hooks"
SETTINGS = WebhookSettings(url=URL, secret="a secret of some length")


@pytest.fixture
def at(tmp_path: Path) -> Iterator[Desk]:
    with desk(tmp_path, WEBHOOK_URL=URL) as made:
        yield made


class Receiver:
    """Records the notifications, and raises `error` while it is set."""

    def __init__(self) -> None:
        self.got: list[tuple[str, str]] = []
        self.error: Exception | None = None

    def __call__(self, url: str, event: Notification, secret: str) -> None:
        if self.error is not None:
            raise self.error
        self.got.append((url, event.id))


def marked(at: Desk, job_id: str) -> bool:
    return exists(at.client.buckets.main, keys.active(job_id))


def ended(at: Desk) -> str:
    """Return a job that was cancelled, and whose notification no worker has sent."""
    job_id = at.plan()
    at.client.cancel(job_id)
    return job_id


def test_the_marker_of_a_job_stays_until_its_notification_is_delivered_and_is_sent_once(at: Desk) -> None:
    job_id, receiver = ended(at), Receiver()
    assert marked(at, job_id)
    receiver.error = WebhookUnavailable("https://example.org answered 503")
    with pytest.raises(WebhookUnavailable):
        notify(at.engine, SETTINGS, job_id, receiver)
    reconcile_job(at.engine, job_id)
    assert marked(at, job_id)
    receiver.error = None
    for _ in range(2):
        notify(at.engine, SETTINGS, job_id, receiver)
    assert receiver.got == [(URL, f"{job_id}.1")]
    assert not marked(at, job_id)
    assert read_delivery(at.client.buckets.main, job_id) == Delivery(run=1, delivered=True)


def test_the_next_run_of_a_job_has_its_own_notification(at: Desk) -> None:
    job_id, receiver = ended(at), Receiver()
    notify(at.engine, SETTINGS, job_id, receiver)
    at.client.resume(job_id)
    at.client.cancel(job_id)
    assert marked(at, job_id)
    notify(at.engine, SETTINGS, job_id, receiver)
    assert receiver.got == [(URL, f"{job_id}.1"), (URL, f"{job_id}.2")]


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        (WebhookSettings(url=URL), "WEBHOOK_SECRET is not set"),
        (WebhookSettings(url="https://elsewhere.example/", secret=SETTINGS.secret), "not within ALLOWED_WEBHOOKS"),
    ],
    ids=["no secret", "not allowed here"],
)
def test_a_worker_sends_nothing_unsigned_and_nothing_to_an_address_that_it_may_not_call(
    at: Desk, settings: WebhookSettings, reason: str
) -> None:
    job_id, receiver = ended(at), Receiver()
    notify(at.engine, settings, job_id, receiver)
    assert receiver.got == []
    notice: Any = read_delivery(at.client.buckets.main, job_id)
    assert not notice.delivered
    assert reason in notice.error
    assert not marked(at, job_id)
