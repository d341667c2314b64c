"""A notification is one POST to one address, and errors of sending contain no secret."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from scoreline.storage.errors import ScorelineError, WebhookRefused, WebhookUnavailable
from scoreline.tasks.webhooks.delivery import Notification, send

SECRET = "a secret of some length"
EVENT = Notification(id="job.1", body=b"{}")


class Receiver:
    """An HTTP server that answers with a status, and records the requested paths."""

    def __init__(self) -> None:
        self.status, self.paths = 200, list[str]()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                receiver.paths.append(self.path)
                self.rfile.read(int(self.headers["content-length"]))
                self.send_response(receiver.status)
                self.send_header("location", "/elsewhere")
                self.send_header("content-length", "0")
                self.end_headers()

            do_GET = do_POST

            def log_message(self, *_: Any) -> None:
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_port}"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    thread = threading.Thread(target=made.server.serve_forever, args=(0.01,))
    thread.start()
    yield made
    made.server.shutdown()
    thread.join()
    made.server.server_close()


@pytest.mark.parametrize(
    ("status", "error"),
    [(204, None), (400, WebhookRefused), (410, WebhookRefused)]
    + [(status, WebhookUnavailable) for status in (408, 429, 500, 503)],
)
def test_the_answer_decides_whether_a_notification_is_sent_again(
    receiver: Receiver, status: int, error: type[ScorelineError] | None
) -> None:
    receiver.status = status
    if error is None:
        send(f"{receiver.address}/hooks", EVENT, SECRET)
    else:
        with pytest.raises(error, match=f"answered {status}") as caught:
            send(f"{receiver.address}/hooks", EVENT, SECRET)
        assert caught.value.transient == (error is WebhookUnavailable)
    assert receiver.paths == ["/hooks"]


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed(receiver: Receiver, status: int) -> None:
    receiver.status = status
    with pytest.raises(WebhookRefused, match=f"answered {status}"):
        send(f"{receiver.address}/hooks", EVENT, SECRET)
    assert receiver.paths == ["/hooks"]


def test_the_error_of_a_receiver_that_cannot_be_reached_shows_only_its_host(receiver: Receiver) -> None:
    with pytest.raises(WebhookUnavailable) as caught:
        send("http://127.0.0.1:9/services/T0/hush?key=hush", EVENT, SECRET)
    assert "http://127.0.0.1:9" in str(caught.value)
    assert "hush" not in str(caught.value)
