"""Sends one POST request to an untrusted server, with one deadline for the request and the answer.

The timeout of a socket starts again with each received byte. Without the deadline, a server that sends one byte from
time to time could block the process forever.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Mapping
from typing import Any

CONNECT_TIMEOUT_S = 5
READ_TIMEOUT_S = 10


def post(url: str, body: bytes, headers: Mapping[str, str], deadline_s: float) -> int:
    """Send a POST request without following redirects, and return the HTTP status of the answer.

    Parameters
    ----------
    deadline_s : float
        Seconds for the whole exchange, from the DNS lookup to the last header of the answer.

    Raises
    ------
    TimeoutError
        The deadline has passed.
    urllib3.exceptions.HTTPError
        The server cannot be reached, or does not speak HTTP.
    """
    exchange = _Exchange()
    # The exchange runs in a thread, because a DNS lookup cannot be interrupted.
    thread = threading.Thread(target=exchange.run, args=(url, body, headers), daemon=True, name="webhook")
    thread.start()
    thread.join(deadline_s)
    if thread.is_alive():
        exchange.cut()
        raise TimeoutError(f"no answer within {deadline_s:g} s")
    if exchange.error is not None:
        raise exchange.error
    return exchange.status


class _Exchange:
    """A request and its connection."""

    def __init__(self) -> None:
        self.status = 0
        self.error: Exception | None = None
        self._lock = threading.Lock()
        self._sockets: list[socket.socket] = []
        self._is_cut = False

    def run(self, url: str, body: bytes, headers: Mapping[str, str]) -> None:
        """Send the request, and store the status of the answer or the error."""
        import urllib3  # imported late, because a process that only submits jobs does not need urllib3

        timeout = urllib3.Timeout(connect=CONNECT_TIMEOUT_S, read=READ_TIMEOUT_S)
        try:
            with urllib3.PoolManager(num_pools=1) as manager:
                pool = manager.connection_from_url(url)
                pool.ConnectionCls = self._watched(pool.ConnectionCls)
                answer = pool.urlopen(
                    "POST",
                    urllib3.util.parse_url(url).request_uri,
                    body=body,
                    headers=headers,
                    timeout=timeout,
                    retries=False,
                    redirect=False,
                    preload_content=False,
                )
                answer.close()  # the body of the answer is not read, because it could be endless
                self.status = answer.status
        except Exception as error:  # noqa: BLE001  # raised by the thread that waits
            self.error = error
        finally:
            with self._lock:
                for opened in self._sockets:
                    opened.close()
                self._sockets.clear()

    def cut(self) -> None:
        """Shut the connection down at once, and let `run` open no other connection."""
        with self._lock:
            self._is_cut = True
            for opened in self._sockets:
                with contextlib.suppress(OSError):
                    opened.shutdown(socket.SHUT_RDWR)

    def _watched(self, kind: type) -> type:
        """Return a class of connections that `cut` can shut down."""
        exchange = self

        class Watched(kind):  # type: ignore[misc]
            def _new_conn(self) -> Any:
                opened = super()._new_conn()
                with exchange._lock:
                    # Keep a duplicate of the file descriptor, because TLS detaches the original from its socket.
                    exchange._sockets.append(opened.dup())
                    if exchange._is_cut:
                        opened.shutdown(socket.SHUT_RDWR)
                return opened

        return Watched
