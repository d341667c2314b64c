"""Jobs that read their rows from a real database."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression
from sklearn.pipeline import make_pipeline

from scoreline.storage import keys
from scoreline.storage.errors import DatabaseError, DatabaseUnavailable, InvalidRequest, StoreUnavailable
from scoreline.storage.objects.base import exists
from scoreline.tasks.databases.source import staging
from scoreline.tasks.databases.source.reading import read_rows
from scoreline.tasks.job import staged
from scoreline.tasks.job.plan_file import PlanFile
from tests.support.postgres import Database
from tests.support.sources import Sources, sources
from tests.support.waiting import HANG_S, wait_until


@pytest.fixture
def source(tmp_path: Path, database: Database) -> Iterator[Sources]:
    with sources(tmp_path, database) as found:
        yield found


def test_a_job_scores_the_rows_of_a_query_with_bound_parameters(source: Sources) -> None:
    done = source.run("a", query="customers", params={"since": "2026-11-05"})
    assert (done.state, done.rows) == ("succeeded", 3), done.error
    assert source.scored("a") == {4: 9.0, 5: 11.0, 6: 13.0}
    assert source.staged("a").columns == {"id": "bigint", "x": "double precision", "name": "text"}
    # No document of the job has the SQL or the address
    everything = b"".join(source.main.get(info.key).data for info in source.main.list("jobs/a/"))
    assert b"SELECT" not in everything
    assert b"127.0.0.1" not in everything


def test_a_parameter_is_a_value_whatever_it_contains(source: Sources) -> None:
    with source.database.connect() as connection:
        connection.execute("UPDATE customers SET name = %s WHERE id = 2", ("x'); DROP TABLE customers; --",))
    sql = "SELECT id, x FROM customers WHERE name = :name AND id < :most LIMIT :rows"
    found = [
        table
        for _, table in read_rows(
            source.settings.source_address(None),
            sql,
            {"name": "x'); DROP TABLE customers; --", "most": "5", "rows": "9"},
            timeout_s=9,
            what="query q",
        )
    ]
    assert pa.concat_tables(found).to_pydict() == {"id": [2], "x": [2.0]}
    assert source.database.run("SELECT count(*) FROM customers") == [(6,)]


def test_a_parameter_is_compared_whole_with_a_column_of_fixed_length(source: Sources) -> None:
    source.database.run("CREATE TABLE codes AS SELECT 'ABC'::char(3) AS code, B'101'::bit(3) AS bits, 1.0::float8 AS x")
    sql = "SELECT x FROM codes WHERE code = :code AND bits = :bits"
    given = {"code": "ABC", "bits": "101"}
    rows = read_rows(source.settings.source_address(None), sql, given, timeout_s=9, what="query q")
    assert pa.concat_tables(table for _, table in rows).num_rows == 1


def test_a_table_is_read_whole_or_its_recent_rows(source: Sources) -> None:
    source.database.run("UPDATE customers SET joined = now() - (id || ' hours')::interval")
    assert source.run("a", table="public.customers").rows == 6
    assert source.run("b", table="public.customers", where_recent=["joined", "3h30m"]).rows == 3
    assert sorted(source.scored("b")) == [1, 2, 3]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"query": "nothing"}, "has no query 'nothing'; it has all, casts, customers, divides, missing, none, other, "),
        ({"query": "customers"}, "query customers needs the parameter since: add --param since=VALUE"),
        ({"query": "all", "params": {"day": "1"}}, "query all has no parameter day; it has none"),
        (
            {"query": "customers", "params": {"since": "secret"}},
            "the value of the parameter 'since' is not a timestamp",
        ),
        ({"query": "writes"}, "query writes writes, and jobs only read"),
        ({"query": "missing"}, 'query missing on the database SOURCE_DATABASE_URL: relation "clients" does not exist'),
        ({"query": "divides"}, "division by zero"),
        ({"query": "casts"}, 'invalid input syntax for type double precision: "…" (SQLSTATE 22P02)'),
        ({"query": "quotes"}, 'invalid input syntax for type double precision: "…" (SQLSTATE 22P02)'),
        ({"query": "other"}, "lacks 'x'"),
        ({"query": "warehouse"}, "DATABASES_FILE of the workers has no database 'warehouse'"),
        (
            {"table": "public.secrets"},
            "table public.secrets is not in ALLOWED_SOURCES of the workers: pub",
        ),
        ({"table": "public.customers", "where_recent": ["other", "1d"]}, 'column "other" does not exist'),
    ],
)
def test_what_cannot_be_read_fails_the_job_with_the_reason_and_no_value(
    source: Sources, options: dict[str, Any], said: str
) -> None:
    done = source.run("a", **options)
    assert done.state == "failed"
    assert said in done.error
    assert "secret'" not in done.error
    assert "name 1" not in done.error
    assert "quoted" not in done.error
    assert "127.0.0.1" not in done.error
    assert len(source.files("a")) == (options.get("query") == "other")  # whose rows could be read
    assert source.database.run("SELECT count(*) FROM customers") == [(6,)]


def test_a_query_ends_after_its_time(tmp_path: Path, database: Database) -> None:
    with sources(tmp_path, database, SOURCE_TIMEOUT_S="1") as source:
        done = source.run("a", query="slow")
        assert done.state == "failed"
        assert "query slow took longer than 1 s on the database SOURCE_DATABASE_URL" in done.error


def test_a_query_without_rows_makes_an_empty_job_that_says_so(source: Sources) -> None:
    done = source.run("a", query="none")
    assert (done.state, done.rows) == ("succeeded", 0), done.error
    assert PlanFile(source.main, "a").warnings == ("query none has no rows",)
    assert source.rows("a").schema.names == ["id", "x"]


def test_rows_are_read_once_so_that_a_later_step_sees_the_same(source: Sources) -> None:
    source.database.run("UPDATE customers SET x = NULL WHERE id IN (2, 5)")
    done = source.run("a", query="all", max_rejected="100%")
    assert (done.state, done.rejected) == ("partial", 2)
    source.database.run("UPDATE customers SET x = 50")
    first = source.staged("a")
    filled = make_pipeline(SimpleImputer(strategy="constant", fill_value=0.0), LinearRegression())
    source.client.models.publish("filled", filled.fit(pd.DataFrame({"x": [0.0, 1.0]}), [1.0, 3.0]))
    again = source.client.resume_rejected("a", model="filled")
    assert (again.rows, again.rejected) == (2, 0), again.error
    assert source.scored(again.job_id) == {2: 1.0, 5: 1.0}
    assert source.staged("a") == first
    assert not exists(source.main, keys.staged(again.job_id))


def test_an_attempt_that_lost_its_connection_is_made_again_whole(
    source: Sources, monkeypatch: pytest.MonkeyPatch
) -> None:
    source.database.run("INSERT INTO customers SELECT g, g, repeat('n', 90) FROM generate_series(7, 90000) g")
    monkeypatch.setattr(staging, "FILE_BYTES", 1)
    monkeypatch.setattr(staging, "GROUP_BYTES", 1 << 20)
    put = source.main.put
    ended: list[str] = []

    def end_connections(key: str, data: bytes, **more: Any) -> Any:
        if "/staged/" in key and not ended:
            ended.append(key)
            with source.database.server.connect() as connection:
                connection.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'scoreline'"
                )
        return put(key, data, **more)

    monkeypatch.setattr(source.main, "put", end_connections)
    with pytest.raises(DatabaseUnavailable, match="query all on the database SOURCE_DATABASE_URL"):
        source.run("a", query="all")
    assert ended
    assert source.files("a") == []
    done = source.run("a", query="all")
    assert (done.state, done.rows) == ("succeeded", 90000), done.error
    assert source.rows("a")["id"].to_pylist() == list(range(1, 90001))


def test_a_query_that_is_not_read_to_its_end_ends_on_the_server(source: Sources) -> None:
    sql = "SELECT repeat('x', 1000) FROM generate_series(1, 4220) UNION ALL SELECT pg_sleep(400)::text"
    rows = read_rows(source.settings.source_address(None), sql, {}, timeout_s=400, what="query q")
    assert [table.num_rows > 0 for _, table in islice(rows, 2)] == [False, True]
    (reader,) = source.database.run("SELECT pid FROM pg_stat_activity WHERE application_name = 'scoreline'")
    rows.close()
    still = "SELECT 1 FROM pg_stat_activity WHERE pid = %s"
    wait_until(lambda: not source.database.run(still, *reader), "the end of the query on the server")


def test_notices_of_the_server_do_not_disturb_the_rows(source: Sources) -> None:
    source.database.run(
        "CREATE FUNCTION noisy(g bigint) RETURNS bigint LANGUAGE plpgsql AS 'BEGIN RAISE WARNING ''r''; RETURN g; END'"
    )
    sql = "SELECT noisy(g) AS id FROM generate_series(1::bigint, 300) g"
    rows = read_rows(source.settings.source_address(None), sql, {}, timeout_s=60, what="query q")
    assert pa.concat_tables(table for _, table in rows)["id"].to_pylist() == list(range(1, 301))


def test_a_value_that_cannot_be_read_is_named_in_the_middle_of_the_rows(source: Sources) -> None:
    sql = (
        "SELECT CASE g WHEN 9 THEN 'NaN'::numeric ELSE 1 END::numeric(5, 2) AS c, repeat('x', 1000) AS d "
        "FROM generate_series(1, 100000) g"
    )
    rows = read_rows(source.settings.source_address(None), sql, {}, timeout_s=60, what="query q")
    with pytest.raises(InvalidRequest, match=r"column 'c' \(numeric\(5,2\)\) has a value that is no number"):
        list(rows)


def test_an_error_of_the_server_in_the_middle_of_the_rows_is_raised(source: Sources) -> None:
    sql = "SELECT 1 / (90000 - g) AS c, repeat('x', 1000) AS d FROM generate_series(1, 100000) g"
    rows = read_rows(source.settings.source_address(None), sql, {}, timeout_s=60, what="query q")
    assert [table.num_rows > 0 for _, table in islice(rows, 2)] == [False, True]
    with pytest.raises(DatabaseError, match="query q on the database SOURCE_DATABASE_URL: division by zero"):
        list(rows)


def test_rows_whose_document_was_written_without_an_answer_are_kept(
    source: Sources, monkeypatch: pytest.MonkeyPatch
) -> None:
    put = source.main.put

    def put_without_answer(key: str, data: bytes, **more: Any) -> Any:
        found = put(key, data, **more)
        if key == keys.staged("a"):
            raise StoreUnavailable("the bucket does not answer")
        return found

    with monkeypatch.context() as outage:
        outage.setattr(source.main, "put", put_without_answer)
        with pytest.raises(StoreUnavailable):
            source.run("a", query="all")
    done = source.run("a", query="all")
    assert (done.state, done.rows) == ("succeeded", 6), done.error


def test_files_of_an_attempt_that_died_are_never_read(source: Sources) -> None:
    dead = keys.staged_part("a", "0123456789abcdef", 0)
    source.main.put(dead, b"half of a file")
    done = source.run("a", query="all")
    assert (done.state, done.rows) == ("succeeded", 6), done.error
    assert dead not in source.files("a")


def test_two_attempts_at_once_read_the_rows_of_one(source: Sources, monkeypatch: pytest.MonkeyPatch) -> None:
    source.client.submission.dispatcher.send = lambda name, **_: None  # the job waits
    monkeypatch.setattr(source.client.submission.queue, "send", lambda name, **_: None)
    source.run("a", query="all")
    job, both = source.job("a"), threading.Barrier(2)
    read = staged.read_staged
    first = threading.local()

    def meet(main: Any, job_id: str) -> Any:
        if not hasattr(first, "met"):
            first.met = True
            both.wait(HANG_S)
        return read(main, job_id)

    monkeypatch.setattr(staging, "read_staged", meet)
    found: list[Any] = []
    threads = [
        threading.Thread(target=lambda: found.append(staging.staged_rows(source.main, lambda: source.settings, job)))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 2
    assert found[0] == found[1] == source.staged("a")
    assert source.files("a") == [file.key for file in found[0].files]


def test_a_trial_tells_rows_and_columns_and_writes_nothing(source: Sources, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in source.environ.items():
        monkeypatch.setenv(name, value)
    before = [info.key for info in source.main.list("")]
    found = source.client.preflight("line", query="customers", params={"since": "2026-11-04"})
    assert (found.rows, found.objects, found.features) == (4, 1, ("x",))
    assert found.kept == ("id", "name")
    assert [round(row["prediction"]) for row in found.sample] == [7, 9, 11, 13]
    assert [info.key for info in source.main.list("")] == before


def test_a_result_is_traced_to_the_row_that_was_read(source: Sources) -> None:
    source.run("a", query="all")
    (found,) = source.client.trace_key("a", {"id": "4"}, show=True)
    assert (found.input_row, found.input_state) == (3, "unchanged")
    assert found.input_values is not None
    assert found.input_values["name"] == "name 4"
    assert "/staged/" in found.input


def test_a_job_names_one_source(source: Sources) -> None:
    with pytest.raises(InvalidRequest, match="an input and a query or a table are both given"):
        source.client.submit("line", "s3://scoreline/in/", query="all")
    with pytest.raises(InvalidRequest, match="the job names no input"):
        source.client.submit("line")
    with pytest.raises(InvalidRequest, match="delimiter is for objects"):
        source.client.submit("line", query="all", delimiter=";")
