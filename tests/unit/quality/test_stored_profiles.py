"""Profiles that are read again, the last of which a process remembers."""

from __future__ import annotations

import json
import sys
import tracemalloc
import weakref
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from sklearn.linear_model import LogisticRegression

from scoreline.storage import keys
from scoreline.storage.errors import DocumentCorrupt
from scoreline.storage.objects.directory import DirectoryStore
from scoreline.storage.typed_json import decode_object
from scoreline.tasks.quality.gate import stored_profiles
from scoreline.tasks.quality.gate.stored_profiles import read_profile
from scoreline.tasks.quality.profiles.counting import profile_of
from scoreline.tasks.quality.profiles.profile import Profile
from scoreline.tasks.quality.report.collect import report_of
from scoreline.tasks.quality.report.html import render
from scoreline.testing import eager


def folder(number: int) -> str:
    return f"out/job_id=j{number}/"


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DirectoryStore:
    monkeypatch.setattr(stored_profiles, "_remembered", type(stored_profiles._remembered)())
    monkeypatch.setattr(stored_profiles, "_packed", type(stored_profiles._packed)())
    return DirectoryStore(tmp_path, "scoreline")


def write(store: DirectoryStore, number: int, *ages: int) -> None:
    document = {"format": 1, **profile_of(pa.table({"age": ages})).to_dict()}
    store.put(keys.results_profile(folder(number)), json.dumps(document).encode())


def test_the_same_document_is_decoded_once_and_another_one_in_its_place_is_read(store: DirectoryStore) -> None:
    write(store, 0, 30, 40)
    first = read_profile(store, folder(0))
    assert read_profile(store, folder(0)) is first
    write(store, 0, 50)
    assert read_profile(store, folder(0)).columns["age"].mean == 50.0
    store.put(keys.results_profile(folder(0)), b'{"format": 1, "rows"')
    with pytest.raises(DocumentCorrupt, match=r"_profile\.json"):
        read_profile(store, folder(0))


def test_only_a_few_profiles_of_ordinary_size_are_remembered(
    store: DirectoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(6):
        write(store, number, number)
    first = read_profile(store, folder(0))
    for number in (1, 2, 3, 0, 4, 5):
        read_profile(store, folder(number))
    assert read_profile(store, folder(0)) is first
    assert len(stored_profiles._remembered) == 4
    monkeypatch.setattr(stored_profiles, "_MAX_REMEMBERED_BYTES", 10)
    write(store, 0, 7)
    large = weakref.ref(read_profile(store, folder(0)))
    assert large() is None


def test_a_large_profile_is_decoded_once_while_it_is_in_use(
    store: DirectoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored_profiles, "_MAX_REMEMBERED_BYTES", 10)
    write(store, 0, 30, 40)
    first = read_profile(store, folder(0))
    assert read_profile(store, folder(0)) is first
    write(store, 0, 50)
    assert read_profile(store, folder(0)).columns["age"].mean == 50.0


def test_of_large_documents_the_last_two_are_remembered_packed(
    store: DirectoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored_profiles, "_MAX_REMEMBERED_BYTES", 10)
    decoded: list[bytes] = []

    def decode(data: bytes, instead: Callable[[dict[str, Any]], Any] | None) -> dict[str, object]:
        decoded.append(data)
        return decode_object(data, instead)

    monkeypatch.setattr(stored_profiles, "decode_object", decode)
    write(store, 0, 30, 40, 41)
    write(store, 1, 20)
    first, second = (read_profile(store, folder(number)).to_dict() for number in (0, 1))
    assert [read_profile(store, folder(number)).to_dict() for number in (0, 1)] == [first, second]
    assert len(decoded) == 2
    write(store, 1, 50)
    assert read_profile(store, folder(1)).columns["age"].mean == 50.0
    assert len(stored_profiles._packed) == 2
    assert read_profile(store, folder(0)).to_dict() == first
    assert len(decoded) == 4  # the profile that was used before the others is forgotten
    monkeypatch.setattr(stored_profiles, "_MAX_PACKED_BYTES", 10)
    write(store, 2, 7)
    for _ in range(2):
        assert read_profile(store, folder(2)).columns["age"].mean == 7.0
    assert len(decoded) == 6
    store.put(keys.results_profile(folder(0)), b'{"format": 1, "rows"')
    with pytest.raises(DocumentCorrupt, match=r"_profile\.json"):
        read_profile(store, folder(0))


def test_a_large_document_is_decoded_in_little_more_memory_than_it_takes(
    store: DirectoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored_profiles, "_MAX_REMEMBERED_BYTES", 10)
    values = np.random.default_rng(6).normal(size=(40, 3_000))
    profile = profile_of(pa.table({str(number): column for number, column in enumerate(values)}))
    store.put(keys.results_profile(folder(0)), body := profile.encode({"format": 1}))
    tracemalloc.start()
    try:
        found = read_profile(store, folder(0))
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert found.encode({"format": 1}) == body
    assert most < 5 * len(body)  # lists and dictionaries of all numbers would take 9 times as much


@pytest.mark.parametrize(("name", "value"), [("counts", 0), ("buckets", 1 << 70), ("level", 99)])
def test_a_large_document_with_made_up_numbers_is_read_as_a_small_one(
    store: DirectoryStore, monkeypatch: pytest.MonkeyPatch, name: str, value: int
) -> None:
    document = {"format": 1, **profile_of(pa.table({"age": [30.0]})).to_dict()}
    document["columns"][0]["histogram"][name] = value if name == "level" else [value]
    store.put(keys.results_profile(folder(0)), json.dumps(document).encode())
    found = []
    for most in (stored_profiles._MAX_REMEMBERED_BYTES, 10):
        monkeypatch.setattr(stored_profiles, "_MAX_REMEMBERED_BYTES", most)
        monkeypatch.setattr(stored_profiles, "_MAX_PACKED_BYTES", 0)
        try:
            found.append(json.dumps(read_profile(store, folder(0)).to_dict()))
        except DocumentCorrupt as error:
            found.append(str(error))
    assert found[0] == found[1]


def test_a_process_without_numpy_reads_a_large_document_each_time(
    store: DirectoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored_profiles, "_MAX_REMEMBERED_BYTES", 10)
    monkeypatch.setitem(sys.modules, "scoreline.tasks.quality.profiles.footers", None)
    write(store, 0, 30, 40, 41)
    for _ in range(2):
        assert read_profile(store, folder(0)).columns["age"].mean == 37.0
    assert not stored_profiles._packed


def test_the_report_of_a_job_needs_no_profile_to_be_read_again(
    tmp_path: Path, store: DirectoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored_profiles, "_MAX_REMEMBERED_BYTES", 10)
    found = list[tuple[str, bytes]]()
    read = stored_profiles._unpacked_or_decoded

    def count(name: tuple[str, bytes], decode: Callable[[], Profile]) -> Profile:
        found.append(name)
        return read(name, decode)

    monkeypatch.setattr(stored_profiles, "_unpacked_or_decoded", count)
    rows = pd.DataFrame({"x": np.random.default_rng(3).normal(size=2_000)})
    with eager(tmp_path) as client:
        client.models.publish("churn", LogisticRegression().fit(rows, rows["x"] > 0))
        client.put("in/rows.parquet", rows)
        for job_id in ("first", "second", "third"):
            client.submit("churn", "s3://scoreline/in/", output="s3://scoreline/out/", job_id=job_id)
            assert client.buckets.main.get(f"out/job_id={job_id}/_report.html").data
    assert [uri for uri, _ in found] == 2 * ["s3://scoreline/out/job_id=first/_profile.json"]  # for the checks
    assert not stored_profiles._in_use


def test_a_report_is_the_same_whether_the_profile_is_remembered_or_read(tmp_path: Path) -> None:
    rng, made = np.random.default_rng(3), datetime(2026, 11, 25, tzinfo=UTC)
    rows = pd.DataFrame({"x": rng.normal(size=3_000), "n": rng.integers(0, 9, 3_000)})
    with eager(tmp_path) as client:
        client.models.publish("churn", LogisticRegression().fit(rows, rows["x"] > 0))
        for job_id in ("first", "second"):
            client.put("in/rows.parquet", rows)
            client.submit("churn", "s3://scoreline/in/", output="s3://scoreline/out/", job_id=job_id)
            rows["x"] += 1
        remembered = read_profile(client.buckets.main, "out/job_id=second/")
        page = render(report_of(client.buckets, "second", made=made))
        stored_profiles._remembered.clear()
        assert read_profile(client.buckets.main, "out/job_id=second/") is not remembered
        assert read_profile(client.buckets.main, "out/job_id=second/").to_dict() == remembered.to_dict()
        stored_profiles._remembered.clear()
        assert render(report_of(client.buckets, "second", made=made)) == page
