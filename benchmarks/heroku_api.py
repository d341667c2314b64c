"""A stand-in for Heroku's Platform API over HTTP, with its rate limit, and with faults that a caller chooses."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any, Self

KEY = "HRKU-0123-secret"
APP = "scores"
MOST_REQUESTS, REQUESTS_A_MINUTE = 4_500, 75
"""Maximum number of requests that an account has left, and number of requests that it gets each minute."""
ACCEPT = "application/vnd.heroku+json; version=3"


@dataclass(frozen=True, kw_only=True)
class Request:
    """A request that the API has received."""

    at: float
    method: str
    path: str
    status: int
    """Status of the answer; 0 if the connection was closed without an answer."""
    quantity: int | None
    """The number of dynos that was requested."""


@dataclass(frozen=True, kw_only=True)
class Fault:
    """An answer in place of the usual one."""

    status: int
    """0 to close the connection without an answer."""
    body: bytes = b""
    headers: Mapping[str, str] | None = None
    after: bool = False
    """Whether the request has its effect before it fails."""


class FakeHeroku:
    """The formation of one app, served at `url` while the block runs.

    Parameters
    ----------
    clock : callable
        Returns the time in seconds.
    """

    def __init__(self, clock: Callable[[], float], **formation: int) -> None:
        self.clock = clock
        self.formation = formation
        self.requests: list[Request] = []
        self.headers: list[Mapping[str, str]] = []
        self.fault: Callable[[], Fault | None] = lambda: None
        self.left = float(MOST_REQUESTS)
        self._counted_at = clock()

    def __enter__(self) -> Self:
        handler = type("Handler", (_Handler,), {"api": self})
        self._server = HTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def take(self) -> bool:
        """Use up one request of the account. Return False if none is left."""
        now = self.clock()
        self.left = min(MOST_REQUESTS, self.left + (now - self._counted_at) * REQUESTS_A_MINUTE / 60)
        self._counted_at = now
        if self.left < 1:
            return False
        self.left -= 1
        return True

    def answer(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> tuple[int, Any, int | None]:
        """Return the status, the answer, and the number of dynos that was requested."""
        if headers.get("Authorization") != f"Bearer {KEY}":
            return 401, _error("unauthorized", "Invalid credentials provided."), None
        if headers.get("Accept") != ACCEPT:
            return 406, _error("not_acceptable", "Set the header Accept."), None
        if not self.take():
            return 429, _error("rate_limit", "Your account reached the API rate limit."), None
        empty, apps, app, word, *kind = path.split("/")
        if (empty, apps, app, word, len(kind)) != ("", "apps", APP, "formation", 1) or kind[0] not in self.formation:
            return 404, _error("not_found", "Couldn't find that process type."), None
        quantity = None
        if method == "PATCH":
            quantity = json.loads(body)["quantity"]
            if not 0 <= quantity <= 100:
                return 422, _error("invalid_params", "Cannot scale to this many dynos."), quantity
            self.formation[kind[0]] = quantity
        return 200, {"type": kind[0], "quantity": self.formation[kind[0]], "size": "Standard-2X"}, quantity


class _Handler(BaseHTTPRequestHandler):
    api: FakeHeroku

    def do_GET(self) -> None:
        self._reply("GET")

    def do_PATCH(self) -> None:
        self._reply("PATCH")

    def log_message(self, format: str, *args: Any) -> None:
        """Print nothing."""

    def _reply(self, method: str) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        api, fault = self.api, self.api.fault()
        api.headers.append(dict(self.headers))
        status, answer, quantity = 0, b"", None
        more: Mapping[str, str] = {}
        if fault is None or fault.after:
            status, found, quantity = api.answer(method, self.path, dict(self.headers), body)
            answer, more = json.dumps(found).encode(), {"RateLimit-Remaining": str(int(api.left))}
        if fault is not None:
            status, answer, more = fault.status, fault.body, fault.headers or {}
        api.requests.append(Request(at=api.clock(), method=method, path=self.path, status=status, quantity=quantity))
        if not status:
            self.close_connection = True
            return
        self.send_response(status)
        for name, value in {"Content-Length": str(len(answer)), **more}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(answer)


def _error(name: str, message: str) -> dict[str, str]:
    return {"id": name, "message": message}
