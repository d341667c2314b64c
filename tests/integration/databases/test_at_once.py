"""A part is copied into the table itself where that cannot differ from inserting its rows one by one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from scoreline.tasks.databases.part import PartLoader
from tests.support.loading import TABLE, Loading, loading
from tests.support.postgres import Database


@pytest.fixture
def loads(tmp_path: Path, database: Database) -> Iterator[Loading]:
    with loading(tmp_path, database) as found:
        yield found


@pytest.fixture
def inserted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Provide a list that gets the number of rows of each part which is not copied into the table itself."""
    insert, found = PartLoader._insert, list[int]()

    def noting(self: PartLoader, connection: Any, rows: int, *more: Any) -> None:
        found.append(rows)
        insert(self, connection, rows, *more)

    monkeypatch.setattr(PartLoader, "_insert", noting)
    return found


@pytest.mark.parametrize("mode", ["upsert", "append", "replace"])
def test_parts_are_copied_into_a_table_without_their_keys(loads: Loading, inserted: list[int], mode: str) -> None:
    loads.database.run(TABLE)
    key = None if mode == "append" else ["id"]
    done = loads.load("a", mode=mode, key=key, into_columns=["id", "prediction"])
    assert (done.state, done.rows, inserted) == ("loaded", 40, []), done.error
    assert loads.rows() == loads.scored("a")


def test_rows_that_others_write_meanwhile_get_the_values_of_the_job(
    loads: Loading, inserted: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    loads.database.run(TABLE)
    loads.run("a")
    load = PartLoader.load

    def between(self: PartLoader, connection: Any, part: int, file: Any) -> bool:
        if part == 1:
            loads.database.run("INSERT INTO scores VALUES (15, -1), (99, -1)")
        return load(self, connection, part, file)

    monkeypatch.setattr(PartLoader, "load", between)
    loads.message("a")
    assert (loads.status("a").state, loads.status("a").rows, inserted) == ("loaded", 40, [10])
    assert loads.rows() == loads.scored("a") | {99: -1.0}


def test_a_part_that_is_the_victim_of_a_deadlock_is_loaded_in_the_order_of_its_keys(
    loads: Loading, inserted: list[int]
) -> None:
    loads.database.run(TABLE)
    loads.database.run("CREATE SEQUENCE tries")
    loads.database.run(
        "CREATE FUNCTION quarrel() RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN IF nextval('tries') = 1 THEN RAISE "
        "EXCEPTION USING ERRCODE = '40P01', MESSAGE = 'deadlock detected'; END IF; RETURN true; END $$"
    )
    loads.database.run("ALTER TABLE scores ADD CHECK (id <> 15 OR quarrel())")
    done = loads.load("a")
    assert (done.state, done.rows, done.set_aside, inserted) == ("loaded", 40, 0, [10]), done.error
    assert loads.rows() == loads.scored("a")


@pytest.mark.parametrize(
    ("definition", "more"),
    [
        (TABLE, "INSERT INTO scores VALUES (99, -1)"),
        (TABLE, "CREATE RULE quiet AS ON INSERT TO scores WHERE new.id = 99 DO INSTEAD NOTHING"),
        (
            TABLE,
            "CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'; CREATE TRIGGER keep "
            "BEFORE INSERT ON scores FOR EACH ROW EXECUTE FUNCTION keep()",
        ),
        ("CREATE TABLE scores (id bigint UNIQUE, prediction float)", "SELECT 1"),
    ],
)
def test_other_tables_get_their_rows_by_insert(loads: Loading, inserted: list[int], definition: str, more: str) -> None:
    loads.database.run(definition)
    loads.database.run(more)
    done = loads.load("a")
    assert (done.state, done.rows, inserted) == ("loaded", 40, [10] * 4), done.error
    assert {n: score for n, score in loads.rows().items() if n != 99} == loads.scored("a")


def test_an_identity_column_that_is_always_generated_is_not_overwritten(loads: Loading) -> None:
    loads.database.run(
        "CREATE TABLE scores (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, prediction double precision)"
    )
    done = loads.load("a")
    assert (done.state, loads.rows()) == ("failed", {})
    assert "cannot insert a non-DEFAULT value into column" in done.error


def test_a_column_alone_keeps_texts_that_look_like_the_end_of_the_data(loads: Loading) -> None:
    texts = ["a", None, "\\.", "", "b\n\\.\nc", "\\N", '"', "\r\n", ",", " "]
    loads.database.run("CREATE TABLE texts (text text)")
    rows = pd.DataFrame({"id": range(10), "x": [float(n) for n in range(10)], "text": texts})
    loads.run_rows("a", rows, into="texts", mode="append", key=None, into_columns=["text"], keep=["text"])
    loads.message("a")
    assert loads.database.run("SELECT text FROM texts") == [(text,) for text in texts]
