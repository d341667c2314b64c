"""Profiles that are read again, the last of which a process remembers."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from sklearn.linear_model import LogisticRegression

from scoreline.storage import keys
from scoreline.storage.errors import DocumentCorrupt
from scoreline.storage.objects.directory import DirectoryStore
from scoreline.tasks.quality.gate import stored_profiles
from scoreline.tasks.quality.gate.stored_profiles import read_profile
from scoreline.tasks.quality.profiles.counting import profile_of
from scoreline.tasks.quality.report.collect import report_of
from scoreline.tasks.quality.report.html import render
from scoreline.testing import eager


def folder(number: int) -> str:
    return f"out/job_id=j{number}/"


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DirectoryStore:
    monkeypatch.setattr(stored_profiles, "_remembered", type(stored_profiles._remembered)())
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
    assert read_profile(store, folder(0)) is not read_profile(store, folder(0))


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
