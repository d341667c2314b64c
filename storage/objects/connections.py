"""Sends requests over HTTP connections that stay open.

To send a request and to read the headers of the response, the HTTP client of the standard library takes less than half
of the CPU time of urllib3, which botocore uses. urllib3 takes more time for this than it takes to decode a small
object. This module adds only a pool of idle connections: there are no proxies, redirects, cookies or retries.
"""

from __future__ import annotations

import contextlib
import functools
import select
import socket
import ssl
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTP_PORT, HTTPS_PORT, HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from urllib.parse import urlsplit

_PORTS = {"http": HTTP_PORT, "https": HTTPS_PORT}


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
        connection = self._take()
        try:
            if connection.sock is None:
                self._open(connection)
            connection.request(method, path, body, {"Host": self.host, **headers})
            answer = connection.getresponse()
        except BaseException as error:
            connection.close()
            if isinstance(error, OSError) or not isinstance(error, HTTPException | ValueError):
                raise
            raise NotUnderstood(f"{type(error).__name__}: {error}") from error
        found = {name.lower(): text for name, text in answer.headers.items()}
        return Response(answer.status, found, answer.length, Body(self, connection, answer))

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
