"""Rows that a table has already are not sent, and all others are, whatever their types and values are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from scoreline.storage.errors import DatabaseUnavailable
from scoreline.tasks.databases.part import PartLoader
from scoreline.tasks.databases.part_rows import PartRows
from scoreline.tasks.databases.stored_column import StoredColumn
from scoreline.tasks.databases.stored_rows import StoredRows
from tests.support.loading import TABLE, Loading, loading
from tests.support.postgres import Database

WIDE = (
    "CREATE DOMAIN word AS text; CREATE TABLE wide (id integer PRIMARY KEY, i smallint, f real, b boolean, w word, "
    "v varchar(9), x double precision, prediction double precision)"
)
KEEP = ["id", "i", "f", "b", "w", "v", "x"]


@pytest.fixture
def loads(tmp_path: Path, database: Database) -> Iterator[Loading]:
    with loading(tmp_path, database) as found:
        yield found


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Provide a list that gets the number of rows of each COPY into a temporary table."""
    copy, found = PartRows.copy, list[int]()

    def noting(self: PartRows, connection: Any, pieces: Any, into: Any, row: str | None) -> None:
        pieces = list(pieces)
        if row is not None:
            found.append(sum(batch.num_rows for batch, _ in pieces))
        copy(self, connection, pieces, into, row)

    monkeypatch.setattr(PartRows, "copy", noting)
    return found


def frame() -> pd.DataFrame:
    """Return ten rows with missing, empty and special values, whose types fit the table ``wide``."""
    return pd.DataFrame(
        {
            "id": np.arange(10, dtype="int32")[::-1],
            "x": [0.1, -1.5, 2.0, 3.0, 1e300, 5.0, 6.0, 7.0, 8.0, 9.0],
            "i": pd.array([1, None, -3, 0, None, 5, 6, 7, 8, 9], "Int16"),
            "f": np.array([0.1, -0.0, np.inf, -np.inf, 4, 5, 6, 7, 8, 9], "float32"),
            "b": pd.array([True, False, None] * 3 + [True], "boolean"),
            "w": ["", None, "São Paulo", "x" * 300, "e", "f", "g", "h", "i", "j"],
            "v": ["a", "b", None, None, "é", "", "g", "h", "i", "j"],
        }
    )


def load(loads: Loading, job_id: str, rows: pd.DataFrame) -> list[tuple[Any, ...]]:
    """Load rows into the table ``wide``. Return it."""
    loads.run_rows(job_id, rows, into="wide", into_columns=[*KEEP[1:], "prediction"], keep=KEEP)
    loads.message(job_id)
    assert loads.status(job_id).state == "loaded", loads.status(job_id).error
    return loads.database.run("SELECT id, i, f, b, w, v, x, prediction FROM wide ORDER BY id")


def test_only_rows_that_differ_are_sent(loads: Loading, sent: list[int]) -> None:
    loads.database.run(WIDE)
    rows = frame()
    load(loads, "a", rows)
    sent.clear()
    whole = load(loads, "b", rows)
    assert sent == []
    # When others change, empty and remove values, then the rows concerned are sent, and are as before
    loads.database.run("UPDATE wide SET w = NULL WHERE w = ''; UPDATE wide SET i = 0 WHERE i IS NULL AND id = 8")
    loads.database.run("DELETE FROM wide WHERE id = 3; UPDATE wide SET v = 'a longer' WHERE id = 5")
    assert load(loads, "c", rows) == whole
    assert sent == [4]


def test_rows_that_are_appended_are_inserted_though_the_table_has_equal_ones(loads: Loading) -> None:
    loads.database.run("CREATE TABLE events (id bigint, prediction double precision)")
    rows = pd.DataFrame({"id": [1, 2], "x": [0.5, 1.5]})
    for job_id in ("a", "b"):
        loads.run_rows(job_id, rows, into="events", mode="append", into_columns=["prediction"], keep=["id"])
        loads.message(job_id)
        assert (loads.status(job_id).state, loads.status(job_id).rows) == ("loaded", 2)
    assert loads.database.run("SELECT count(*) FROM events") == [(4,)]


@pytest.mark.parametrize("column", ["i", "f", "b", "w", "v", "x"])
def test_a_change_of_any_column_is_found(loads: Loading, sent: list[int], column: str) -> None:
    loads.database.run(WIDE)
    rows = frame()
    whole = load(loads, "a", rows)
    loads.database.run(f"UPDATE wide SET {column} = DEFAULT WHERE id = 2")
    sent.clear()
    assert load(loads, "b", rows) == whole
    assert sent == [1]


def test_values_that_are_equal_are_not_sent_however_they_are_written(loads: Loading, sent: list[int]) -> None:
    loads.database.run(WIDE)
    rows = frame()
    floats = pa.array([np.nan, *rows["f"][1:]], pa.float32(), from_pandas=False)
    rows["f"] = pd.arrays.ArrowExtensionArray(floats)
    load(loads, "a", rows)
    loads.database.run("UPDATE wide SET f = 0 WHERE f = '-0'")
    sent.clear()
    load(loads, "b", rows)
    assert sent == []
    assert loads.database.run("SELECT f::text FROM wide WHERE id IN (8, 9) ORDER BY id") == [("0",), ("NaN",)]


def test_values_are_not_sent_after_a_key_was_missing_until_all_keys_are_there_again(
    loads: Loading, sent: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    loads.database.run(TABLE)
    assert loads.load("a").state == "loaded"
    loads.database.run("DELETE FROM scores WHERE id = 3")
    send, names = StoredColumn.sent, list[str]()

    def noting(self: StoredColumn, column: Any, *, is_key: bool) -> Any:
        names.append(self.name)
        return send(self, column, is_key=is_key)

    monkeypatch.setattr(StoredColumn, "sent", noting)
    sent.clear()
    assert loads.load("b").state == "loaded"
    assert sent == [1]
    assert (names.count("id"), names.count("prediction")) == (4, 3)
    assert loads.rows() == loads.scored("b")


def test_a_file_is_no_longer_compared_once_most_of_its_rows_differ(
    loads: Loading, sent: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scoreline.tasks.databases.part_rows.CHUNK_ROWS", 1)
    differing, compared = StoredRows.differing, list[int]()

    def noting(self: StoredRows, connection: Any, batch: Any) -> Any:
        compared.append(batch.num_rows)
        return differing(self, connection, batch)

    monkeypatch.setattr(StoredRows, "differing", noting)
    loads.database.run(TABLE)
    loads.database.run("INSERT INTO scores VALUES (99, 0)")
    assert loads.load("a").state == "loaded"
    assert (compared, sent) == ([10] * 4, [10] * 4)
    assert loads.rows() == loads.scored("a") | {99: 0.0}


def test_a_key_that_is_there_twice_is_found_although_its_first_row_is_stored(loads: Loading) -> None:
    loads.database.run(TABLE)
    loads.run_rows("a", pd.DataFrame({"id": range(10), "x": [float(n) for n in range(10)]}))
    loads.message("a")
    stored = loads.rows()
    x = [float(n) for n in range(9)] + [77.0]
    loads.run_rows("b", pd.DataFrame({"id": [*range(9), 3], "x": x}), max_rejected="1")
    loads.message("b")
    assert [(row["id"], row["scoreline_row"]) for row in loads.refused("b")] == [(3, 9)]
    assert loads.rows() == stored


def test_a_text_that_is_there_twice_is_found_although_its_first_row_is_stored(loads: Loading) -> None:
    loads.database.run("CREATE TABLE names (name text PRIMARY KEY, prediction double precision)")
    names = [*map(str, range(9)), "3"]
    for job_id, x in (("a", 3.0), ("b", 77.0)):
        rows = pd.DataFrame({"name": names, "x": [*map(float, range(9)), x]})
        loads.run_rows(job_id, rows, into="names", key=["name"], keep=["name"], max_rejected="1")
        loads.message(job_id)
        assert [(row["name"], row["scoreline_row"]) for row in loads.refused(job_id)] == [("3", 9)]
    assert loads.database.run("SELECT prediction FROM names WHERE name = '3'") == [(pytest.approx(7.0),)]


def test_texts_are_keys_whatever_names_the_table_has(loads: Loading, sent: list[int]) -> None:
    loads.database.run('CREATE TABLE "names in %" ("%s name" text PRIMARY KEY, "100%" double precision)')
    names = ["é", "e", "E", "", "z" * 100, "ä", "a b", "a", "\\", '"']
    rows = pd.DataFrame({"name": names, "x": [float(n) for n in range(10)]})
    for job_id in ("a", "b"):
        columns = ["%s name=name", "100%=prediction"]
        loads.run_rows(job_id, rows, into="names in %", key=["%s name"], into_columns=columns, keep=["name"])
        loads.message(job_id)
        assert loads.status(job_id).state == "loaded", loads.status(job_id).error
    assert sent == []
    assert dict(loads.database.run('SELECT * FROM "names in %"')) == pytest.approx(
        {name: 2.0 * n + 1 for n, name in enumerate(names)}
    )


def test_a_schema_may_have_a_percent_sign_in_its_name(loads: Loading, sent: list[int]) -> None:
    loads.database.run('CREATE SCHEMA "100%"')
    loads.database.run('CREATE TABLE "100%".scores (id bigint PRIMARY KEY, prediction double precision)')
    loads.settings = replace(loads.settings, allowed_tables=("100%.*",))
    for job_id in ("a", "b"):
        assert loads.load(job_id, into="100%.scores").state == "loaded", loads.status(job_id).error
        assert loads.rows('"100%".scores') == loads.scored(job_id)
    assert sent == []
    assert loads.load("c", into="100%.scores", mode="replace").state == "loaded", loads.status("c").error
    assert loads.rows('"100%".scores') == loads.scored("c")


def test_rows_that_the_server_returns_in_another_order_are_compared_by_their_keys(
    loads: Loading, sent: list[int]
) -> None:
    loads.database.run("CREATE TABLE scores (id bigint NOT NULL, prediction double precision)")
    loads.database.run("CREATE UNIQUE INDEX ON scores (id DESC)")
    rows = pd.DataFrame({"id": [1, 2], "x": [0.0, 1.0]})
    loads.run_rows("a", rows)
    loads.message("a")
    scored = loads.rows()
    # Given the values of the other key each, so that the column looks the same in the order of either side
    loads.database.run("TRUNCATE scores")
    loads.database.run("INSERT INTO scores VALUES (2, %s), (1, %s)", scored[1], scored[2])
    for job_id, rows_sent in (("b", [2]), ("c", [2])):
        loads.run_rows(job_id, rows)
        loads.message(job_id)
        assert loads.rows() == scored
        assert sent == rows_sent


def test_a_column_that_gets_another_type_meanwhile_is_not_filled_with_bits(
    loads: Loading, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads.database.run(TABLE)
    loads.run("a")
    load_part = PartLoader.load

    def between(self: PartLoader, *arguments: Any) -> bool:
        monkeypatch.setattr(PartLoader, "load", load_part)
        loads.database.run("ALTER TABLE scores ALTER id TYPE double precision")
        return load_part(self, *arguments)

    monkeypatch.setattr(PartLoader, "load", between)
    with pytest.raises(DatabaseUnavailable, match="were given other types meanwhile"):
        loads.message("a")
    loads.message("a")
    assert loads.rows() == loads.scored("a")


def test_keys_that_a_column_shortens_to_the_same_text_are_found(loads: Loading) -> None:
    loads.database.run("CREATE TABLE names (name varchar(3) PRIMARY KEY, prediction double precision)")
    loads.database.run("INSERT INTO names VALUES ('old', 0)")
    rows = pd.DataFrame({"name": ["abc", *map(str, range(8)), "abc "], "x": [float(n) for n in range(10)]})
    loads.run_rows("a", rows, into="names", key=["name"], keep=["name"], max_rejected="1")
    loads.message("a")
    assert loads.database.run("SELECT prediction FROM names WHERE name = 'abc'") == [(pytest.approx(1.0),)]
    assert [(row["name"], row["scoreline_row"]) for row in loads.refused("a")] == [("abc ", 9)]
