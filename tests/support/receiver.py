"""An HTTP server that stands in for a service outside, such as a webhook, a monitor or Slack."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Receiver(ThreadingHTTPServer):
    """A server that answers requests to a path with the codes in `answers`, then with 200, and stores all requests."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.answers: dict[str, list[int]] = {}
        self.got: list[tuple[str, dict[str, str], str]] = []
        """The path, the headers with names in lower case, and the body of each request."""

    @property
    def paths(self) -> list[str]:
        """The path of each request."""
        return [path for path, _, _ in self.got]


class _Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"] or 0)).decode()
        self.server.got.append((self.path, {name.lower(): value for name, value in self.headers.items()}, body))
        left = self.server.answers.get(self.path, [])
        code = left.pop(0) if left else 200
        if code == 0:  # hang up
            return
        answer = b"ok"  # as Slack says it
        self.send_response(code)
        self.send_header("location", f"{self.server.url}/elsewhere")
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    do_GET = do_POST

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def receiving() -> Iterator[Receiver]:
    """Run a receiver while the block runs."""
    with Receiver() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
