"""A relay in front of an S3 server, to imitate a distant one: each request waits, and connections have a limited rate.

It also counts the requests, and the bytes that the server sends.
"""

from __future__ import annotations

import asyncio
import threading
import time
from types import TracebackType
from typing import Self

_CHUNK = 64 << 10


class SlowStore:
    """Runs a relay on a free port of 127.0.0.1 until its `with` block ends.

    Parameters
    ----------
    delay_s : float
        Seconds that each request waits.
    rate : float
        Bytes per second of a connection; 0 for no limit.
    """

    def __init__(self, *, delay_s: float = 0.03, rate: float = 60e6) -> None:
        self.server_port = 0
        """Port of the server, to be set before the first request."""
        self._delay_s = delay_s
        self._rate = rate
        self.requests = 0
        self.sent = 0
        """Bytes of all answers."""

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
            others = asyncio.all_tasks() - {asyncio.current_task()}
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)

        asyncio.run_coroutine_threadsafe(stop(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there, back = await asyncio.open_connection("127.0.0.1", self.server_port)
        except OSError:
            writer.close()
            return
        asking = asyncio.create_task(self._ask(reader, back))
        try:
            await self._answer(there, writer)
        finally:
            asking.cancel()
            for end in (writer, back):
                end.close()

    async def _ask(self, reader: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        while data := await reader.read(_CHUNK):
            if data.startswith((b"GET ", b"HEAD ", b"PUT ", b"POST ", b"DELETE ")):
                self.requests += 1
                await asyncio.sleep(self._delay_s)
            back.write(data)
            await back.drain()
        back.close()

    async def _answer(self, there: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        free = 0.0
        while data := await there.read(_CHUNK):
            self.sent += len(data)
            if self._rate:
                now = time.monotonic()
                free = max(free, now) + len(data) / self._rate
                if free - now > 0.002:  # shorter waits would take longer than requested
                    await asyncio.sleep(free - now)
            writer.write(data)
            await writer.drain()
