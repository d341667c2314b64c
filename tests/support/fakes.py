"""A proxy between a test and a real service."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self


class CuttingProxy:
    """Passes bytes to a port of 127.0.0.1 and back, and closes the first connections in the middle of an answer.

    Parameters
    ----------
    port : int
        Port of the real server. After `target` is set to another port, new connections lead to that port.
    after : int
        Bytes of answers that a connection passes on before it is cut.
    times : int
        Connections to cut.
    answers : callable
        Takes bytes of an answer, and returns the bytes to pass on in their place.
    """

    def __init__(self, port: int, after: int = 0, times: int = 0, answers: Callable[[bytes], bytes] = bytes) -> None:
        self.target = port
        self._after = after
        self._answers = answers
        self.left = times
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            far = socket.create_connection(("127.0.0.1", self.target))
            threading.Thread(target=self._pass, args=(near, far, None), daemon=True).start()
            threading.Thread(target=self._pass, args=(far, near, self._after), daemon=True).start()

    def _pass(self, source: socket.socket, sink: socket.socket, budget: int | None) -> None:
        passed = 0
        try:
            while data := source.recv(65_536):
                passed += len(data)
                if budget is not None and passed > budget and self._may_cut():
                    break
                sink.sendall(data if budget is None else self._answers(data))
        except OSError:
            pass  # the thread of the other direction has closed both sockets
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def _may_cut(self) -> bool:
        with self._lock:
            self.left -= 1
            return self.left >= 0
