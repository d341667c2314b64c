"""A message reaches Slack in the form that Slack expects, and an answer that refuses it is reported with its reason."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from apprise.plugins.slack import NotifySlack

from scoreline.storage.errors import AlertUndelivered
from scoreline.tasks.alerts.sending import send_message

URL = "https://hooks.slack.com/services/T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ"


class Slack(ThreadingHTTPServer):
    """A server that answers as incoming webhooks of Slack do."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.code = 200
        self.got: list[tuple[str, dict[str, Any]]] = []


class Handler(BaseHTTPRequestHandler):
    server: Slack

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.got.append((self.path, json.loads(body)))
        answer = b"ok" if self.server.code == 200 else b"no_service"
        self.send_response(self.server.code)
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def slack(monkeypatch: pytest.MonkeyPatch) -> Iterator[Slack]:
    with Slack() as server:
        monkeypatch.setattr(NotifySlack, "webhook_url", f"http://127.0.0.1:{server.server_port}/services")
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_slack_receives_the_title_and_the_text(slack: Slack) -> None:
    send_message([URL], "Scoreline: nightly failed", "The job <b> failed & more.")
    ((path, message),) = slack.got
    assert path == "/services/T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ"
    (attachment,) = message["attachments"]
    assert attachment["title"] == "Scoreline: nightly failed"
    assert attachment["text"] == "The job &lt;b&gt; failed &amp; more."


def test_a_refusal_is_reported_without_the_secret_address(slack: Slack, caplog: pytest.LogCaptureFixture) -> None:
    slack.code = 404
    with pytest.raises(AlertUndelivered, match=r"Slack did not take the message: .*404") as caught:
        send_message([URL], "title", "body")
    assert not [part for part in URL.split("/")[-3:] if part in str(caught.value) + caplog.text]
