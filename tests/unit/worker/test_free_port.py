"""A free port stays free until the server for which it was chosen listens."""

from __future__ import annotations

import errno
import socket

import pytest

from scoreline.worker.dev.stack import free_port


def test_a_free_port_is_given_to_no_other_process_and_a_server_can_listen_on_it() -> None:
    port = free_port()
    with socket.socket() as other, pytest.raises(OSError, match="in use") as refused:
        other.bind(("127.0.0.1", port))
    assert refused.value.errno == errno.EADDRINUSE
    with socket.create_server(("127.0.0.1", port)) as server:  # sets SO_REUSEADDR
        assert server.getsockname()[1] == port
