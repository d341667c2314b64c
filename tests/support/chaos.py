"""An S3 server with faults on demand: ``python -m tests.support.chaos PORT``. A PUT to ``/_chaos`` sets the faults.

Requests with the key id ``observer`` are never affected by faults.
"""

from __future__ import annotations

import json
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from scoreline.worker.dev.s3 import serve
from scoreline.worker.dev.strict import App, Start, StrictR2, refuse
from tests.support.quick_writes import BETWEEN_WRITES_S

OBSERVER = "observer"
_REFUSALS = {
    "500": ("500 Internal Server Error", "InternalError"),
    "503": ("503 Service Unavailable", "ServiceUnavailable"),
    "429": ("429 Too Many Requests", "TooManyRequests"),
}


class Chaos:
    """WSGI middleware that causes faults in front of `StrictR2`.

    Faults: ``500``, ``503``, ``429`` instead of an answer; ``lost``, a 500 after the request was carried out; ``cut``,
    half of the body; ``stall``, an answer after `stall_s`. A request whose path, query and method contain `hold` waits
    until `hold` is changed.
    """

    def __init__(self, app: App) -> None:
        self._app = StrictR2(app, BETWEEN_WRITES_S)
        self._lock = threading.Lock()
        self._rules: dict[str, Any] = {}
        self._chance = random.Random(0)
        self._done: Counter[str] = Counter()
        self._held = 0

    def __call__(self, environ: dict[str, Any], start: Start) -> Iterable[bytes]:
        if environ["PATH_INFO"] == "/_chaos":
            return self._control(environ, start)
        if f"Credential={OBSERVER}/" in environ.get("HTTP_AUTHORIZATION", ""):
            return self._app(environ, start)
        self._wait_while_held(f"{environ['PATH_INFO']}?{environ.get('QUERY_STRING', '')} {environ['REQUEST_METHOD']}")
        kind = self._choose()
        if kind in _REFUSALS:
            return refuse(start, *_REFUSALS[kind], "chaos")
        if kind == "stall":
            time.sleep(self._rules["stall_s"])
        if kind == "lost":
            for _ in self._app(environ, lambda *_: lambda _: None):
                pass
            return refuse(start, *_REFUSALS["500"], "lost")
        body = self._app(environ, start)
        return _half(body) if kind == "cut" and environ["REQUEST_METHOD"] == "GET" else body

    def _control(self, environ: dict[str, Any], start: Start) -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] == "PUT":
            rules = json.loads(environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"])))
            with self._lock:
                self._rules = rules
                self._chance.seed(rules.get("seed", 0))
        body = json.dumps({"done": self._done, "held": self._held}).encode()
        start("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
        return [body]

    def _choose(self) -> str:
        with self._lock:
            if self._chance.random() >= self._rules.get("rate", 0):
                return ""
            kind: str = self._chance.choice(self._rules["kinds"])
            self._done[kind] += 1
            return kind

    def _wait_while_held(self, what: str) -> None:
        held = False
        while (pattern := self._rules.get("hold")) and pattern in what:
            if not held:
                held = True
                with self._lock:
                    self._held += 1
            time.sleep(0.02)
        if held:
            with self._lock:
                self._held -= 1


def _half(body: Iterable[bytes]) -> Iterator[bytes]:
    data = b"".join(body)
    yield data[: len(data) // 2]  # Content-Length is larger, so the server closes the connection


if __name__ == "__main__":
    serve(int(sys.argv[1]), Chaos)
