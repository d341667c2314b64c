"""Several jobs, loads and messages work on one table, in every order: each key has the values of the newest job."""

from __future__ import annotations

import itertools
import math
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from sklearn.linear_model import LinearRegression

from scoreline.storage import keys
from scoreline.storage.databases import connection
from scoreline.storage.databases.settings import DatabaseSettings
from scoreline.storage.errors import DatabaseUnavailable, ProcessDied
from scoreline.storage.objects.base import exists
from scoreline.tasks import client as client_module
from scoreline.tasks.databases import loader, one_load
from scoreline.tasks.databases.one_load import Load
from scoreline.tasks.databases.part import PartLoader
from scoreline.tasks.dispatch import outcome as ending
from scoreline.tasks.dispatch.job_index import noting_end
from scoreline.tasks.dispatch.leases import STEP_ATTEMPTS
from scoreline.tasks.dispatch.reconcile import reconcile_job
from scoreline.tasks.quality.results.reading import Results, open_results
from scoreline.worker.dev.stack import free_port
from tests.support.gated import BLOCKS
from tests.support.loading import TABLE, Loading, loading
from tests.support.postgres import Database


@pytest.fixture
def loads(tmp_path: Path, database: Database) -> Iterator[Loading]:
    with loading(tmp_path, database) as found:
        yield found


def before_part(monkeypatch: pytest.MonkeyPatch, number: int, act: Callable[[], object]) -> None:
    """Let something happen once: before the n-th attempt to load a part."""
    load, attempts = PartLoader.load, itertools.count(1)

    def between(self: PartLoader, *arguments: Any) -> bool:
        if next(attempts) == number:
            act()
        return load(self, *arguments)

    monkeypatch.setattr(PartLoader, "load", between)


def test_rejected_rows_that_are_scored_again_replace_no_whole_table(loads: Loading) -> None:
    loads.database.run(TABLE)
    loads.run("a", mode="replace", broken=(3,), max_rejected="1")
    loads.message("a")
    assert sorted(loads.rows()) == [n for n in range(40) if n != 3]
    again = loads.score_rejected("a")
    loads.message(again)
    assert loads.status(again).state == "loaded"
    assert loads.rows() == pytest.approx(loads.scored("a") | {3: 1.0})


def test_rejected_rows_of_an_older_job_do_not_replace_the_values_of_a_newer_job(loads: Loading) -> None:
    loads.database.run(TABLE)
    x = [math.nan if n == 3 else float(n) for n in range(40)]
    loads.run_rows("old", pd.DataFrame({"id": range(40), "x": x}), max_rejected="1")
    loads.message("old")
    loads.load("new")
    again = loads.score_rejected("old")
    loads.message(again)
    assert loads.status(again).state == "superseded"
    assert loads.rows() == loads.scored("new")


def test_a_load_waits_for_another_load_of_the_same_job(loads: Loading, monkeypatch: pytest.MonkeyPatch) -> None:
    loads.database.run("CREATE TABLE scores (id bigint PRIMARY KEY, prediction float, other float)")
    loads.run("a")
    loads.client.load("a", into="scores", key=["id"], columns=["other=prediction"], mode="replace")

    def load_another() -> None:
        with pytest.raises(DatabaseUnavailable, match="another load of this job is being loaded into table"):
            loads.step("a", 1).run(float("inf"))

    before_part(monkeypatch, 3, load_another)
    loads.message("a")
    assert [found.state for found in loads.client.status("a").loads] == ["loaded", "loaded"]
    assert loads.database.run("SELECT count(*), count(other), count(prediction) FROM scores") == [(40, 40, 0)]


def test_files_that_another_message_has_loaded_are_not_fetched(loads: Loading, monkeypatch: pytest.MonkeyPatch) -> None:
    loads.database.run(TABLE)
    loads.run("a")
    opened, fetched = Results.opened, list[str]()

    def noting(self: Results, file: Any, *arguments: Any) -> Any:
        fetched.append(file.uri)
        return opened(self, file, *arguments)

    monkeypatch.setattr(Results, "opened", noting)
    before_part(monkeypatch, 2, lambda: loads.step("a", 0).run(float("inf")))
    loads.message("a")
    assert (len(set(fetched)), len(fetched)) == (4, 5)  # twice only the file that it was about to load
    assert (loads.status("a").state, loads.rows()) == ("loaded", loads.scored("a"))


def test_a_late_message_of_a_load_does_not_change_how_the_load_ended(
    loads: Loading, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads.database.run(TABLE)
    loads.run("a")

    def late(*arguments: Any) -> Any:
        monkeypatch.undo()
        loads.message("a")
        loads.load("b")
        return open_results(*arguments)

    monkeypatch.setattr(one_load, "open_results", late)
    loads.message("a", 1)  # it finds that job b was loaded
    assert (loads.status("a").state, loads.status("b").state) == ("loaded", "loaded")


def test_two_messages_that_both_replace_the_table_replace_it_once(
    loads: Loading, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads.database.run(TABLE)
    loads.run("a", mode="replace")
    complete = Load._complete

    def late(self: Load, *arguments: Any) -> None:
        monkeypatch.setattr(Load, "_complete", complete)
        loads.step("a", 0).run(float("inf"))
        complete(self, *arguments)

    monkeypatch.setattr(Load, "_complete", late)
    loads.message("a")
    done = loads.status("a")
    assert done.state == "loaded", done.error
    assert loads.rows() == loads.scored("a")


def test_a_load_whose_database_does_not_answer_holds_no_other_load_up(loads: Loading, tmp_path: Path) -> None:
    loads.database.run(TABLE)
    file = tmp_path / "databases.toml"
    file.write_text(f'closed = "postgresql://127.0.0.1:{free_port()}/shop"\n')
    loads.settings = DatabaseSettings.from_env(
        {"RESULTS_DATABASE_URL": loads.database.url, "ALLOWED_TABLES": "*.*", "DATABASES_FILE": str(file)}
    )
    loads.run("a", database="closed")
    loads.client.load("a", into="scores", key=["id"], columns=["prediction"])
    with pytest.raises(DatabaseUnavailable, match="the database closed: the connection failed"):
        loads.message("a")
    assert [found.state for found in loads.client.status("a").loads] == ["waiting", "loaded"]
    assert loads.rows() == loads.scored("a")


def test_each_lane_is_sent_once_and_gives_up_if_its_process_dies_again_and_again(
    loads: Loading, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads.database.run(TABLE)
    loads.run("a")
    desk = loads.gated.at
    desk.engine.ledger.note_processes(4, 600)
    desk.sent.clear()
    monkeypatch.setattr(PartLoader, "load", unavailable)
    for _ in range(3):
        with pytest.raises(DatabaseUnavailable):
            loads.message("a")
    assert desk.sent == [("scoreline.load", {"job_id": "a", "lane": 1})]
    for _ in range(3):  # a process that dies does not end its step
        desk.engine.ledger.begin_step("a", "load-1", 30)
    with pytest.raises(ProcessDied, match="died 3 times at the step 'load-1'"):
        loads.message("a", 1)


def unavailable(*_: Any) -> bool:
    raise DatabaseUnavailable("the database does not answer")


def test_a_load_that_is_requested_while_the_marker_is_removed_keeps_a_marker(
    loads: Loading, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads.database.run(TABLE)
    loads.run("a")

    def late(*arguments: Any) -> Any:
        monkeypatch.undo()
        loads.client.load("a", into="scores", key=["id"], columns=["prediction"])
        return noting_end(*arguments)

    monkeypatch.setattr(ending, "noting_end", late)
    loads.message("a")
    assert (loads.status("a").state, loads.status("a").number) == ("waiting", 2)
    assert exists(loads.gated.main, keys.active("a"))


def test_a_job_is_loaded_although_the_caller_dies_once_it_has_accepted_the_job(
    loads: Loading, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads.database.run(TABLE)
    loads.gated.run("a", BLOCKS, into="scores", key=["id"], into_columns=["prediction"])

    def die(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(client_module, "begin_loads", die)
    with pytest.raises(KeyboardInterrupt):
        loads.client.accept("a", "looked at it")
    loads.gated.at.sent.clear()
    assert exists(loads.gated.main, keys.active("a"))  # so that the reconciler looks at it
    reconcile_job(loads.gated.at.engine, "a")
    assert "load" in loads.gated.at.names_sent()


def test_a_table_that_is_dropped_and_made_again_in_a_load_gets_every_row(
    loads: Loading, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads.database.run(TABLE)
    loads.run("a")

    def make_again() -> None:
        loads.database.run("DROP TABLE scores")
        loads.database.run(TABLE)

    before_part(monkeypatch, 3, make_again)
    with pytest.raises(DatabaseUnavailable, match=r"public\.scores was dropped or replaced while it was loaded"):
        loads.message("a")
    loads.message("a")
    assert loads.status("a").state == "loaded"
    assert loads.rows() == loads.scored("a")


def test_a_table_that_would_replace_another_is_dropped_if_a_person_withdraws_the_results(
    loads: Loading, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads.database.run(TABLE)
    loads.run("a", mode="replace")
    before_part(monkeypatch, 4, lambda: loads.client.reject("a", "wrong"))
    loads.message("a")
    assert loads.rows() == {}
    assert loads.database.run("SELECT relname FROM pg_class WHERE relname ~ '^scoreline_[0-9a-f]{16}'") == []
    # And when the results are accepted again, all rows are loaded
    loads.client.accept("a", "right after all")
    loads.message("a")
    assert loads.rows() == loads.scored("a")


def test_a_statement_that_takes_too_long_lets_the_load_wait(loads: Loading, monkeypatch: pytest.MonkeyPatch) -> None:
    loads.database.run(TABLE)
    loads.database.run(
        "CREATE FUNCTION stall() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(86400); RETURN NEW; "
        "END $$"
    )
    loads.database.run("CREATE TRIGGER slow BEFORE INSERT ON scores FOR EACH ROW EXECUTE FUNCTION stall()")
    loads.run("a")
    monkeypatch.setattr(connection, "STATEMENT_MS", 200)
    with pytest.raises(DatabaseUnavailable, match="statement timeout"):
        loads.message("a")
    monkeypatch.undo()
    assert (loads.status("a").state, loads.rows()) == ("waiting", {})
    loads.database.run("DROP TRIGGER slow ON scores")
    loads.message("a")
    assert loads.rows() == loads.scored("a")


def test_a_row_that_others_keep_locked_lets_the_load_wait(loads: Loading, monkeypatch: pytest.MonkeyPatch) -> None:
    loads.database.run(TABLE)
    loads.database.run("INSERT INTO scores VALUES (15, -1)")
    loads.run("a")
    with loads.database.connect() as other, other.transaction():
        other.execute("UPDATE scores SET prediction = -2 WHERE id = 15")
        monkeypatch.setattr(connection, "LOCK_MS", 1)
        with pytest.raises(DatabaseUnavailable, match="canceling statement due to lock timeout"):
            loads.message("a")
        monkeypatch.undo()
    status = loads.status("a")
    assert (status.state, status.set_aside, loads.rows().get(15)) == ("waiting", 0, -2.0)
    loads.message("a")
    assert loads.rows() == loads.scored("a")


@pytest.mark.parametrize("modes", [("upsert", "upsert"), ("upsert", "replace"), ("replace", "upsert")])
def test_two_jobs_that_are_loaded_at_once_leave_the_values_of_the_newer_one(
    loads: Loading, modes: tuple[str, str]
) -> None:
    loads.database.run(TABLE)
    loads.run("old", mode=modes[0], broken=(3, 17), max_rejected="2")
    x = pd.DataFrame({"x": [0.0, 1.0]})
    loads.client.models.publish("line", LinearRegression().fit(x, [5.0, 9.0]))
    loads.run("new", mode=modes[1])
    loads.database.run("INSERT INTO scores SELECT n, -1 FROM generate_series(0, 39) n")
    faults: list[BaseException] = []
    start = threading.Barrier(4)

    def work(job_id: str, lane: int | None) -> None:
        start.wait()
        try:
            while not loads.status(job_id).ended:
                try:
                    loads.message(job_id, lane)
                except DatabaseUnavailable:  # the worker sends the message again
                    continue
        except BaseException as error:  # noqa: BLE001  # the test shows every fault
            faults.append(error)

    threads = [threading.Thread(target=work, args=(job, lane)) for job in ("old", "new") for lane in (None, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []
    assert loads.status("new").state == "loaded", loads.status("new").error
    assert loads.status("old").state in ("loaded", "superseded"), loads.status("old").error
    assert loads.rows() == loads.scored("new") == pytest.approx({n: 4.0 * n + 5 for n in range(40)})
    receipts = loads.database.run("SELECT count(*), sum(rows) FROM scoreline_loads WHERE job = 'new' AND part >= 0")
    assert receipts == [(4, 40)]


def test_a_table_that_would_replace_another_is_dropped_if_the_load_is_given_up(
    loads: Loading, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads.database.run(TABLE)
    loads.run("a", mode="replace")
    monkeypatch.setattr(PartLoader, "load", unavailable)
    with pytest.raises(DatabaseUnavailable):
        loads.message("a")
    tables = "SELECT count(*) FROM pg_class WHERE relname ~ '^scoreline_[0-9a-f]{16}$' AND relkind = 'r'"
    assert loads.database.run(tables) == [(1,)]
    loader.give_up(loads.gated.at.engine, loads.settings, "a", ProcessDied("it died"))
    assert (loads.status("a").state, loads.status("a").error) == ("failed", "it died")
    assert loads.database.run(tables) == [(0,)]


@pytest.mark.parametrize("mode", ["upsert", "replace"])
def test_a_disk_that_is_full_lets_the_load_wait_until_there_is_space(loads: Loading, mode: str) -> None:
    # Given a server that says, as with a full disk, that it cannot extend a file
    loads.database.run(TABLE)
    loads.database.run(
        "CREATE FUNCTION no_space() RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION USING "
        "ERRCODE = '53100', MESSAGE = 'could not extend file: No space left on device'; END $$"
    )
    loads.database.run("ALTER TABLE scores ADD CONSTRAINT disk CHECK (id <> 15 OR no_space())")
    loads.run("a", mode=mode, max_rejected="100%")
    with pytest.raises(DatabaseUnavailable, match="No space left on device"):
        loads.message("a")
    assert (loads.status("a").state, loads.status("a").set_aside) == ("waiting", 0)
    assert 15 not in loads.rows()
    # When there is space again
    new = loads.database.run("SELECT relname FROM pg_class WHERE relname ~ '^scoreline_[0-9a-f]{16}$'")
    for (table,) in [("scores",), *new]:
        loads.database.run(f"ALTER TABLE {table} DROP CONSTRAINT disk")
    loads.message("a")
    assert (loads.status("a").state, loads.status("a").set_aside) == ("loaded", 0)
    assert loads.rows() == loads.scored("a")


def deliver(loads: Loading) -> None:
    """Do the work of the messages that were sent, as workers without a reconciler would."""
    sent = loads.gated.at.sent
    while sent:
        name, arguments = sent.pop(0)
        assert name == "scoreline.load"
        loads.message(**arguments)


@pytest.mark.parametrize(("lane", "goes_on"), [(None, {}), (0, {}), (1, {"lane": 1})])
@pytest.mark.parametrize("options", [{"again": True}, {}, {"mode": "append"}])
def test_a_load_that_is_requested_while_another_is_under_way_begins_when_that_one_ends(
    loads: Loading,
    monkeypatch: pytest.MonkeyPatch,
    lane: int | None,
    goes_on: dict[str, Any],
    options: dict[str, Any],
) -> None:
    loads.database.run("CREATE TABLE scores (id bigint UNIQUE, prediction double precision)")
    loads.run("a")
    loads.gated.at.sent.clear()

    def request() -> None:
        loads.client.load("a", into="scores", key=["id"], columns=["prediction"], **options)

    before_part(monkeypatch, 4, request)
    if lane:
        loads.gated.at.engine.ledger.begin_step("a", "load", 60)  # its message is under way in another process
    loads.message("a", lane)
    # Then a message goes on with what was requested, and one that begins the load sends those of the other lanes
    assert loads.gated.at.sent == [("scoreline.load", {"job_id": "a"} | goes_on)]
    deliver(loads)
    *_, last = loads.client.status("a").loads
    assert (last.state, last.number) == ("failed", 1) if "mode" in options else ("loaded", 2), last.error
    assert loads.rows() == loads.scored("a")
    assert not exists(loads.gated.main, keys.active("a"))


def test_a_message_whose_files_another_lane_loads_is_not_sent_again(
    loads: Loading, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads.database.run(TABLE)
    loads.run("a")
    loads.gated.at.sent.clear()
    before_part(monkeypatch, 4, lambda: loads.message("a", 1))
    monkeypatch.setattr(Load, "_complete", lambda *_: None)  # neither of them ends the load
    loads.message("a")
    assert loads.gated.at.sent == []


def test_results_that_are_withdrawn_and_accepted_again_in_a_load_are_loaded(
    loads: Loading, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads.database.run(TABLE)
    loads.run("a")
    loads.gated.at.sent.clear()
    end, accepted = Load._load_files, list[object]()

    def late(self: Load, *arguments: Any) -> bool:
        left = end(self, *arguments)
        if not accepted:
            accepted.append(loads.client.accept("a", "right after all"))
        return left

    monkeypatch.setattr(Load, "_load_files", late)
    before_part(monkeypatch, 2, lambda: loads.client.reject("a", "wrong"))
    loads.message("a")
    deliver(loads)
    assert (loads.status("a").state, loads.rows()) == ("loaded", loads.scored("a"))


def test_results_that_are_accepted_again_once_a_message_has_loaded_nothing_are_loaded(loads: Loading) -> None:
    loads.database.run(TABLE)
    loads.run("a")
    loads.gated.at.sent[:] = [message for message in loads.gated.at.sent if message[0] == "scoreline.load"]
    loads.client._dispatcher.send = loads.gated.at.engine.send
    loads.client.reject("a", "wrong")
    deliver(loads)
    loads.client.accept("a", "right after all")
    deliver(loads)
    assert (loads.status("a").state, loads.rows()) == ("loaded", loads.scored("a"))


def test_a_load_that_is_requested_once_another_is_given_up_begins_at_once(loads: Loading) -> None:
    loads.database.run(TABLE)
    loads.run("a")
    engine = loads.gated.at.engine
    for _ in range(STEP_ATTEMPTS):  # a process that dies does not end its step
        engine.ledger.begin_step("a", "load", 60)
    with pytest.raises(ProcessDied) as died:
        loads.message("a")
    loader.give_up(engine, loads.settings, "a", died.value)
    loads.gated.at.sent.clear()
    loads.client._dispatcher.send = engine.send
    loads.client.resume("a")
    deliver(loads)
    assert (loads.status("a").state, loads.rows()) == ("loaded", loads.scored("a"))


def test_a_file_whose_lock_the_server_keeps_for_a_dead_process_is_tried_again_until_it_is_loaded(
    loads: Loading,
) -> None:
    loads.database.run(TABLE)
    loads.run("a")
    engine, step = loads.gated.at.engine, loads.step("a", 0)
    engine.ledger.begin_step("a", "load", 60)  # a process that dies does not end its step
    with loads.database.connect() as dead, dead.transaction():
        assert step.registry.claim(dead, 2)
        for _ in range(STEP_ATTEMPTS + 1):
            with pytest.raises(DatabaseUnavailable, match="another process loads the last files, or the server has"):
                loads.message("a")
        assert len(loads.rows()) == 30
    loads.message("a")
    assert (loads.status("a").state, loads.rows()) == ("loaded", loads.scored("a"))
