"""A finalizer that is interrupted continues after the last block of parts that was checked."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from weakref import WeakSet

import pandas as pd
import pytest
from sklearn.linear_model import LinearRegression

from scoreline.storage import keys
from scoreline.storage.errors import StepUnfinished
from scoreline.storage.objects.base import ObjectInfo
from scoreline.storage.objects.directory import DirectoryStore
from scoreline.tasks.job.documents import Run
from scoreline.tasks.job.uris import parse_uri
from scoreline.tasks.steps import checked_blocks
from scoreline.tasks.steps.checked_blocks import CheckedParts, remove_blocks
from scoreline.tasks.steps.results_manifest import Entry
from scoreline.testing import eager

BLOCK = 10
RUN = Run(number=3)


def part(number: int) -> Entry:
    info = ObjectInfo(key=f"out/part-{number}", size=number, etag=f"e{number}", metadata={"rows": str(number)})
    return Entry(rows=number, rejected=1, text=f'{{"part": {number}}}', seconds="0.1", info=info)


class Check:
    """A fake check of a job's parts. The check takes a second for each part."""

    def __init__(self, parts: int, faults: tuple[int, ...] = ()) -> None:
        self.parts = parts
        self.faults = faults
        self.checked: list[int] = []

    def __call__(self, first: int) -> Iterator[Entry]:
        for number in range(first, self.parts):
            self.checked.append(number)
            yield Entry(failure="why") if number in self.faults else part(number)

    def clock(self) -> float:
        return float(len(self.checked))


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checked_blocks, "BLOCK_PARTS", BLOCK)
    monkeypatch.setattr(checked_blocks, "CHECK_S", 25.0)


@pytest.fixture
def store(tmp_path: Path) -> DirectoryStore:
    return DirectoryStore(tmp_path, "main")


def documents(parts: int, sha256: str = "p") -> Any:
    spec = SimpleNamespace(job_id="j")
    return SimpleNamespace(job=SimpleNamespace(spec=spec), plan=SimpleNamespace(parts=parts, sha256=sha256))


def parts_of(store: DirectoryStore, check: Check, run: Run = RUN, sha256: str = "p") -> CheckedParts:
    return CheckedParts(store, documents(check.parts, sha256), run, check, check.clock)


def attempts(store: DirectoryStore, check: Check, run: Run = RUN, sha256: str = "p") -> tuple[int, list[Entry]]:
    """Repeat the finalizer until an attempt completes, and return the number of attempts and the last result."""
    for number in range(1, 99):
        try:
            found = list(parts_of(store, check, run, sha256).check())
        except StepUnfinished:
            continue
        return number, found
    raise AssertionError("it does not end")


def listed(store: DirectoryStore) -> list[str]:
    return [info.key for info in store.list("jobs/")]


def test_each_part_is_checked_once_however_many_attempts_it_takes(store: DirectoryStore) -> None:
    check = Check(95)
    took, found = attempts(store, check)
    assert took == 4
    assert found == [part(number) for number in range(95)]
    assert check.checked == list(range(95))
    remove_blocks(store, documents(95), RUN)
    assert listed(store) == []


def test_a_worker_tries_again_when_a_step_is_unfinished() -> None:
    assert StepUnfinished("").transient


def test_an_attempt_that_is_killed_checks_only_its_last_block_again(store: DirectoryStore) -> None:
    check = Check(40)
    entries = CheckedParts(store, documents(40), RUN, check, lambda: 0.0).check()
    assert [next(entries) for _ in range(27)] == [part(number) for number in range(27)]
    entries.close()  # type: ignore[attr-defined]
    assert attempts(store, check)[1] == [part(number) for number in range(40)]
    assert check.checked == [*range(27), *range(20, 40)]


@pytest.mark.parametrize("parts", [1, BLOCK])
def test_a_job_of_few_parts_keeps_no_block(store: DirectoryStore, parts: int) -> None:
    assert attempts(store, Check(parts)) == (1, [part(number) for number in range(parts)])
    assert all(key == keys.checked("j", 3, 0) for key in listed(store))
    remove_blocks(store, documents(parts), RUN)
    assert listed(store) == []


def test_a_block_with_a_fault_is_checked_again_and_so_are_those_after_it(store: DirectoryStore) -> None:
    attempts(store, Check(40, faults=(15,)))
    assert listed(store) == [keys.checked("j", 3, 0)]
    again = Check(40)
    assert attempts(store, again)[1] == [part(number) for number in range(40)]
    assert again.checked == list(range(10, 40))


@pytest.mark.parametrize(("run", "sha256"), [(Run(number=4), "p"), (RUN, "other")])
def test_blocks_of_another_run_or_plan_do_not_count(store: DirectoryStore, run: Run, sha256: str) -> None:
    attempts(store, Check(20))
    again = Check(20)
    attempts(store, again, run, sha256)
    assert again.checked == list(range(20))


@pytest.mark.parametrize(
    "body",
    [b"", b"\x1f\x8b", b"rubbish", gzip.compress(b"{}", mtime=0)[:10] + 20 * b"\xff"],
    ids=["empty", "cut", "no gzip", "damaged"],
)
def test_a_block_that_cannot_be_read_is_checked_again(store: DirectoryStore, body: bytes) -> None:
    attempts(store, Check(30))
    store.put(keys.checked("j", 3, 1), body)
    again = Check(30)
    assert attempts(store, again)[1] == [part(number) for number in range(30)]
    assert again.checked == list(range(10, 30))


@pytest.mark.parametrize("parts", [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK])
def test_the_entries_of_all_parts_are_read_again_for_the_manifest(store: DirectoryStore, parts: int) -> None:
    checked = parts_of(store, Check(parts))
    assert list(checked.check()) == [part(number) for number in range(parts)]
    assert list(checked.entries()) == list(checked.entries()) == [part(number) for number in range(parts)]


def test_only_one_block_of_entries_is_in_memory(store: DirectoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    alive, most, begin = WeakSet[Entry](), 0, Entry.__init__

    def begun(entry: Entry, **values: Any) -> None:
        begin(entry, **values)
        alive.add(entry)

    monkeypatch.setattr(checked_blocks, "CHECK_S", 1e9)
    monkeypatch.setattr(Entry, "__init__", begun)
    monkeypatch.setattr(Entry, "__hash__", object.__hash__)
    checked = parts_of(store, Check(25 * BLOCK))
    for _ in chain(checked.check(), checked.entries()):
        most = max(most, len(alive))
    assert BLOCK <= most <= 2 * BLOCK + 1


def test_the_manifest_waits_for_another_attempt_if_a_block_was_deleted(store: DirectoryStore) -> None:
    check = Check(25)
    checked = parts_of(store, check)
    list(checked.check())
    store.delete(keys.checked("j", 3, 1))
    with pytest.raises(StepUnfinished, match="checked-3-00001"):
        list(checked.entries())
    again = parts_of(store, check)
    list(again.check())
    assert check.checked == [*range(25), *range(10, 25)]
    assert list(again.entries()) == [part(number) for number in range(25)]


def test_a_part_whose_results_are_not_arranged_keeps_only_its_line(store: DirectoryStore) -> None:
    line = Entry(rows=1, text="{}")
    checked = CheckedParts(store, documents(BLOCK), RUN, lambda _: iter(BLOCK * [line]))
    list(checked.check())
    assert list(checked.entries()) == BLOCK * [line]


def test_a_job_of_several_blocks_ends_and_leaves_none_behind(tmp_path: Path) -> None:
    with eager(tmp_path) as client:
        frame = pd.DataFrame({"x": [float(n) for n in range(35)]})
        client.models.publish("line", LinearRegression().fit(frame, frame["x"]))
        job = client.submit("line", client.put("in/a.parquet", frame), part_rows=1)
        assert (job.state, job.rows) == ("succeeded", 35)
        assert [key for key in (i.key for i in client.buckets.main.list("jobs/")) if "checked" in key] == []
        manifest = json.loads(client.buckets.main.get(keys.results_manifest(parse_uri(job.output)[1])).data)
        assert [entry["key"][-18:] for entry in manifest["parts"]] == [f"part-{n:05d}.parquet" for n in range(35)]
