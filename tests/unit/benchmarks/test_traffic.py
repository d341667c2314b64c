"""The requests of a job are divided into planning, reading the input, and all others."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.counting_relay import CountingRelay, Request
from benchmarks.traffic import Layout, layout_of, traffic


def requested(method: str, key: str, sent: int, first: int | None = None, last: int | None = None) -> Request:
    return Request(method=method, key=key, first=first, last=last, sent=sent)


JOB = [
    requested("HEAD", "in/a/0.parquet", 200),
    requested("GET", "in/a/0.parquet", 1_000_000, 900, 999),
    requested("PUT", "jobs/x/job.json", 100),
    requested("PUT", "jobs/x/plan.json.gz", 100),
    requested("GET", "jobs/x/plan.json.gz", 3_000_000),
    requested("GET", "in/a/0.parquet", 4_000_000, 4, 103),
    requested("GET", "in/a/0.parquet", 5_000_000, 90, 303),
    requested("GET", "in/a/0.parquet", 6_000_000, 304, 503),
    requested("GET", "in/ab/0.parquet", 100),
    requested("PUT", "out/part-0.parquet", 100),
]
TWO_GROUPS = Layout(needed=500, objects=1, groups={"0.parquet": [(4, 303), (304, 503)]})


def test_reading_is_counted_apart_from_planning_and_from_all_else() -> None:
    found = traffic(JOB, "in/a/", TWO_GROUPS)
    assert (found.plan_requests, found.read_requests, found.other_requests) == (2, 3, 5)
    assert found.read_mb == pytest.approx(15)
    assert found.plan_mb == pytest.approx(1, rel=1e-3)
    assert found.other_mb == pytest.approx(3, rel=1e-3)


def test_the_row_group_with_most_requests_is_found() -> None:
    assert traffic(JOB, "in/a/", TWO_GROUPS).group_requests == 2


def test_the_layout_is_that_of_the_footers(tmp_path: Path) -> None:
    table = pa.table({name: np.random.default_rng(0).normal(size=1_000) for name in "ab"})
    pq.write_table(table, tmp_path / "0.parquet", row_group_size=400)
    found = layout_of(tmp_path)
    assert found.objects == 1
    assert len(found.groups["0.parquet"]) == 3
    first, last = found.groups["0.parquet"][0]
    assert first == 4
    assert found.groups["0.parquet"][1][0] == last + 1
    assert found.largest_group == last + 1 - first
    assert 16_000 < found.needed < (tmp_path / "0.parquet").stat().st_size


def test_a_text_is_needed_as_a_whole(tmp_path: Path) -> None:
    (tmp_path / "0.csv").write_text("a\n1\n")
    assert layout_of(tmp_path) == Layout(needed=4, objects=1, groups={})


def test_the_relay_notes_each_request_with_the_bytes_of_its_answer() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for body in (b"one", b"and two"):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\n\r\n" + body)
            await writer.drain()
        writer.close()

    async def ask(relay: CountingRelay) -> None:
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        relay.server_port = server.sockets[0].getsockname()[1]
        reader, writer = await asyncio.open_connection("127.0.0.1", relay.port)
        writer.write(b"GET /bucket/in/a%20b HTTP/1.1\r\nRange: bytes=0-2\r\n\r\n")
        await reader.readexactly(len(b"HTTP/1.1 200 OK\r\n\r\none"))
        writer.write(b"GET /bucket?list-type=2 HTTP/1.1\r\n\r\n")
        await reader.read()
        writer.close()
        server.close()

    with CountingRelay() as relay:
        asyncio.run(ask(relay))
    assert relay.requests == [
        Request(method="GET", key="in/a b", first=0, last=2, sent=22),
        Request(method="GET", key="", first=None, last=None, sent=26),
    ]
