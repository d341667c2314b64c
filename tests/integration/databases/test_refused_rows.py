"""Rows that a table refuses are set aside with a reason, and all others are loaded."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.support.loading import TABLE, Loading, loading
from tests.support.postgres import Database


@pytest.fixture
def loads(tmp_path: Path, database: Database) -> Iterator[Loading]:
    with loading(tmp_path, database) as found:
        yield found


def set_aside(loads: Loading) -> dict[int, tuple[str, str]]:
    """Return stage and reason of the rows that were set aside, by id."""
    found = {}
    for row in loads.refused("a"):
        assert row["scoreline_row"] == row["id"] % 10
        found[row["id"]] = (row["scoreline_stage"], row["scoreline_reason"])
    return found


@pytest.mark.parametrize(
    ("definition", "refused", "reason"),
    [
        ("prediction real", [], ""),
        (
            "prediction double precision CONSTRAINT small CHECK (prediction < 77.5)",
            [39],
            'new row for relation "scores" violates check constraint "small"',
        ),
        ("prediction numeric(3, 1)", [], ""),
        (
            "prediction numeric(2, 1)",
            [*range(5, 40)],
            "numeric field overflow",
        ),
        ("prediction bit(70)", [*range(40)], '"." is not a valid binary digit'),
    ],
)
def test_a_row_whose_value_the_column_refuses_is_set_aside(
    loads: Loading, definition: str, refused: list[int], reason: str
) -> None:
    loads.database.run(f"CREATE TABLE scores (id bigint PRIMARY KEY, {definition})")
    done = loads.load("a", max_rejected="100%")
    assert (done.state, done.rows, done.set_aside) == ("loaded", 40 - len(refused), len(refused)), done.error
    assert sorted(loads.rows()) == [n for n in range(40) if n not in refused]
    found = set_aside(loads)
    assert sorted(found) == refused
    if len(refused) < 40:
        assert set(found.values()) <= {("load", reason)}


def test_rows_that_a_foreign_key_or_a_trigger_refuses_are_set_aside(loads: Loading) -> None:
    loads.database.run("CREATE TABLE customers AS SELECT n AS id FROM generate_series(0, 39) n WHERE n <> 12")
    loads.database.run("ALTER TABLE customers ADD PRIMARY KEY (id)")
    loads.database.run(
        "CREATE TABLE scores (id bigint PRIMARY KEY REFERENCES customers DEFERRABLE INITIALLY DEFERRED, "
        "prediction double precision)"
    )
    loads.database.run(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF NEW.id IN (3, 31) THEN RAISE "
        "EXCEPTION 'customer % is frozen', NEW.id; END IF; RETURN NEW; END $$"
    )
    loads.database.run("CREATE TRIGGER guard BEFORE INSERT ON scores FOR EACH ROW EXECUTE FUNCTION refuse()")
    done = loads.load("a", max_rejected="3")
    assert (done.state, done.rows, done.set_aside) == ("loaded", 37, 3), done.error
    foreign = 'insert or update on table "scores" violates foreign key constraint "scores_id_fkey"'
    assert set_aside(loads) == {
        3: ("load", "customer 3 is frozen"),
        12: ("load", foreign),
        31: ("load", "customer 31 is frozen"),
    }


def test_a_load_stops_when_the_table_refuses_more_rows_than_the_job_allows(loads: Loading) -> None:
    loads.database.run("CREATE TABLE scores (id bigint PRIMARY KEY CHECK (id NOT IN (1, 2, 3)), prediction float)")
    done = loads.load("a", max_rejected="2")
    assert done.state == "failed"
    assert "the table refused more rows than the job may reject (2 of 40 rows); the last reason: " in done.error
    assert set(loads.rows()) & {*range(10)} == set()  # the part with these rows is not loaded in part
    # When the constraint is dropped, `resume` loads what is missing
    loads.database.run("ALTER TABLE scores DROP CONSTRAINT scores_id_check")
    loads.client.resume("a")
    loads.message("a")
    assert loads.status("a").state == "loaded"
    assert loads.rows() == loads.scored("a")


@pytest.mark.parametrize("mode", ["upsert", "replace"])
def test_a_row_without_key_and_a_key_that_is_there_twice_are_set_aside(loads: Loading, mode: str) -> None:
    loads.database.run("CREATE TABLE scores (id bigint PRIMARY KEY, prediction float)")
    ids = [0, 1, None, 1, 4, 4, None, 7, 8, 4, 10, 11]
    rows = pd.DataFrame({"id": pd.array(ids, "Int64"), "x": [float(n) for n in range(12)]})
    loads.run_rows("a", rows, mode=mode, max_rejected="100%")
    expected = {0: 1.0, 1: 3.0, 4: 9.0, 7: 15.0, 8: 17.0, 10: 21.0, 11: 23.0}
    reasons = {
        2: "the key 'id' is missing",
        6: "the key 'id' is missing",
        3: "an earlier row has the same key",
        5: "an earlier row has the same key",
        9: "an earlier row has the same key",
    }
    for number in (1, 2):  # when the first row of a key changes nothing, later rows of the key change nothing, too
        loads.message("a")
        done = loads.status("a")
        assert (done.state, done.number, done.rows, done.set_aside) == ("loaded", number, 7, 5), done.error
        assert loads.rows() == pytest.approx(expected)
        found = loads.refused("a")
        assert {row["scoreline_row"]: row["scoreline_reason"] for row in found} == reasons
        loads.client.load("a", into="scores", key=["id"], columns=["prediction"], mode=mode, again=True)


def test_parts_that_were_loaded_are_loaded_again_if_somebody_asks(loads: Loading) -> None:
    loads.database.run("CREATE TABLE scores (id bigint, prediction float UNIQUE)")
    loads.database.run("CREATE UNIQUE INDEX ON scores (id)")
    done = loads.load("a", key=["id"], into_columns=["prediction"])
    assert done.state == "loaded"
    loads.database.run("TRUNCATE scores")
    again = loads.client.load("a", into="scores", key=["id"], columns=["prediction"], again=True)
    assert [load.state for load in again.loads] == ["waiting"]
    loads.message("a")
    assert loads.rows() == loads.scored("a")


def test_137_rows_of_50_000_that_a_constraint_refuses_are_set_aside_and_all_others_loaded(loads: Loading) -> None:
    refused = np.random.default_rng(0).permutation(50_000)[:137].tolist()
    loads.database.run("CREATE TABLE bad AS SELECT unnest(%s::bigint[]) AS id", refused)
    loads.database.run(
        "CREATE FUNCTION is_bad(bigint) RETURNS boolean STABLE RETURN EXISTS (SELECT FROM bad WHERE id = $1)"
    )
    loads.database.run(TABLE)
    loads.database.run("ALTER TABLE bad ADD PRIMARY KEY (id)")
    loads.database.run("ALTER TABLE scores ADD CONSTRAINT sound CHECK (NOT is_bad(id))")
    rows = pd.DataFrame({"id": range(50_000), "x": np.arange(50_000.0)})
    loads.run_rows("a", rows, part_rows=50_000, max_rejected="137", parts=1)
    loads.message("a")
    done = loads.status("a")
    assert (done.state, done.rows, done.set_aside) == ("loaded", 50_000 - 137, 137)
    assert loads.database.run("SELECT count(*), round(sum(prediction)) FROM scores") == [
        (50_000 - 137, float(50_000 * 49_999 + 50_000 - 2 * sum(refused) - 137))
    ]
    assert sorted(row["id"] for row in loads.refused("a")) == sorted(refused)
