"""Connections send requests, and stay open between two requests. Whatever fails is an OSError."""

from __future__ import annotations

import contextlib
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from scoreline.storage.objects.connections import Connections, NotUnderstood, is_readable
from tests.support.waiting import HANG_S, wait_until

OK = b'HTTP/1.1 200 OK\r\nContent-Length: 5\r\nETag: "e"\r\n\r\nhello'


@dataclass
class Server:
    """Answers each connection with the next of its answers, one for each request; then it closes the connection."""

    answers: list[list[bytes]]
    port: int = 0
    asked: list[list[str]] = field(default_factory=list)
    """The heads of the requests of each connection."""
    closed: threading.Event = field(default_factory=threading.Event)
    """Set when the server has closed its first connection."""

    def connections(self, *, most_idle: int = 4, read_s: float = HANG_S) -> Connections:
        return Connections(
            f"http://127.0.0.1:{self.port}", ca_file=None, timeouts_s=(HANG_S, read_s), most_idle=most_idle
        )

    def serve(self, listening: socket.socket, context: ssl.SSLContext | None) -> None:
        for answers in self.answers:
            plain, _ = listening.accept()
            with plain, contextlib.suppress(OSError):  # the client may close the connection at any time
                self.answer(plain if context is None else context.wrap_socket(plain, server_side=True), answers)
            self.closed.set()

    def answer(self, connection: socket.socket, answers: list[bytes]) -> None:
        self.asked.append([])
        with connection:
            for answer in answers:
                head = b""
                while not head.endswith(b"\r\n\r\n") and (data := connection.recv(1 << 16)):
                    head += data
                self.asked[-1].append(head.decode())
                connection.sendall(answer)
            connection.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def serving(*answers: list[bytes], context: ssl.SSLContext | None = None) -> Iterator[Server]:
    """Run a server for as many connections as there are lists of answers."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = Server(list(answers), listening.getsockname()[1])
        thread = threading.Thread(target=server.serve, args=(listening, context), daemon=True)
        thread.start()
        yield server
        thread.join(HANG_S)


def test_a_connection_is_used_again_after_its_body_was_read() -> None:
    with serving([OK, OK, OK]) as server:
        pool = server.connections()
        memory = bytearray(5)
        assert pool.send("GET", "/b/k", {"range": "bytes=0-4"}).body.read(5) == b"hello"
        assert pool.send("GET", "/b/k", {}).body.readinto(memoryview(memory)) == 5
        answer = pool.send("GET", "/b/k", {})
        assert (answer.status, answer.headers["etag"], answer.body.read(99)) == (200, '"e"', b"hello")
    assert bytes(memory) == b"hello"
    assert len(server.asked) == 1
    first, *headers = server.asked[0][0].rstrip().split("\r\n")
    assert first == "GET /b/k HTTP/1.1"
    assert sorted(headers) == ["Accept-Encoding: identity", f"Host: 127.0.0.1:{server.port}", "range: bytes=0-4"]


def test_a_connection_is_used_again_after_a_body_without_bytes() -> None:
    with serving([b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", OK]) as server:
        pool = server.connections()
        assert pool.send("GET", "/k", {}).length == 0  # there is nothing to read
        assert pool.send("GET", "/k", {}).body.read(5) == b"hello"
    assert len(server.asked) == 1


def test_a_connection_is_not_used_again_if_part_of_its_body_was_not_read() -> None:
    with serving([OK], [OK]) as server:
        pool = server.connections()
        body = pool.send("GET", "/k", {}).body
        assert body.read(3) == b"hel"
        body.close()
        assert pool.send("GET", "/k", {}).body.read(5) == b"hello"
    assert len(server.asked) == 2


@pytest.mark.parametrize(
    ("method", "answer"),
    [
        ("DELETE", b"HTTP/1.1 204 No Content\r\n\r\n"),
        ("HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"),
        ("PUT", b"HTTP/1.1 100 Continue\r\nX-Skipped: 1\r\n\r\nHTTP/1.1 200 \r\ncontent-length: 0\r\n\r\n"),
        ("GET", b"HTTP/1.0 200 OK\r\nConnection: Keep-Alive\r\nContent-Length:0\r\n\r\n"),
        ("GET", b"HTTP/1.1 200\nContent-Length: 0 \nX-Empty:\n\n"),
    ],
)
def test_a_response_that_ends_with_its_head_leaves_its_connection_open(method: str, answer: bytes) -> None:
    with serving([answer, OK]) as server:
        pool = server.connections()
        first = pool.send(method, "/k", {})
        assert (first.length, "x-skipped" in first.headers) == (0, False)
        assert pool.send("GET", "/k", {}).body.read(5) == b"hello"
    assert len(server.asked) == 1


def test_headers_and_body_are_sent_and_read_as_they_are() -> None:
    named = b"HTTP/1.1 200 OK\r\nX-Amz-Meta-A: \xe9: b \r\nContent-Length: 0\r\n\r\n"
    with serving([named]) as server:
        answer = server.connections().send("PUT", "/b/k%20", {"x-amz-meta-a": "b: c"}, b"\r\n\r\n")
    assert answer.headers == {"x-amz-meta-a": "\xe9: b", "content-length": "0"}
    first, *headers = server.asked[0][0].split("\r\n")
    assert first == "PUT /b/k%20 HTTP/1.1"
    assert {"x-amz-meta-a: b: c", "Content-Length: 4"} <= set(headers)


def test_a_connection_that_the_server_closed_while_it_was_idle_is_replaced() -> None:
    with serving([OK], [OK]) as server:
        pool = server.connections()
        pool.send("GET", "/k", {}).body.read(5)
        assert server.closed.wait(HANG_S)
        wait_until(lambda: is_readable(pool._idle[0]), "the end of the connection")
        assert pool.send("GET", "/k", {}).body.read(5) == b"hello"
    assert len(server.asked) == 2


@pytest.mark.parametrize(
    "answer",
    [OK.replace(b"200 OK", b"200 OK\r\nConnection: close"), OK.replace(b"HTTP/1.1", b"HTTP/1.0")],
    ids=["close", "1.0"],
)
def test_a_connection_that_the_server_will_close_is_not_kept(answer: bytes) -> None:
    with serving([answer]) as server:
        pool = server.connections()
        assert pool.send("GET", "/k", {}).body.read(5) == b"hello"
        assert not pool._idle


def test_no_more_idle_connections_are_kept_than_allowed() -> None:
    with serving([OK], [OK]) as server:
        pool = server.connections(most_idle=1)
        first, second = pool.send("GET", "/k", {}).body, None
        server.closed.wait(HANG_S)
        second = pool.send("GET", "/k", {}).body
        first.read(5)
        second.read(5)
        assert len(pool._idle) == 1


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 OK\r\nContent-Length: 5\r\n\r\nhello",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n" + b"X: y\r\n" * 300 + b"\r\nhello",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX: y\r\n z\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nno colon\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nContent-Length : 5\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX: y",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-Long: " + b"y:" * 40_000 + b"\r\n\r\nhello",
        b"HTTP/2.0 200 OK\r\nContent-Length: 5\r\n\r\nhello",
        b"HTTP/1.1 099 No\r\nContent-Length: 5\r\n\r\nhello",
    ],
)
def test_a_response_that_is_malformed_is_an_oserror_and_its_connection_closed(answer: bytes) -> None:
    with serving([answer]) as server:
        pool = server.connections()
        with pytest.raises(OSError):  # noqa: PT011  # which of its kinds depends on what arrives first
            pool.send("GET", "/k", {})
        assert not pool._idle


@pytest.mark.parametrize("header", [b"X: y", b"Content-Length: x", b"Content-Length: 5\r\nTransfer-Encoding: chunked"])
def test_a_body_without_a_length_has_none_and_its_connection_is_not_used_again(header: bytes) -> None:
    with serving([b"HTTP/1.1 503 Busy\r\n" + header + b"\r\n\r\n5\r\nhello\r\n0\r\n\r\n"]) as server:
        pool = server.connections()
        answer = pool.send("GET", "/k", {})
        assert (answer.status, answer.length) == (503, None)
        answer.body.close()
        assert not pool._idle


def test_a_body_that_is_cut_is_returned_as_far_as_it_goes_and_its_connection_is_not_used_again() -> None:
    with serving([OK[:-2]]) as server:
        pool = server.connections()
        body = pool.send("GET", "/k", {}).body
        assert (body.read(5), body.read(5)) == (b"hel", b"")
        body.close()
        assert not pool._idle


def test_a_server_that_does_not_answer_in_time_raises_a_timeout() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        pool = Server([], silent.getsockname()[1]).connections(read_s=0.05)
        with pytest.raises(TimeoutError):
            pool.send("GET", "/k", {})


@pytest.mark.parametrize("text", ['"e"\r\nX-Other: 1', '"→"'])
def test_a_header_that_would_change_the_request_is_not_sent(text: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        pool = Server([], listening.getsockname()[1]).connections()
        with pytest.raises(NotUnderstood, match=r"ValueError|UnicodeEncodeError"):
            pool.send("GET", "/k", {"if-match": text})
        connection, _ = listening.accept()
        with connection:
            assert connection.recv(1) == b""  # nothing was sent before the connection was closed


def test_idle_connections_are_closed_with_their_pool() -> None:
    with serving([OK, OK]) as server:
        pool = server.connections()
        pool.send("GET", "/k", {}).body.read(5)
        idle = pool._idle[0]
        del pool
        assert idle.sock is None


def test_the_certificate_of_the_server_is_verified(tmp_path: Path) -> None:
    pem = tmp_path / "server.pem"
    words = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=127.0.0.1"
    more = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", f"{pem}", "-out", f"{tmp_path}/ca.pem"]
    subprocess.run([*words.split(), *more], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "ca.pem", pem)
    with serving([OK, OK], context=context) as server:
        url, timeouts = f"https://127.0.0.1:{server.port}", (HANG_S, HANG_S)
        trusting = Connections(url, ca_file=str(tmp_path / "ca.pem"), timeouts_s=timeouts, most_idle=1)
        assert trusting.send("GET", "/k", {}).body.read(5) == b"hello"
        assert trusting.send("GET", "/k", {}).body.read(5) == b"hello"
    with serving([OK], context=context) as server:
        url = f"https://127.0.0.1:{server.port}"
        for ca_file, error in ((None, ssl.SSLCertVerificationError), (str(tmp_path / "none.pem"), FileNotFoundError)):
            with pytest.raises(error):
                Connections(url, ca_file=ca_file, timeouts_s=timeouts, most_idle=1).send("GET", "/k", {})


def test_the_host_header_is_the_one_that_is_signed() -> None:
    with serving([OK]) as server:
        pool = server.connections()
        pool.host = "signed.example.com"
        pool.send("GET", "/k", {}).body.read(5)
    assert [line for line in server.asked[0][0].split("\r\n") if line.startswith("Host")] == [f"Host: {pool.host}"]


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("https://account.r2.cloudflarestorage.com", "account.r2.cloudflarestorage.com"),
        ("https://s3.example.com:443/", "s3.example.com"),
        ("http://Localhost:9000", "localhost:9000"),
        ("http://[::1]:80", "[::1]"),
    ],
)
def test_the_host_header_has_a_port_only_if_it_is_not_the_usual_one(url: str, host: str) -> None:
    assert Connections(url, ca_file=None, timeouts_s=(1, 1), most_idle=1).host == host
