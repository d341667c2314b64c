"""Several connections read the rows of one job, of one state of the database, into the same files."""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest

from scoreline.storage.databases.connection import connected
from scoreline.storage.errors import DatabaseError, DatabaseUnavailable, InvalidRequest
from scoreline.storage.prefetch import prefetched
from scoreline.tasks.databases.source import pieces, readers, reading, receiving, staging
from tests.support.postgres import Database
from tests.support.sources import Sources, sources
from tests.support.waiting import wait_until

ROWS = 20_000
LARGE = f"""
CREATE TABLE large AS SELECT (g * 7919) % 20011 AS id, g::float8 AS x, repeat('n', 90) AS name
FROM generate_series(1, {ROWS}) g
"""
QUERY = "SELECT id, x, name FROM large WHERE x > :least"
READERS = "SELECT pid FROM pg_stat_activity WHERE application_name = 'scoreline' AND datname = current_database()"

WAITING = f"{READERS} AND wait_event_type = 'Lock'"
GATE = """
CREATE FUNCTION gate(x float8) RETURNS float8 STABLE LANGUAGE plpgsql
AS 'BEGIN PERFORM pg_advisory_xact_lock_shared(7); RETURN x; END'
"""


@pytest.fixture
def source(tmp_path: Path, database: Database, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sources]:
    monkeypatch.setattr(pieces, "PIECE_BLOCKS", 40)
    monkeypatch.setattr(receiving, "BLOCK_BYTES", 64 << 10)
    with sources(tmp_path, database) as found:
        database.run(LARGE)
        yield found


def rows_of(source: Sources, connections: int, **more: Any) -> Any:
    """Read the table, or a query that is split by its key."""
    given: dict[str, Any] = {"timeout_s": 60, "what": "table public.large", "connections": connections} | more
    if "split_by" in given:
        return reading.read_rows(source.settings.source_address(None), QUERY, {"least": "0"}, **given)
    sql = 'SELECT * FROM "public"."large"'
    return reading.read_rows(source.settings.source_address(None), sql, {}, table="public.large", **given)


def files_of(source: Sources, connections: int, **more: Any) -> tuple[pa.Table, list[bytes]]:
    """Return rows in their order, and the files that are staged of them."""
    rows = pa.concat_tables(table for _, table in rows_of(source, connections, **more))
    attempt = f"{connections:016x}"
    _, files = staging.write_files(source.main, "a", attempt, prefetched(rows_of(source, connections, **more)))
    return rows, [source.main.get(file.key).data for file in files]


@pytest.mark.parametrize("split", [{}, {"split_by": "id"}])
def test_any_number_of_readers_stages_the_same_files(source: Sources, split: dict[str, str]) -> None:
    rows, files = files_of(source, 1, **split)
    assert sorted(rows["x"].to_pylist()) == list(range(1, ROWS + 1))
    for connections in (2, 5):
        again, others = files_of(source, connections, **split)
        assert again.equals(rows)
        assert others == files


def test_rows_of_a_table_are_in_the_order_of_its_blocks_and_of_a_query_by_ranges_of_its_key(source: Sources) -> None:
    in_blocks = [row[0] for row in source.database.run("SELECT x FROM large ORDER BY ctid")]
    found = pa.concat_tables(table for _, table in rows_of(source, 2))
    assert found["x"].to_pylist() == in_blocks
    found = pa.concat_tables(table for _, table in rows_of(source, 2, split_by="id"))
    ids = found["id"].to_pylist()
    least, most = min(ids), max(ids)
    step = -(-(most - least + 1) // pieces.KEY_PIECES)
    ranges = [(key - least) // step for key in ids]
    assert ranges == sorted(ranges)
    assert len(set(ranges)) == pieces.KEY_PIECES


def test_all_readers_see_the_state_of_the_first(source: Sources, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "BLOCKS_AHEAD", 1)  # the first reader leaves pieces to the others
    changed, opened = threading.Event(), itertools.count()

    @contextlib.contextmanager
    def late(address: Any) -> Iterator[Any]:
        if next(opened):
            assert changed.wait(60)
        with connected(address) as connection:
            yield connection

    monkeypatch.setattr(reading, "connected", late)
    rows = rows_of(source, 3)
    found = [table for _, table in islice(rows, 2)]
    source.database.run("UPDATE large SET x = -x")
    source.database.run("DELETE FROM large WHERE id % 2 = 0")
    source.database.run("INSERT INTO large SELECT g, -1, 'new' FROM generate_series(1, 5000) g")
    changed.set()
    wait_until(lambda: len(source.database.run(f"{READERS} AND query LIKE 'COPY%'")) == 3, "three readers")
    found += [table for _, table in rows]
    assert sorted(pa.concat_tables(found)["x"].to_pylist()) == list(range(1, ROWS + 1))


def test_rows_without_a_key_are_read_once(source: Sources) -> None:
    source.database.run("ALTER TABLE large ALTER id DROP NOT NULL; UPDATE large SET id = NULL WHERE x <= 10")
    found = pa.concat_tables(table for _, table in rows_of(source, 2, split_by="id"))
    assert (found.num_rows, found["id"].null_count) == (ROWS, 10)
    source.database.run("UPDATE large SET id = NULL")
    assert pa.concat_tables(table for _, table in rows_of(source, 2, split_by="id")).num_rows == ROWS
    source.database.run("DELETE FROM large")
    assert pa.concat_tables(table for _, table in rows_of(source, 2, split_by="id")).num_rows == 0
    assert pa.concat_tables(table for _, table in rows_of(source, 2)).num_rows == 0


@pytest.mark.parametrize("key", ["name", "nothing"])
def test_a_query_is_split_only_by_integers(source: Sources, key: str) -> None:
    with pytest.raises(InvalidRequest, match=f"split_by = '{key}' is no column of integers"):
        list(rows_of(source, 2, split_by=key))


def test_a_view_and_a_partitioned_table_are_read_as_one_piece(source: Sources) -> None:
    source.database.run("CREATE TABLE parted (id bigint, x float8) PARTITION BY RANGE (id)")
    source.database.run("CREATE TABLE part_1 PARTITION OF parted FOR VALUES FROM (0) TO (30000)")
    source.database.run("INSERT INTO parted SELECT id, x FROM large")
    source.database.run("CREATE VIEW seen AS SELECT * FROM large")
    source.database.run("CREATE TABLE child () INHERITS (large)")
    source.database.run("INSERT INTO child SELECT * FROM large WHERE x <= 10")
    for name, expected in (("parted", ROWS), ("seen", ROWS + 10), ("large", ROWS + 10)):
        rows = reading.read_rows(
            source.settings.source_address(None),
            f"SELECT * FROM public.{name}",
            {},
            timeout_s=60,
            what="table t",
            table=f"public.{name}",
            connections=3,
        )
        assert sum(table.num_rows for _, table in rows) == expected


def test_with_fewer_connections_than_allowed_the_others_read_all(source: Sources) -> None:
    source.database.run("CREATE ROLE few LOGIN CONNECTION LIMIT 1")
    source.database.run("GRANT SELECT ON large TO few")
    try:
        address = source.settings.source_address(None)
        url = address.url.replace("postgres@", "few@")
        rows = reading.read_rows(
            type(address)(name="few", url=url),
            "SELECT * FROM large",
            {},
            timeout_s=60,
            what="table t",
            table="public.large",
            connections=4,
        )
        assert sum(table.num_rows for _, table in rows) == ROWS
    finally:
        source.database.run("REVOKE SELECT ON large FROM few")
        source.database.run("DROP ROLE few")


@pytest.fixture
def gated(source: Sources) -> Iterator[dict[str, Any]]:
    """Arguments for a query whose readers stop in the second and third piece, until the fixture ends."""
    source.database.run(GATE)
    sql = "SELECT id, CASE WHEN id IN (2000, 3000) THEN gate(x) ELSE x END AS x FROM large"
    with source.database.connect() as holder:
        holder.execute("SELECT pg_advisory_lock(7)")
        yield {"query": sql, "parameters": {}, "timeout_s": 60, "what": "query q", "split_by": "id", "connections": 2}


def test_a_reader_that_dies_ends_the_attempt(source: Sources, gated: dict[str, Any]) -> None:
    rows = reading.read_rows(source.settings.source_address(None), **gated)
    assert [table.num_rows > 0 for _, table in islice(rows, 2)] == [False, True]
    wait_until(lambda: len(source.database.run(WAITING)) == 2, "two readers in the middle")
    source.database.run("SELECT pg_terminate_backend(%s)", source.database.run(WAITING)[1][0])
    with pytest.raises(DatabaseUnavailable, match="query q on the database SOURCE_DATABASE_URL"):
        list(rows)
    wait_until(lambda: not source.database.run(READERS), "the end of all readers")


def test_readers_that_are_not_read_to_their_end_end_on_the_server(source: Sources, gated: dict[str, Any]) -> None:
    rows = reading.read_rows(source.settings.source_address(None), **gated)
    assert [table.num_rows > 0 for _, table in islice(rows, 2)] == [False, True]
    wait_until(lambda: len(source.database.run(WAITING)) == 2, "two readers in the middle")
    rows.close()
    wait_until(lambda: not source.database.run(READERS), "the end of the queries on the server")


def test_all_pieces_together_have_the_time_of_one_query(source: Sources) -> None:
    sql = "SELECT id, x FROM large WHERE x > 0 AND (id % 500 <> 1 OR pg_sleep(0.2) IS NOT NULL)"
    given: dict[str, Any] = {"timeout_s": 1, "what": "query q", "split_by": "id", "connections": 1}
    with pytest.raises(DatabaseError, match="query q took longer than 1 s"):
        list(reading.read_rows(source.settings.source_address(None), sql, {}, **given))


def test_the_time_in_which_a_query_is_cut_is_part_of_its_time(source: Sources, monkeypatch: pytest.MonkeyPatch) -> None:
    now, cut = [0.0], pieces.pieces_of_query

    def slowly(*given: Any) -> list[str]:
        now[0] += 20
        return cut(*given)

    monkeypatch.setattr(reading, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(reading, "pieces_of_query", slowly)
    sql = "SELECT id, current_setting('statement_timeout') AS remaining FROM large"
    given: dict[str, Any] = {"timeout_s": 50, "what": "query q", "split_by": "id", "connections": 2}
    rows = reading.read_rows(source.settings.source_address(None), sql, {}, **given)
    assert set(pa.concat_tables(table for _, table in rows)["remaining"].to_pylist()) == {"30s"}
