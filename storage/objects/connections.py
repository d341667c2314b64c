"""Sends GET requests over HTTP connections that stay open.

botocore and urllib3 take 0.4 ms of CPU time to send a request and to parse the headers of the response, which is more
than it takes to decode a small object. This module takes a tenth of that, because it does only what reading objects
needs: no proxies, redirects, cookies or retries, and no bodies without a length.
"""

from __future__ import annotations

import contextlib
import functools
import io
import select
import socket
import ssl
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

_PORTS = {"http": 80, "https": 443}
_MAX_LINE_BYTES = 64 << 10
_MAX_HEADERS = 200


class NotUnderstood(OSError):
    """The request cannot be sent as it is, or the response cannot be read."""


class Connections:
    """A pool of connections to one server. It is thread-safe, but not fork-safe.

    Parameters
    ----------
    endpoint_url : str
        Scheme, host and port of the server.
    ca_file : str or None
        File with the certificates of the authorities that may have signed the server's certificate. None if the scheme
        is not ``https``.
    timeouts_s : tuple of float
        Seconds to wait for a connection, and for the next bytes of a response.
    most_idle : int
        Number of idle connections to keep open.
    """

    def __init__(
        self, endpoint_url: str, *, ca_file: str | None, timeouts_s: tuple[float, float], most_idle: int
    ) -> None:
        url = urlsplit(endpoint_url)
        host, default = url.hostname or "", _PORTS[url.scheme]
        self._address = (host, url.port or default)
        self.host = (f"[{host}]" if ":" in host else host) + ("" if url.port in (None, default) else f":{url.port}")
        """The value of the ``Host`` header."""
        self._is_encrypted = url.scheme == "https"
        self._ca_file = ca_file
        self._timeouts_s = timeouts_s
        self._most_idle = most_idle
        self._idle: deque[_Connection] = deque()  # its methods are atomic, so no lock is needed

    def get(self, path: str, headers: Mapping[str, str]) -> Response:
        """Send a request, and return the response. The caller must read or close the body.

        Parameters
        ----------
        path : str
            The path of the URL, quoted.
        headers : mapping of str to str
            The headers besides ``Host``.

        Raises
        ------
        OSError
            There is no connection, or the server does not answer, or it answers in an unexpected way.
        """
        head = "\r\n".join((f"GET {path} HTTP/1.1", f"Host: {self.host}", *map(": ".join, headers.items())))
        if head.count("\n") > len(headers) + 1 or not head.isascii():
            raise NotUnderstood("a header cannot be sent as it is")
        connection = self._take()
        try:
            connection.socket.sendall(f"{head}\r\n\r\n".encode())
            status, found, keeps_open = _read_head(connection.file)
            length = found.get("content-length", "")
            if not length.isdecimal() or "transfer-encoding" in found:
                raise NotUnderstood("the response has no length")
        except BaseException:
            connection.close()
            raise
        return Response(status, found, Body(self, connection, int(length), keeps_open=keeps_open))

    def keep(self, connection: _Connection) -> None:
        """Keep a connection for a later request. The response must be read completely."""
        if len(self._idle) < self._most_idle:
            self._idle.append(connection)
        else:
            connection.close()

    @functools.cached_property
    def _context(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=self._ca_file)

    def _take(self) -> _Connection:
        """Return the connection that was used last, unless the server has closed it; if there is none, a new one."""
        while True:
            try:
                connection = self._idle.pop()
            except IndexError:
                return self._connect()
            if not connection.is_readable():  # an idle connection is readable only if the server has closed it
                return connection
            connection.close()

    def _connect(self) -> _Connection:
        connect_s, read_s = self._timeouts_s
        sock = socket.create_connection(self._address, connect_s)
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            if self._is_encrypted:
                sock = self._context.wrap_socket(sock, server_hostname=self._address[0])
            sock.settimeout(read_s)
            return _Connection(sock)
        except BaseException:
            sock.close()
            raise


class _Connection:
    """An open connection, and a buffered file with the bytes that arrive."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        self.file: io.BufferedReader = sock.makefile("rb")
        self._poll = select.poll()
        self._poll.register(sock, select.POLLIN)

    def is_readable(self) -> bool:
        """Return whether the server has sent something, or has closed the connection."""
        return bool(self._poll.poll(0))

    def close(self) -> None:
        """Close the connection."""
        with contextlib.suppress(OSError):
            self.file.close()
        with contextlib.suppress(OSError):
            self.socket.close()

    def __del__(self) -> None:
        self.close()  # a store is not closed explicitly, and Python warns of sockets that are left open


@dataclass(frozen=True, slots=True)
class Response:
    """The response of a server."""

    status: int
    headers: Mapping[str, str]
    """The headers, with their names in lower case."""
    body: Body


class Body:
    """The body of a response.

    When all bytes are read, the connection is ready for the next request.
    """

    def __init__(self, pool: Connections, connection: _Connection, length: int, *, keeps_open: bool) -> None:
        self._pool = pool
        self._connection: _Connection | None = connection
        self._left = length
        self._keeps_open = keeps_open
        self._release()

    def read(self, size: int) -> bytes:
        """Read `size` bytes. Return fewer only at the end of the body, or if the server closes the connection.

        Raises
        ------
        OSError
            The connection was lost, or the next bytes did not arrive in time.
        """
        if self._connection is None:
            return b""
        data = self._connection.file.read(min(size, self._left))
        self._count(len(data))
        return data

    def readinto(self, buffer: memoryview) -> int:
        """Read bytes into a buffer, and return their number. Otherwise it is the same as `read`."""
        if self._connection is None:
            return 0
        count = self._connection.file.readinto(buffer[: self._left])
        self._count(count)
        return count

    def close(self) -> None:
        """Close the connection, unless the body was read completely."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _count(self, received: int) -> None:
        self._left -= received
        self._release()

    def _release(self) -> None:
        if self._left == 0 and self._connection is not None:
            connection, self._connection = self._connection, None
            if self._keeps_open:
                self._pool.keep(connection)
            else:
                connection.close()


def _read_head(file: Any) -> tuple[int, dict[str, str], bool]:
    """Read the beginning of a response: its status, its headers, and whether the connection stays open."""
    first = _read_line(file)
    version, _, rest = first.partition(" ")
    status = rest[:3]
    if not version.startswith("HTTP/1.") or not status.isdecimal() or int(status) < 200:
        raise NotUnderstood(f"the response begins with {first[:80]!r}")
    headers: dict[str, str] = {}
    for _ in range(_MAX_HEADERS):
        if not (line := _read_line(file)):
            break
        name, colon, text = line.partition(":")
        if not colon or not name or name[0].isspace():
            raise NotUnderstood(f"the response has the header {line[:80]!r}")
        name, text = name.lower(), text.strip()
        headers[name] = f"{headers[name]}, {text}" if name in headers else text
    else:
        raise NotUnderstood(f"the response has more than {_MAX_HEADERS} headers")
    closes = version == "HTTP/1.0" or "close" in headers.get("connection", "").lower()
    return int(status), headers, not closes


def _read_line(file: Any) -> str:
    line: bytes = file.readline(_MAX_LINE_BYTES)
    if not line.endswith(b"\n"):
        raise NotUnderstood("the response ended in its headers" if line else "the server closed the connection")
    return line.rstrip(b"\r\n").decode("latin-1")
