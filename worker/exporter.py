"""Serves the metrics of a deployment over HTTP, for Prometheus to scrape."""

from __future__ import annotations

import logging
import signal
import socket
import socketserver
import threading
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from prometheus_client import MetricsHandler

from scoreline.storage.errors import InvalidRequest
from scoreline.worker.metrics import Deployment

log = logging.getLogger(__name__)

PATH = "/metrics"
_STOPS = {signal.SIGTERM, signal.SIGINT}


def serve(deployment: Deployment, host: str, port: int, announce: Callable[[str], None]) -> None:
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

    Raises
    ------
    InvalidRequest
        The server cannot listen on this host and port.
    """
    handler = _Handler.factory(deployment.registry())
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        server = _Server(family, address, handler)
    except OSError as error:
        raise InvalidRequest(
            f"cannot listen on {host}:{port}: {error}; choose another --serve port or --host"
        ) from error
    signal.pthread_sigmask(signal.SIG_BLOCK, _STOPS)  # set before the first thread starts: threads inherit it
    thread = threading.Thread(target=server.serve_forever, daemon=True, name="serve")
    thread.start()
    shown = f"[{host}]" if ":" in host else host
    announce(f"http://{shown}:{server.server_address[1]}{PATH}")
    signal.sigwait(_STOPS)
    server.shutdown()
    server.server_close()


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

    def do_GET(self) -> None:
        if urlsplit(self.path).path == PATH:
            super().do_GET()
        else:
            self.send_error(404, explain=f"see {PATH}")
