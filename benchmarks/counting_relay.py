"""A relay in front of an S3 server. It records each request, and the number of bytes that the server sends for it."""

from __future__ import annotations

import asyncio
import re
import threading
from dataclasses import dataclass
from types import TracebackType
from typing import Self
from urllib.parse import unquote, urlsplit

_CHUNK = 64 << 10
_METHODS = (b"GET ", b"HEAD ", b"PUT ", b"POST ", b"DELETE ")


@dataclass
class Request:
    """A request, and the number of bytes that the server sent for it."""

    method: str
    key: str
    """The key of the object; empty for a listing."""
    first: int | None = None
    last: int | None = None
    """The requested range of bytes; None for the whole object."""
    sent: int = 0

    @classmethod
    def of(cls, head: bytes) -> Request:
        r"""Parse the beginning of a request.

        >>> Request.of(b"GET /bucket/in/0.parquet HTTP/1.1\r\nRange: bytes=4-99\r\n\r\n")
        Request(method='GET', key='in/0.parquet', first=4, last=99, sent=0)
        """
        method, target = head.split(b" ", 2)[:2]
        _, _, key = unquote(urlsplit(target.decode()).path).lstrip("/").partition("/")
        span = re.search(rb"\r\nrange: *bytes=(\d+)-(\d+)\r\n", head, re.IGNORECASE)
        first, last = map(int, span.groups()) if span else (None, None)
        return cls(method.decode(), key, first, last)


class CountingRelay:
    """Runs a relay on a free port of 127.0.0.1 until its `with` block ends."""

    def __init__(self) -> None:
        self.server_port = 0
        """Port of the server, to be set before the first request."""
        self.requests: list[Request] = []
        """All requests, in the order in which they came."""

    def __enter__(self) -> Self:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        started = asyncio.run_coroutine_threadsafe(asyncio.start_server(self._relay, "127.0.0.1", 0), self._loop)
        self._server = started.result()
        self.port: int = self._server.sockets[0].getsockname()[1]
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        async def stop() -> None:
            self._server.close()
            while others := asyncio.all_tasks() - {asyncio.current_task()}:  # a task that ends may start another one
                for task in others:
                    task.cancel()
                await asyncio.gather(*others, return_exceptions=True)

        asyncio.run_coroutine_threadsafe(stop(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there, back = await asyncio.open_connection("127.0.0.1", self.server_port)
        except OSError:
            writer.close()
            return
        asked: list[Request] = []
        asking = asyncio.create_task(self._ask(reader, back, asked))
        try:
            await self._answer(there, writer, asked)
        finally:
            asking.cancel()
            for end in (writer, back):
                end.close()

    async def _ask(self, reader: asyncio.StreamReader, back: asyncio.StreamWriter, asked: list[Request]) -> None:
        """Pass requests on to the server, and record them. `asked` contains the requests of this connection."""
        while data := await reader.read(_CHUNK):
            if data.startswith(_METHODS):
                asked.append(Request.of(data))
                self.requests.append(asked[-1])
            back.write(data)
            await back.drain()
        back.close()

    async def _answer(self, there: asyncio.StreamReader, writer: asyncio.StreamWriter, asked: list[Request]) -> None:
        """Pass responses on.

        A response belongs to the last request, because a client waits for it before the next request.
        """
        while data := await there.read(_CHUNK):
            asked[-1].sent += len(data)
            writer.write(data)
            await writer.drain()
