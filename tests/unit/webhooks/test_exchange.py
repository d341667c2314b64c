"""However a receiver behaves, it cannot block the process that notifies it."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from itertools import repeat

import pytest

from scoreline.storage.errors import WebhookUnavailable
from scoreline.tasks.webhooks import delivery
from tests.support.waiting import HANG_S

EVENT = delivery.Notification(id="job.1", body=b"{}")
SECRET = "a secret of more than 16 bytes"
DEADLINE_S = 0.3
PAUSE_S = 0.02
LIMIT = 150
"""Number of pieces that a receiver sends. A sender without a deadline would wait ten times as long."""


class Receiver:
    """A server that accepts a connection, and sends pieces of a response until the client stops reading."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.sent = 0
        self.left_alone = threading.Event()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        connection, _ = self._listener.accept()
        with connection, self._listener:
            try:
                for piece in self._pieces:
                    connection.sendall(piece)
                    self.sent += 1
                    time.sleep(PAUSE_S)
            except OSError:
                pass
            self.left_alone.set()


def status_line() -> Iterator[bytes]:
    yield b"HTTP/1.1 200 "
    yield from repeat(b"O", LIMIT)


def header() -> Iterator[bytes]:
    yield b"HTTP/1.1 200 OK\r\nx: "
    yield from repeat(b"y", LIMIT)


def answers_to_go_on() -> Iterator[bytes]:
    return repeat(b"HTTP/1.1 100 Continue\r\n\r\n", LIMIT)


def handshake() -> Iterator[bytes]:
    yield bytes([22, 3, 3, 64, 0])  # the header of a TLS record
    yield from repeat(b"\0", LIMIT)


@pytest.mark.parametrize(
    ("pieces", "scheme"),
    [(status_line, "http"), (header, "http"), (answers_to_go_on, "http"), (handshake, "https")],
)
def test_a_receiver_that_trickles_is_left_after_a_deadline(
    pieces: Callable[[], Iterator[bytes]], scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery, "EXCHANGE_S", DEADLINE_S, raising=False)
    receiver = Receiver(pieces())
    with pytest.raises(WebhookUnavailable, match=rf"cannot reach {scheme}://127\.0\.0\.1:{receiver.port}: "):
        delivery.send(f"{scheme}://127.0.0.1:{receiver.port}/hush", EVENT, SECRET)
    assert receiver.left_alone.wait(HANG_S)
    assert receiver.sent < LIMIT


def test_a_host_whose_name_is_looked_up_for_ever_holds_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery, "EXCHANGE_S", DEADLINE_S, raising=False)
    found, closed = threading.Event(), threading.Event()

    def look_up(*_: object, **__: object) -> socket.socket:
        found.wait(HANG_S)
        near, far = socket.socketpair()
        threading.Thread(target=wait_for_end, args=(far,), daemon=True).start()
        return near

    def wait_for_end(far: socket.socket) -> None:
        with far:
            while far.recv(65_536):
                pass
        closed.set()

    monkeypatch.setattr("urllib3.util.connection.create_connection", look_up)
    with pytest.raises(WebhookUnavailable, match="TimeoutError"):
        delivery.send("http://slow.example/hush", EVENT, SECRET)
    # And a connection that is established after the timeout is closed at once
    found.set()
    assert closed.wait(HANG_S)
