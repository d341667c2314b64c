"""Measure how fast one process reads Parquet from a store with 30 ms per request and 60 MB/s per connection.

The file is one that pandas would write: it has 18 columns, and row groups of 1,048,576 rows. Claim: at least 200 MB/s.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.measure import no_options, record_figure
from scoreline.storage.objects.r2 import R2Store
from scoreline.storage.prefetch import prefetched
from scoreline.storage.settings import R2Settings
from scoreline.storage.tables.base import Pinned, Span
from scoreline.storage.tables.parquet import ParquetFormat

ROWS, COLUMNS, GROUP_ROWS, RUNS, LIMIT_MB_S = 3_145_728, 18, 1_048_576, 3, -200.0
DELAY_S, RATE = 0.03, 60e6
_BLOCK_BYTES = 1 << 20
_DATA = Path(".cache/bench/reading.parquet")


class Server(BaseHTTPRequestHandler):
    """Answers GET and HEAD for the one file. `sendfile` leaves the processors to the process that is measured."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Send a range, as slowly as a distant store."""
        time.sleep(DELAY_S)
        size = _DATA.stat().st_size
        start, last = 0, size - 1
        if wanted := self.headers.get("Range"):
            start, last = map(int, wanted.removeprefix("bytes=").split("-"))
        self.send_response(206 if wanted else 200)
        self.send_header("ETag", '"1"')
        self.send_header("Content-Length", str(last + 1 - start))
        if wanted:
            self.send_header("Content-Range", f"bytes {start}-{last}/{size}")
        self.end_headers()
        if self.command == "HEAD":
            return
        self.wfile.flush()
        free = time.monotonic()
        with _DATA.open("rb") as file:
            while start <= last:
                sent = os.sendfile(self.connection.fileno(), file.fileno(), start, min(_BLOCK_BYTES, last + 1 - start))
                start += sent
                free += sent / RATE
                time.sleep(max(free - time.monotonic(), 0))

    do_HEAD = do_GET

    def log_message(self, *_: object) -> None:
        """Print nothing."""


def serve(pipe: Connection) -> None:
    """Serve until the process is ended, on a port that is sent through the pipe."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    pipe.send(server.server_port)
    server.serve_forever()


def measure(port: int) -> float:
    """Read the whole file, and return MB/s."""
    settings = R2Settings(endpoint_url=f"http://127.0.0.1:{port}", access_key_id="a", secret_access_key="b")
    store = R2Store(settings, "bucket")
    source = Pinned.of(store, store.head("reading.parquet"))
    formats = ParquetFormat()
    schema = formats.survey(source).schema
    span = Span(start=0, stop=ROWS, first_row=0, rows=ROWS, size=0)
    begun = time.perf_counter()
    batches: Any = formats.read(source, span, schema, 65_536)
    rows = sum(item.batch.num_rows for item in prefetched(batches))
    assert rows == ROWS
    return source.size / 1e6 / (time.perf_counter() - begun)


def main() -> None:
    """Measure and print."""
    no_options(__doc__)
    if not _DATA.exists():
        _DATA.parent.mkdir(parents=True, exist_ok=True)
        values = np.random.default_rng(0).normal(size=(COLUMNS, ROWS))
        table = pa.table([pa.array(column) for column in values], names=[f"x{number}" for number in range(COLUMNS)])
        pq.write_table(table, _DATA, row_group_size=GROUP_ROWS)
    here, there = multiprocessing.Pipe()
    server = multiprocessing.get_context("spawn").Process(target=serve, args=(there,), daemon=True)
    server.start()
    try:
        port = here.recv()
        speeds = [measure(port) for _ in range(RUNS)]
    finally:
        server.terminate()
        server.join()
    record_figure("reading", "MB/s that a process reads from a distant store", speeds, LIMIT_MB_S)


if __name__ == "__main__":
    main()
