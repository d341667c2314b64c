"""A whole table is replaced at once: what belongs to it is kept, or the replacement is refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from scoreline.storage.databases import connection
from scoreline.storage.errors import DatabaseUnavailable
from scoreline.tasks.databases import one_load
from scoreline.tasks.databases.part import PartLoader
from tests.support.loading import TABLE, Loading, loading
from tests.support.postgres import Database


@pytest.fixture
def loads(tmp_path: Path, database: Database) -> Iterator[Loading]:
    with loading(tmp_path, database) as found:
        yield found


DESCRIBED = """
SELECT c.relowner::regrole::text, (SELECT array_agg(acl::text ORDER BY acl::text) FROM unnest(c.relacl) acl),
    c.reloptions, obj_description(c.oid, 'pg_class'),
    (SELECT array_agg(i.indexrelid::regclass::text || ' ' || pg_get_indexdef(i.indexrelid) || coalesce(' -- ' ||
        obj_description(i.indexrelid, 'pg_class'), '')
        ORDER BY i.indexrelid::regclass::text) FROM pg_index i WHERE i.indrelid = c.oid),
    (SELECT array_agg(k.conname || ' ' || pg_get_constraintdef(k.oid) ORDER BY k.conname) FROM pg_constraint k WHERE
        k.conrelid = c.oid),
    (SELECT array_agg(a.attname || coalesce(a.attacl::text, '') || format_type(a.atttypid, a.atttypmod) ||
        coalesce(pg_get_expr(d.adbin, d.adrelid), '') || coalesce(col_description(c.oid, a.attnum), '') ORDER BY
        a.attnum) FROM pg_attribute a LEFT JOIN pg_attrdef d ON (d.adrelid, d.adnum) = (a.attrelid, a.attnum) WHERE
        a.attrelid = c.oid AND a.attnum > 0)
FROM pg_class c WHERE c.relname = 'scores'
"""


def test_a_table_is_replaced_at_once_and_keeps_what_belongs_to_it(
    loads: Loading, monkeypatch: pytest.MonkeyPatch
) -> None:
    for statement in (
        "CREATE TABLE customers AS SELECT n AS id FROM generate_series(0, 39) n",
        "ALTER TABLE customers ADD PRIMARY KEY (id)",
        "CREATE TABLE scores (id bigint CONSTRAINT mine PRIMARY KEY REFERENCES customers, prediction double precision "
        "CHECK (prediction > 0), noted timestamptz DEFAULT now()) WITH (fillfactor = 70)",
        "CREATE INDEX by_score ON scores (prediction DESC) WHERE prediction > 10",
        "CREATE INDEX twin_a ON scores (noted)",
        "CREATE INDEX twin_b ON scores (noted)",
        "COMMENT ON TABLE scores IS 'for the site'",
        "COMMENT ON COLUMN scores.prediction IS 'two x plus one'",
        "COMMENT ON INDEX by_score IS 'for the page'",
        "DROP ROLE IF EXISTS reader",
        "DROP ROLE IF EXISTS owner_of_scores",
        "CREATE ROLE reader",
        "CREATE ROLE owner_of_scores",
        "GRANT SELECT ON scores TO reader WITH GRANT OPTION",
        "GRANT UPDATE (prediction) ON scores TO reader",
        "GRANT SELECT ON scores TO PUBLIC",
        "ALTER TABLE scores OWNER TO owner_of_scores",
        "ALTER DEFAULT PRIVILEGES GRANT DELETE ON TABLES TO reader",
        "INSERT INTO customers VALUES (1000)",
        "INSERT INTO scores VALUES (1000, 5)",
    ):
        loads.database.run(statement)
    before = loads.database.run(DESCRIBED)
    seen: list[dict[int, Any]] = []
    load = PartLoader.load

    def watched(self: PartLoader, *arguments: Any) -> bool:
        done = load(self, *arguments)
        seen.append(loads.rows())
        return done

    monkeypatch.setattr(PartLoader, "load", watched)
    done = loads.load("a", mode="replace")
    assert done.state == "loaded", done.error
    assert seen == [{1000: 5.0}] * 4  # readers see the old table until the end
    assert loads.rows() == loads.scored("a")
    assert loads.database.run(DESCRIBED) == before
    left = loads.database.run(
        "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' ORDER BY 1"
    )
    assert [name for (name,) in left] == ["customers", "scoreline_loads", "scoreline_tables", "scores"]
    loads.database.run("DROP OWNED BY reader, owner_of_scores")


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("CREATE VIEW page AS SELECT * FROM scores", "the view page selects from it"),
        ("CREATE TABLE notes (id bigint REFERENCES scores)", "the foreign key notes_id_fkey refers to it"),
        ("ALTER TABLE scores ENABLE ROW LEVEL SECURITY", "it has row-level security"),
        ("ALTER TABLE scores ADD n serial", "it owns the sequence scores_n_seq"),
        ("ALTER TABLE scores ADD n int GENERATED ALWAYS AS IDENTITY", "it owns the sequence scores_n_seq"),
        ("CREATE PUBLICATION changes FOR TABLE scores", "the publication changes replicates it"),
        ("CREATE TABLE child () INHERITS (scores)", "it is partitioned, or inherits from others"),
        ("CREATE STATISTICS both_columns ON id, prediction FROM scores", "it has the extended statistics both_columns"),
        ("ALTER TABLE scores SET UNLOGGED", "it has no log"),
        ("CREATE RULE r AS ON DELETE TO scores DO INSTEAD NOTHING", "it has the rule r"),
        ("CREATE POLICY mine ON scores", "it has the policy mine"),
        (
            "CREATE TRIGGER t BEFORE UPDATE ON scores FOR EACH ROW EXECUTE FUNCTION "
            "suppress_redundant_updates_trigger()",
            "it has the trigger t",
        ),
        ("CREATE FUNCTION f(s scores) RETURNS int LANGUAGE sql AS 'SELECT 1'", "other objects depend on it"),
    ],
)
def test_a_table_is_not_replaced_if_something_would_be_lost(loads: Loading, statement: str, said: str) -> None:
    loads.database.run(TABLE)
    loads.database.run("INSERT INTO scores VALUES (1, 5)")
    loads.database.run(statement)
    done = loads.load("a", mode="replace")
    assert done.state == "failed"
    assert said in done.error
    assert loads.rows() == {1: 5.0}
    assert loads.database.run("SELECT relname FROM pg_class WHERE relname ~ '^scoreline_[0-9a-f]{16}'") == []


def test_a_replacement_that_died_after_the_swap_ends_when_it_is_tried_again(
    loads: Loading, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads.database.run(TABLE)
    loads.run("a", mode="replace")

    def die(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(one_load, "end_load", die)
    with pytest.raises(KeyboardInterrupt):
        loads.message("a")
    monkeypatch.undo()
    oid = loads.database.run("SELECT 'scores'::regclass::oid")
    loads.message("a")
    assert loads.status("a").state == "loaded"
    assert loads.rows() == loads.scored("a")
    assert loads.database.run("SELECT 'scores'::regclass::oid") == oid
    assert loads.database.run("SELECT ended FROM scoreline_tables") == [(True,)]


def test_a_long_transaction_of_a_reader_lets_the_swap_wait_and_does_not_fail_it(
    loads: Loading, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads.database.run(TABLE)
    loads.run("a", mode="replace")
    with loads.database.connect() as reader, reader.transaction():
        reader.execute("SELECT FROM scores")
        monkeypatch.setattr(connection, "LOCK_MS", 1)
        with pytest.raises(DatabaseUnavailable, match="canceling statement due to lock timeout"):
            loads.message("a")
        monkeypatch.undo()
        assert reader.execute("SELECT count(*) FROM scores").fetchone() == (0,)
    assert loads.status("a").state == "waiting"
    loads.message("a")
    assert loads.rows() == loads.scored("a")
