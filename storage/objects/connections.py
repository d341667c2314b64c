"""Sends requests over HTTP connections that stay open.

The HTTP client of the standard library, which opens the connections and reads the bodies, takes less than half of the
CPU time of urllib3, which botocore uses. urllib3 takes more time for a request than it takes to decode a small object.
Half of what is left is the e-mail parser, which the standard library uses for headers, so headers are written and read
here. There are no proxies, redirects, cookies or retries.
"""

from __future__ import annotations

import contextlib
import functools
import re
import select
import socket
import ssl
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import (
    HTTP_PORT,
    HTTPS_PORT,
    HTTPConnection,
    HTTPException,
    HTTPResponse,
    HTTPSConnection,
    RemoteDisconnected,
)
from urllib.parse import urlsplit

_PORTS = {"http": HTTP_PORT, "https": HTTPS_PORT}
_STATUS = re.compile(rb"HTTP/1\.([01]) +([1-9][0-9]{2})(?: .*)?\r?\n")
_MAX_LINE_BYTES = 64 << 10
_MAX_LINES = 100
_WITHOUT_BODY = frozenset({204, 304})


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
        self._idle: deque[HTTPConnection] = deque()  # its methods are atomic, so no lock is needed
        url = urlsplit(endpoint_url)
        default = _PORTS[url.scheme]
        self._host, self._port = url.hostname or "", url.port or default
        self.host = f"[{self._host}]" if ":" in self._host else self._host
        """The value of the ``Host`` header."""
        if self._port != default:
            self.host += f":{self._port}"
        self._is_encrypted = url.scheme == "https"
        self._ca_file = ca_file
        self._timeouts_s = timeouts_s
        self._most_idle = most_idle

    def send(self, method: str, path: str, headers: Mapping[str, str], body: bytes | None = None) -> Response:
        """Send a request, and return the response. The caller must read or close the body of the response.

        Parameters
        ----------
        method : str
            The method of HTTP, such as ``GET``.
        path : str
            The path of the URL, quoted.
        headers : mapping of str to str
            The headers besides ``Host`` and ``Content-Length``.
        body : bytes, optional
            The body of the request.

        Raises
        ------
        OSError
            There is no connection, or the server does not answer, or it answers in an unexpected way. The server may
            have received the request.
        """
        connection, answer = self._take(), None
        try:
            if connection.sock is None:
                self._open(connection)
            connection.sock.sendall(_message(method, path, {"Host": self.host, **headers}, body))
            answer = _Answer(connection.sock, method=method)
            answer.begin()
            if answer.will_close:
                connection.close()  # the response keeps the socket until its body is read
        except BaseException as error:
            if answer is not None:
                answer.close()
            connection.close()
            if isinstance(error, OSError) or not isinstance(error, HTTPException | ValueError):
                raise
            raise NotUnderstood(f"{type(error).__name__}: {error}") from error
        return Response(answer.status, answer.fields, answer.length, Body(self, connection, answer))

    def keep(self, connection: HTTPConnection) -> None:
        """Keep a connection for a later request. The response must be read completely."""
        # The connection has no socket any more if the server closes it after its response
        if connection.sock is not None and len(self._idle) < self._most_idle:
            self._idle.append(connection)
        else:
            connection.close()

    def _take(self) -> HTTPConnection:
        """Return the connection that was used last, unless the server has closed it; if there is none, a new one."""
        while True:
            try:
                connection = self._idle.pop()
            except IndexError:
                return self._new()
            if not is_readable(connection):  # an idle connection is readable only if the server has closed it
                return connection
            connection.close()

    def _new(self) -> HTTPConnection:
        if self._is_encrypted:
            return HTTPSConnection(self._host, self._port, timeout=self._timeouts_s[0], context=self._context)
        return HTTPConnection(self._host, self._port, timeout=self._timeouts_s[0])

    def _open(self, connection: HTTPConnection) -> None:
        connection.connect()
        connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        connection.sock.settimeout(self._timeouts_s[1])

    @functools.cached_property
    def _context(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=self._ca_file)

    def __del__(self) -> None:
        # A store is not closed explicitly, and Python warns of sockets that are left open
        for connection in self._idle:
            with contextlib.suppress(OSError):
                connection.close()


def _message(method: str, path: str, headers: Mapping[str, str], body: bytes | None) -> bytes:
    """Return the bytes of a request; raises `ValueError` if a header contains a line break."""
    lines = [f"{method} {path} HTTP/1.1", "Accept-Encoding: identity"]
    lines += [f"{name}: {text}" for name, text in headers.items()]
    if body is not None:
        lines.append(f"Content-Length: {len(body)}")
    head = "\r\n".join(lines)
    if head.count("\n") != len(lines) - 1 or head.count("\r") != len(lines) - 1 or lines[0].count(" ") != 2:
        raise ValueError("the path contains a blank, or a header contains a line break")
    return b"%b\r\n\r\n%b" % (head.encode("latin-1"), body or b"")


class _Answer(HTTPResponse):
    """A response that reads its headers without the e-mail parser, which accepts more than a server may send."""

    fields: dict[str, str]
    """The headers, with their names in lower case."""
    _method: str

    def begin(self) -> None:
        """Read the status and the headers."""
        status, is_newest = self._read_start()
        while status < 200:  # the real response follows
            self._read_fields()
            status, is_newest = self._read_start()
        self.code = self.status = status
        self.version = 11 if is_newest else 10
        fields = self.fields = self._read_fields()
        encoding = fields.get("transfer-encoding", "")
        self.chunked = encoding.lower() == "chunked"
        self.chunk_left = None
        size = fields.get("content-length", "")
        self.length = int(size) if size.isascii() and size.isdecimal() and not encoding else None
        if status in _WITHOUT_BODY or self._method == "HEAD":
            self.length = 0
        named = fields.get("connection", "").lower()
        stays = "close" not in named if is_newest else "keep-alive" in named
        self.will_close = not stays or (self.length is None and not self.chunked)

    def _read_start(self) -> tuple[int, bool]:
        """Return the status, and whether the server speaks HTTP/1.1."""
        line = self.fp.readline(_MAX_LINE_BYTES)
        if not line:
            raise RemoteDisconnected("the server closed the connection without a response")
        found = _STATUS.fullmatch(line)
        if found is None:
            raise HTTPException(f"the response begins with {line[:80]!r}")
        return int(found[2]), found[1] == b"1"

    def _read_fields(self) -> dict[str, str]:
        fields: dict[str, str] = {}
        for _ in range(_MAX_LINES):
            line = self.fp.readline(_MAX_LINE_BYTES)
            if line in (b"\r\n", b"\n"):
                return fields
            name, colon, text = line.decode("latin-1").partition(":")
            if not colon or not name.strip() or name != name.strip() or not text.endswith("\n"):
                raise HTTPException(f"a header of the response is {line[:80]!r}")
            name, text = name.lower(), text.strip(" \t\r\n")
            fields[name] = f"{fields[name]}, {text}" if name in fields else text  # two lengths are no number
        raise HTTPException(f"the response has more than {_MAX_LINES} headers")


def is_readable(connection: HTTPConnection) -> bool:
    """Return whether the server has sent something, or has closed the connection."""
    poll = select.poll()
    poll.register(connection.sock, select.POLLIN)
    return bool(poll.poll(0))


@dataclass(frozen=True, slots=True)
class Response:
    """The response of a server."""

    status: int
    headers: Mapping[str, str]
    """The headers, with their names in lower case."""
    length: int | None
    """Number of bytes of the body. If it is None, the body can only be closed."""
    body: Body


class Body:
    """The body of a response.

    When all bytes are read, the connection is ready for the next request.
    """

    def __init__(self, pool: Connections, connection: HTTPConnection, answer: HTTPResponse) -> None:
        self._pool, self._answer = pool, answer
        self._connection: HTTPConnection | None = connection
        self._release()

    def read(self, size: int) -> bytes:
        """Read `size` bytes. Return fewer only at the end of the body, or if the server closes the connection.

        Raises
        ------
        OSError
            The connection was lost, or the next bytes did not arrive in time.
        """
        data = self._answer.read(size)
        self._release()
        return data

    def readinto(self, buffer: memoryview) -> int:
        """Read bytes into a buffer, and return their number. The errors are those of `read`."""
        count = self._answer.readinto(buffer)
        self._release()
        return count

    def close(self) -> None:
        """Close the connection, unless the body was read completely."""
        connection, self._connection = self._connection, None
        if connection is not None:
            self._answer.close()
            connection.close()

    def _release(self) -> None:
        # The library also closes a response whose end is missing; only `length` shows whether all bytes were read
        if self._answer.length == 0 and self._connection is not None:
            connection, self._connection = self._connection, None
            self._answer.close()
            self._pool.keep(connection)
