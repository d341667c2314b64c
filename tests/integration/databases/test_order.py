"""An older job never replaces the values of a newer one, whichever part of which job comes last."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from scoreline.storage.databases import connection
from scoreline.storage.errors import DatabaseUnavailable
from scoreline.tasks.databases.part import PartLoader
from tests.support.gated import BLOCKS
from tests.support.loading import TABLE, Loading, loading
from tests.support.postgres import Database


@pytest.fixture
def loads(tmp_path: Path, database: Database) -> Iterator[Loading]:
    with loading(tmp_path, database) as found:
        yield found


def change(loads: Loading) -> None:
    """Mark all rows, so that a later write is seen."""
    loads.database.run("UPDATE scores SET prediction = -1")


def test_an_older_job_that_is_accepted_late_is_superseded(loads: Loading) -> None:
    loads.database.run(TABLE)
    loads.gated.run("old", BLOCKS, into="scores", key=["id"], into_columns=["prediction"])
    assert loads.load("new").state == "loaded"
    change(loads)
    loads.client.accept("old", "looked at it")
    loads.message("old")
    status = loads.status("old")
    assert status.state == "superseded"
    assert "table public.scores has the values of job new, which is newer: they are kept" in status.error
    assert set(loads.rows().values()) == {-1.0}
    # A person may say otherwise, and then the older job's other lanes and messages go on
    loads.client.load("old", into="scores", key=["id"], columns=["prediction"], older=True)
    loads.message("old")
    assert loads.status("old").state == "loaded"
    assert loads.rows() == loads.scored("old")


def test_a_newer_job_waits_until_an_older_one_is_loaded(loads: Loading, monkeypatch: pytest.MonkeyPatch) -> None:
    loads.database.run(TABLE)
    loads.run("old")
    loads.run("new")
    with loads.database.connect() as holder, holder.transaction():
        holder.execute("LOCK TABLE scores")  # while this lasts, the old job begins and loads nothing
        monkeypatch.setattr(connection, "LOCK_MS", 1)
        with pytest.raises(DatabaseUnavailable, match="lock timeout"):
            loads.message("old")
        monkeypatch.undo()
        with pytest.raises(DatabaseUnavailable, match=r"job old is being loaded into table public\.scores"):
            loads.message("new")
    assert (loads.status("old").state, loads.status("new").state) == ("waiting", "waiting")
    loads.message("old")
    loads.message("new")
    assert (loads.status("old").state, loads.status("new").state) == ("loaded", "loaded")
    newest = loads.database.run("SELECT job, ended FROM scoreline_tables")
    assert newest == [("new", True)]


def test_a_late_part_of_an_older_job_finds_that_a_newer_job_has_begun(
    loads: Loading, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads.database.run(TABLE)
    loads.run("old")
    load = PartLoader.load

    def late(self: PartLoader, *arguments: object) -> bool:
        monkeypatch.setattr(PartLoader, "load", load)
        loads.gated.client.reject("old", "wrong")  # so that nobody waits for it
        loads.load("new")
        change(loads)
        return load(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(PartLoader, "load", late)
    loads.message("old")
    assert set(loads.rows().values()) == {-1.0}
    assert loads.database.run("SELECT DISTINCT job FROM scoreline_loads WHERE part >= 0") == [("new",)]


def test_two_messages_that_load_the_same_parts_at_once_load_each_part_once(loads: Loading) -> None:
    loads.database.run("CREATE TABLE scores (id bigint, prediction double precision)")
    loads.run("a", mode="append", key=None, into_columns=["id", "prediction"])
    start = threading.Barrier(3)
    faults: list[BaseException] = []

    def work(lane: int) -> None:
        start.wait()
        try:
            loads.message("a", lane)
        except BaseException as error:  # noqa: BLE001  # the test shows every fault
            faults.append(error)

    threads = [threading.Thread(target=work, args=(lane,)) for lane in (1, 2, 3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []
    loads.message("a")
    assert loads.status("a").state == "loaded"
    assert loads.rows() == loads.scored("a")
