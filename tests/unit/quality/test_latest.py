"""Which run ``latest.json`` names, and how the document is read and written."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from scoreline.storage.typed_json import MALFORMED
from scoreline.tasks.job.findings import Checks, Finding
from scoreline.tasks.quality.gate.latest import (
    MAX_CHANGES,
    MAX_RUNS,
    Change,
    Latest,
    Published,
    ResultFile,
    RunEntry,
    before,
    newest,
    noted,
    pointed,
    replaces,
)

AT = datetime(2026, 11, 25, 2, tzinfo=UTC)


def run(name: str, days: float = 0, *, slot: float | None = None, number: int = 1) -> RunEntry:
    """Return a run that was submitted some days later than `AT`, perhaps for a slot of another day."""
    return RunEntry(
        job_id=name,
        model="m@20260101T000000Z-00000",
        model_sha256="0" * 64,
        submitted=(AT + timedelta(days=days)).isoformat(),
        slot=None if slot is None else (AT + timedelta(days=slot)).isoformat(),
        number=number,
        rows=2,
        rejected=0,
    )


def published(name: str) -> Published:
    file = ResultFile(uri=f"s3://b/out/job_id={name}/part-00000.parquet", rows=2, bytes=9, sha256="1" * 64)
    return Published(results=f"s3://b/out/job_id={name}/", manifest_sha256="2" * 64, files=(file,))


def change(who: str = "checks") -> Change:
    return Change(action="finalize", at=AT.isoformat(), who=who)


def named(document: Latest, entry: RunEntry) -> Latest:
    return pointed(noted(document, entry), entry.job_id, published(entry.job_id), change())


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        (run("later", 1), True),
        (run("earlier", -1), False),
        (run("backfill", 5, slot=-3), False),
        (run("next-slot", 1, slot=1), True),
        (run("second-try", 0.5, slot=0, number=2), True),
        (run("first-try", -1, slot=0), False),
    ],
    ids=lambda value: value.job_id if isinstance(value, RunEntry) else "",
)
def test_a_run_replaces_only_an_older_one_by_slot_or_by_submission(other: RunEntry, expected: bool) -> None:
    document = named(Latest(), run("now", 0, slot=0))
    assert replaces(document, other, by_person=False) is expected
    assert replaces(document, other, by_person=True) is expected


def test_the_first_run_is_the_latest() -> None:
    assert replaces(Latest(), run("a"), by_person=False)


def test_after_a_person_went_back_only_a_newer_run_than_all_before_or_an_accepted_one_takes_over() -> None:
    document = noted(named(named(Latest(), run("a", 0)), run("c", 2)), run("c", 2))
    back = replace(pointed(document, "a", published("a"), change("alice")), floor=newest(document))
    assert not replaces(back, run("b", 1), by_person=False)
    assert not replaces(back, run("c", 2), by_person=False)
    assert replaces(back, run("d", 3), by_person=False)
    assert replaces(back, run("c", 2), by_person=True)


def test_the_run_before_is_the_newest_accepted_one() -> None:
    document = Latest()
    for entry in (run("a", 0), run("b", 1), replace(run("c", 2), decision="withdrawn"), run("d", 3)):
        document = noted(document, entry)
    found = before(document, run("d", 3).place)
    assert found is not None
    assert found.job_id == "b"
    assert before(document, run("a", 0).place) is None


def test_a_document_is_read_as_it_was_written() -> None:
    checks = Checks(findings=(Finding(check="rows", level="warn", message="few", value=1.5, limit="2"),))
    document = named(named(Latest(), run("a", 0, slot=0, number=2)), run("b", 1))
    document = replace(document, floor=newest(document), next="a")
    assert document.published is not None
    document = replace(document, published=replace(document.published, checks=checks, partition_by="day"))
    assert Latest.from_json(document.to_json()) == document
    assert Latest.from_json(Latest().to_json()) == Latest()
    many = replace(document, published=replace(published("b"), files=None))
    assert Latest.from_json(many.to_json()) == many
    assert json.loads(many.to_json())["files"] is None


def test_a_document_names_its_files_for_readers() -> None:
    raw = json.loads(named(Latest(), run("a")).to_json())
    assert raw["job_id"] == "a"
    assert [file["uri"] for file in raw["files"]] == ["s3://b/out/job_id=a/part-00000.parquet"]
    assert json.loads(Latest().to_json())["files"] == []


@pytest.mark.parametrize(
    "damage",
    [
        {"format": 2},
        {"format": None},
        {"job_id": "b"},
        {"job_id": 5},
        {"files": [{"uri": "x"}]},
        {"files": "x"},
        {"runs": [{"job_id": "a"}]},
        {"older_runs": "1"},
        {"history": [{"at": 1}]},
        {"floor": {"at": "yesterday"}},
        {"floor": []},
    ],
    ids=str,
)
def test_a_damaged_document_is_refused(damage: dict[str, object]) -> None:
    raw = json.loads(named(Latest(), run("a")).to_json()) | damage
    with pytest.raises(MALFORMED):
        Latest.from_json(json.dumps(raw).encode())


def test_a_malformed_time_is_refused() -> None:
    raw = json.loads(named(Latest(), run("a")).to_json())
    for field in ("submitted", "slot", "left"):
        broken = {**raw, "runs": [{**raw["runs"][0], field: "soon"}]}
        with pytest.raises(MALFORMED):
            Latest.from_json(json.dumps(broken).encode())


def test_the_document_stays_bounded_and_keeps_the_run_that_it_names() -> None:
    document = named(Latest(), run("first", 0))
    for number in range(1, MAX_RUNS + 20):
        document = noted(document, run(f"r{number}", number))
    assert len(document.runs) == MAX_RUNS
    assert document.older_runs == 20
    assert document.run is not None
    for number in range(MAX_CHANGES + 5):
        name = ("first", "r119")[number % 2]
        document = pointed(document, name, published(name), change())
    assert len(document.history) == MAX_CHANGES
    assert document.older_changes == MAX_CHANGES + 5 - MAX_CHANGES
    assert Latest.from_json(document.to_json()) == document


def test_a_change_says_who_and_which_run_was_there_before() -> None:
    document = named(named(Latest(), run("a", 0)), run("b", 1))
    assert [(item.before, item.after) for item in document.history] == [("a", "b"), (None, "a")]
    again = pointed(document, "b", published("b"), change())
    assert again.history == document.history


def test_only_runs_that_readers_take_or_may_still_read_are_kept() -> None:
    document = named(named(Latest(), run("a", 0)), run("b", 1))
    document = replace(noted(document, run("c", -5)), next="d")
    soon, later = AT + timedelta(hours=23), AT + timedelta(hours=25)
    assert [name for name in "abcde" if document.keeps(name, soon)] == ["a", "b", "d"]
    assert [name for name in "abcde" if document.keeps(name, later)] == ["b", "d"]
