"""Each object of an input is listed once, except for objects that dataset readers ignore."""

from __future__ import annotations

import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest

from scoreline.storage.objects.buckets import Buckets
from scoreline.storage.objects.directory import DirectoryStore
from scoreline.storage.tables.base import Pinned, Survey
from scoreline.storage.tables.options import ReadOptions
from scoreline.storage.tables.small_objects import Kept
from scoreline.tasks.inputs import listing
from scoreline.tasks.inputs.listing import list_inputs, survey_inputs
from tests.support.waiting import HANG_S


def listed(tmp_path: Path, *uris: str) -> list[str]:
    buckets = Buckets.from_env({"ENVIRONMENT": "development", "STORE_DIR": str(tmp_path), "R2_BUCKET": "data"})
    for key in ("in/b.csv", "in/a.csv", "in/_manifest.json", "in/.tmp/c.csv", "in/_rejected/r.parquet"):
        buckets.main.put(key, b"x\n1\n")
    return [item.key for item in list_inputs(buckets, uris)]


def test_an_object_that_several_inputs_match_is_listed_once(tmp_path: Path) -> None:
    assert listed(tmp_path, "s3://data/in/b.csv", "s3://data/in/", "s3://data/in/*.csv") == ["in/b.csv", "in/a.csv"]


def test_objects_and_folders_that_readers_skip_are_not_input(tmp_path: Path) -> None:
    assert listed(tmp_path, "s3://data/in/") == ["in/a.csv", "in/b.csv"]
    assert listed(tmp_path, "s3://data/in/*") == ["in/a.csv", "in/b.csv"]


class Begun:
    """A fake of formats and of the object cache. It counts the surveys that begin before the first survey ends."""

    orders = None

    def __init__(self, expected: int) -> None:
        self._meeting = threading.Barrier(expected)
        self._taken = 0
        self.ahead: list[int] = []

    def survey(self, *_: Any) -> Survey:
        """Wait until as many surveys are under way as expected."""
        self._meeting.wait(HANG_S)
        return Survey(schema=pa.schema([]), spans=())

    def begin(self, _: Any) -> None:
        """Keep nothing of an earlier job."""

    def reserve(self, _: Pinned) -> Kept:
        """Count an object. The last counted object may still wait for memory, so that its survey has not begun."""
        self._taken += 1
        return Kept.IN_MEMORY

    def add(self, _: Pinned, survey: Survey, kept: Kept) -> None:
        """Record how many surveys had begun when this survey ended."""
        self.ahead.append(self._taken - 1)


@pytest.mark.parametrize(("kind", "expected"), [("csv", 2), ("jsonl.gz", 2), ("arrow", 2), ("parquet", 8)])
def test_objects_that_are_read_whole_are_surveyed_two_at_a_time_and_footers_eight(
    tmp_path: Path, kind: str, expected: int
) -> None:
    store, begun = DirectoryStore(tmp_path, "data"), Begun(expected)
    objects = [Pinned(store=store, key=f"{number}.{kind}", size=1 << 30, etag="e") for number in range(3 * expected)]
    survey_inputs(begun, objects, ReadOptions(), (), begun)  # type: ignore[arg-type]
    assert begun.ahead[0] == expected


@pytest.mark.parametrize("kind", ["parquet", "csv"])
def test_an_object_is_named_before_it_is_decoded_and_the_next_one_only_afterwards(tmp_path: Path, kind: str) -> None:
    store, events = DirectoryStore(tmp_path, "data"), list[str]()
    objects = [Pinned(store=store, key=f"{number}.{kind}", size=1 << 30, etag="e") for number in range(3)]

    class Decoding:
        def survey(self, source: Pinned, *_: Any) -> Survey:
            assert threading.current_thread() is threading.main_thread()  # several threads would decode at once
            events.append(f"decodes {source.uri}")
            return Survey(schema=pa.schema([]), spans=())

    survey_inputs(Decoding(), objects, ReadOptions(), at_object=events.append)  # type: ignore[arg-type]
    assert events == [text for item in objects for text in (item.uri, f"decodes {item.uri}")]


def test_objects_are_not_named_if_surveying_them_one_after_another_would_take_too_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing, "MOST_NAMED", 2)
    store, named = DirectoryStore(tmp_path, "data"), list[str]()
    objects = [Pinned(store=store, key=f"{number}.parquet", size=1 << 30, etag="e") for number in range(3)]
    tables = SimpleNamespace(survey=lambda *_: Survey(schema=pa.schema([]), spans=()))
    survey_inputs(tables, objects, ReadOptions(), at_object=named.append)  # type: ignore[arg-type]
    assert named == []
    survey_inputs(tables, objects[:2], ReadOptions(), at_object=named.append)  # type: ignore[arg-type]
    assert named == [source.uri for source in objects[:2]]
