"""A message reaches Slack in the form that Slack expects, and an answer that refuses it is reported with its reason."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from apprise.plugins.slack import NotifySlack

from scoreline.storage.errors import AlertUndelivered
from scoreline.tasks.alerts.sending import send_message
from tests.support.receiver import Receiver, receiving

PATH = "/services/T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ"
URL = f"https://hooks.slack.com{PATH}"


@pytest.fixture
def slack(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    with receiving() as found:
        monkeypatch.setattr(NotifySlack, "webhook_url", f"{found.url}/services")
        yield found


def test_slack_receives_the_title_and_the_text(slack: Receiver) -> None:
    send_message([URL], "Scoreline: nightly failed", "The job <b> failed & more.")
    ((path, _, body),) = slack.got
    assert path == "/services/T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ"
    (attachment,) = json.loads(body)["attachments"]
    assert attachment["title"] == "Scoreline: nightly failed"
    assert attachment["text"] == "The job &lt;b&gt; failed &amp; more."


def test_a_refusal_is_reported_without_the_secret_address(slack: Receiver, caplog: pytest.LogCaptureFixture) -> None:
    slack.answers[PATH] = [404]
    with pytest.raises(AlertUndelivered, match=r"Slack did not take the message: .*404") as caught:
        send_message([URL], "title", "body")
    assert not [part for part in URL.split("/")[-3:] if part in str(caught.value) + caplog.text]
