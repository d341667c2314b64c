from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from scoreline.storage import keys
from scoreline.storage.objects.base import exists
from scoreline.tasks.alerts.sending import read_waiting
from scoreline.tasks.alerts.wording import body
from scoreline.tasks.dispatch.reconcile import reconcile_job
from scoreline.tasks.job.alert import EVENTS
from tests.support.gated import BLOCKS
from tests.support.loading import TABLE, Loading, loading
from tests.support.postgres import Database


@pytest.fixture
def loads(tmp_path: Path, database: Database) -> Iterator[Loading]:
    with loading(tmp_path, database) as found:
        yield found


def test_accepted_results_are_loaded_once_with_a_receipt_for_each_part(loads: Loading) -> None:
    loads.database.run(TABLE)
    done = loads.load("a")
    assert (done.state, done.parts, done.parts_done, done.rows, done.set_aside) == ("loaded", 4, 4, 40, 0), done.error
    assert loads.rows() == loads.scored("a")
    receipts = loads.database.run("SELECT part, rows, set_aside FROM scoreline_loads WHERE part >= 0 ORDER BY part")
    assert receipts == [(part, 10, 0) for part in range(4)]


def test_a_table_is_created_with_the_types_of_the_results_and_a_comment(loads: Loading) -> None:
    assert loads.load("a", create=True, into_columns=["b=prediction"]).state == "loaded"
    columns = loads.database.run(
        "SELECT column_name, data_type FROM information_schema.columns WHERE table_name = 'scores' ORDER BY 1"
    )
    assert columns == [("b", "double precision"), ("id", "bigint")]
    (comment,) = loads.database.run("SELECT obj_description('scores'::regclass)")[0]
    assert comment.startswith("Scores of line@")
    assert comment.endswith("first loaded by job a")


def test_rows_that_do_not_change_are_not_written_again(loads: Loading) -> None:
    loads.database.run(TABLE)
    loads.load("a")
    before = loads.database.run("SELECT id, xmin FROM scores ORDER BY id")
    loads.database.run("UPDATE scores SET prediction = 0 WHERE id = 7")
    assert loads.load("b").state == "loaded"
    after = loads.database.run("SELECT id, xmin FROM scores ORDER BY id")
    assert [new[0] for old, new in zip(before, after, strict=True) if old != new] == [7]
    assert loads.rows() == loads.scored("a")
    # And they are not even locked, which the server would write to its log
    assert loads.database.run("SELECT count(*) FROM scores WHERE xmax <> 0 AND id <> 7") == [(0,)]


def test_a_job_that_its_checks_block_is_loaded_once_a_person_accepts_it(loads: Loading) -> None:
    loads.database.run(TABLE)
    loads.gated.run("a", BLOCKS, into="scores", key=["id"], into_columns=["prediction"])
    loads.message("a")
    assert loads.rows() == {}
    loads.client.accept("a", "looked at it")
    loads.message("a")
    assert loads.rows() == loads.scored("a")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"into": "missing"}, "there is no table public.missing"),
        ({"into": "secret.scores"}, "table secret.scores is not in ALLOWED_TABLES of the workers: public.*"),
        ({"key": ["prediction"], "into_columns": ["id"]}, "no primary key or unique index on exactly prediction"),
        ({"into_columns": ["nothing"]}, "the results have no column 'nothing'; they have id, prediction"),
        ({"into_columns": ["other=prediction"]}, "table public.scores has no column 'other'"),
        ({"into_columns": ["whole=prediction"]}, "column 'whole' of table public.scores has whole numbers"),
        ({"database": "warehouse"}, "DATABASES_FILE of the workers has no database 'warehouse'; it has none"),
        ({"into": "seen"}, "public.seen is not a table"),
    ],
)
def test_what_does_not_fit_is_said_and_nothing_is_loaded(loads: Loading, options: dict[str, object], said: str) -> None:
    loads.database.run("CREATE TABLE scores (id bigint PRIMARY KEY, prediction double precision, whole int)")
    loads.database.run("CREATE VIEW seen AS SELECT * FROM scores")
    done = loads.load("a", **options)
    assert done.state == "failed"
    assert said in done.error
    assert loads.rows() == {}


def test_people_hear_of_a_load_that_has_failed_once_and_without_values(loads: Loading) -> None:
    loads.gated.at.engine.alerts = EVENTS
    loads.load("a")
    loads.message("a")
    main = loads.client.buckets.main
    (alert,) = (found for found in read_waiting(main) if found.event != "succeeded")
    assert (alert.event, alert.job_id, alert.group) == ("unloaded", "a", "line")
    assert alert.detail == (
        "Table public.scores: a database refuses a statement, or when a table does not fit the results"
    )
    assert "The results of the job a could not be loaded into a table. Table public.scores: " in body([alert], "")


def test_a_lost_message_is_sent_again_until_the_results_are_loaded(loads: Loading) -> None:
    loads.database.run(TABLE)
    loads.run("a")
    desk = loads.gated.at
    assert "load" in desk.names_sent()
    assert exists(loads.gated.main, keys.active("a"))
    # When the message and the ledger are lost
    desk.engine.ledger.forget("a")
    desk.engine.ledger.end_step("a", "load")
    reconcile_job(desk.engine, "a")
    assert "load" in desk.names_sent()
    # Then another message loads the results, and the job is done
    loads.message("a")
    assert loads.status("a").state == "loaded"
    assert not exists(loads.gated.main, keys.active("a"))
    reconcile_job(desk.engine, "a")
    assert "load" not in desk.names_sent()


def test_results_of_a_finished_job_are_loaded_when_somebody_asks(loads: Loading) -> None:
    loads.database.run(TABLE)
    loads.gated.run("a")
    assert loads.client.status("a").loads == ()
    asked = loads.client.load("s3://scoreline/out/", into="scores", key=["id"], columns=["prediction"])
    assert (asked.job_id, asked.loads[0].state) == ("a", "waiting")
    loads.message("a")
    assert loads.status("a").state == "loaded"
    assert loads.rows() == loads.scored("a")
    assert ("job.load", "a") in loads.gated.audited()
    # And asking again loads what is missing, which is nothing
    loads.client.load("a", into="scores", key=["id"], columns=["prediction"])
    loads.message("a")
    assert (loads.status("a").state, loads.status("a").number) == ("loaded", 2)
