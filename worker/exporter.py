"""Serves the metrics of a deployment over HTTP, for Prometheus to scrape."""

from __future__ import annotations

import json
import logging
import signal
import socket
import socketserver
import threading
from collections.abc import Callable, Collection
from typing import Any
from urllib.parse import urlsplit

from prometheus_client import MetricsHandler

from scoreline.storage.errors import InvalidRequest, ScorelineError, describe
from scoreline.worker.metrics import Deployment

log = logging.getLogger(__name__)

PATH = "/metrics"
JSON_PATH = "/metrics.json"
_STOPS = {signal.SIGTERM, signal.SIGINT}


def serve(
    deployment: Deployment,
    host: str,
    port: int,
    announce: Callable[[str], None],
    for_scalers: Callable[[], Any],
    token: str = "",
) -> None:
    """Serve requests until SIGTERM or SIGINT, each in its own thread. Call this function in the main thread.

    Parameters
    ----------
    deployment : Deployment
        The deployment whose metrics are served.
    host : str
        Name or address to listen on.
    port : int
        Port to listen on. If the port is 0, the system chooses a free port.
    announce : callable
        Function that is called with the URL as soon as the server listens.
    for_scalers : callable
        Function that returns the content of ``/metrics.json``.
    token : str
        Token of HireFire, which asks for the same content at ``/hirefire/<token>/info``.

    Raises
    ------
    InvalidRequest
        The server cannot listen on this host and port.
    """
    server = listen(deployment, host, port, for_scalers, token)
    signal.pthread_sigmask(signal.SIG_BLOCK, _STOPS)  # set before the first thread starts: threads inherit it
    thread = threading.Thread(target=server.serve_forever, daemon=True, name="serve")
    thread.start()
    shown = f"[{host}]" if ":" in host else host
    announce(f"http://{shown}:{server.server_address[1]}{PATH}")
    signal.sigwait(_STOPS)
    server.shutdown()
    server.server_close()


def listen(
    deployment: Deployment, host: str, port: int, for_scalers: Callable[[], Any], token: str = ""
) -> socketserver.TCPServer:
    """Return a server that listens, but does not answer yet (see `serve`)."""
    json_paths = {JSON_PATH, *([f"/hirefire/{token}/info"] if token else [])}
    attributes = {"for_scalers": staticmethod(for_scalers), "json_paths": json_paths}
    handler = type("Handler", (_Handler.factory(deployment.registry()),), attributes)
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        return _Server(family, address, handler)
    except OSError as error:
        raise InvalidRequest(
            f"cannot listen on {host}:{port}: {error}; choose another --serve port or --host"
        ) from error


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False  # a slow scrape must not delay the shutdown

    def __init__(self, family: socket.AddressFamily, address: Any, handler: type) -> None:
        self.address_family = family
        super().__init__(address, handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        log.info("metrics.unanswered", exc_info=True)  # for example, the scraper has closed its connection


class _Handler(MetricsHandler):
    timeout = 10  # seconds within which a client must send its request

    for_scalers: Callable[[], Any]
    json_paths: Collection[str]

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        if path == PATH:
            super().do_GET()
        elif path in self.json_paths:
            self._send_json()
        else:
            self.send_error(404, explain=f"see {PATH}")

    def _send_json(self) -> None:
        try:
            body = json.dumps(self.for_scalers()).encode()
        except ScorelineError as error:  # an autoscaler must not take a missing value for an empty backlog
            log.warning("metrics.unavailable", extra={"service": "redis", "error": describe(error)})
            self.send_error(503, explain="Redis or the bucket does not answer")
            return
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(body)
