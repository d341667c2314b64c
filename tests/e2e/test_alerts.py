"""People receive e-mail about what failed overnight, from real workers and a real mail server."""

from __future__ import annotations

import asyncio
import email
import email.policy
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pandas as pd
import pytest
import redis
from aiosmtpd.controller import Controller
from sklearn.linear_model import LinearRegression

from scoreline.storage import keys
from scoreline.storage.models.manager import ModelStorageManager
from scoreline.tasks.alerts.sending import GATHER, read_waiting
from scoreline.tasks.client import Client
from scoreline.tasks.job.alert import Alert
from scoreline.tasks.schedules.schedule import State
from scoreline.worker.dev.stack import Stack
from tests.support.waiting import wait_until

SCHEDULES = """
[hourly]
cron = "0 * * * *"
model = "lien"
input = "{input}"
"""


class Mailbox:
    """Accepts every mail, and keeps it."""

    def __init__(self) -> None:
        self.mails: list[email.message.EmailMessage] = []

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        mail = email.message_from_bytes(envelope.content, policy=email.policy.default)
        assert isinstance(mail, email.message.EmailMessage)
        self.mails.append(mail)
        return "250 OK"

    def texts(self) -> dict[str, str]:
        """Return the text of each mail by its subject."""
        bodies = ((mail["subject"], mail.get_body(("plain",))) for mail in self.mails)
        return {subject: body.get_content() for subject, body in bodies if body is not None}


class MailServer(Controller):
    """A mail server on a free port."""

    def _trigger_server(self) -> None:
        assert isinstance(self.server, asyncio.Server)
        self.port = self.server.sockets[0].getsockname()[1]
        super()._trigger_server()  # type: ignore[no-untyped-call]


@pytest.fixture
def mailbox() -> Iterator[tuple[Mailbox, int]]:
    box = Mailbox()
    server = MailServer(box, hostname="127.0.0.1", port=0)
    server.start()
    yield box, server.port
    server.stop()


def test_people_receive_mail_about_a_failed_job_and_a_refused_slot(own: Stack, mailbox: tuple[Mailbox, int]) -> None:
    box, port = mailbox
    address = f"mailto://127.0.0.1:{port}?from=scoreline@example.org&to=ops@example.org&mode=insecure"
    own.start_worker(1, {"ALERT_URLS": address, "WEB_URL": "https://example.org/scoreline"})
    client = Client.from_env(own.environ)
    store = client.buckets.main
    x = pd.DataFrame({"x": [1.0, 2.0]})
    ModelStorageManager.from_env(own.environ).publish("line", LinearRegression().fit(x, [1.0, 2.0]))
    store.put("in/a.parquet", x.to_parquet(index=False))
    store.put("bad/a.parquet", x.rename(columns={"x": "hush"}).to_parquet(index=False))
    # Given a job that fails, one that succeeds, and a slot whose job is refused
    failed = client.submit("line", store.uri("bad/")).job_id
    client.submit("line", store.uri("in/"))
    store.put(keys.SCHEDULES, SCHEDULES.format(input=store.uri("in/")).encode())
    two_hours_ago = (datetime.now(UTC) - timedelta(hours=2)).isoformat()
    store.put(keys.schedule_state("hourly"), State(through=two_hours_ago).to_json())
    client.queue.send("scoreline.tick")
    wait_until(lambda: {"failed", "refused"} <= {alert.event for alert in read_waiting(store)}, "two alerts")
    # When the time has passed in which an alert waits for others, Redis is emptied, and the clock goes on
    for info in list(store.list(keys.ALERTS)):
        alert = Alert.from_json(store.get(info.key).data)
        earlier = (datetime.fromisoformat(alert.at) - GATHER).isoformat()
        store.put(info.key, replace(alert, at=earlier).to_json())
    with redis.Redis.from_url(own.environ["REDIS_URL"]) as server:
        server.flushall()

    def told() -> bool:
        client.queue.send("scoreline.tick")
        return not list(store.list(keys.ALERTS))

    wait_until(told, "the mails")
    # Then people receive one mail about each of the two, with a link and without what the input contains
    texts = box.texts()
    assert len(box.mails) == 2
    (hourly,) = (text for subject, text in texts.items() if subject.startswith("Scoreline: hourly"))
    assert f"The job {failed} failed." in texts["Scoreline: line failed"]
    assert f"https://example.org/scoreline/jobs/{failed}/" in texts["Scoreline: line failed"]
    assert "no model 'lien'" in hourly
    assert not any("hush" in text for text in texts.values())
    assert {mail["to"] for mail in box.mails} == {"ops@example.org"}
