"""The documents of two jobs in the bucket match their description on the reference page."""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from sklearn.linear_model import LinearRegression

import scoreline
from docs.generated import DOCS, fill
from scoreline.storage import keys
from scoreline.storage.models.manager import ModelStorageManager
from scoreline.storage.objects.base import ObjectStore
from scoreline.tasks.client import Client
from scoreline.worker.dev.stack import Stack
from tests.support.rejects import rejected_key
from tests.support.waiting import HANG_S, wait_until

PAGE = fill((DOCS / "reference/documents.md").read_text())
PLAIN, GATHERED = "documents-plain", "documents-gathered"
FOLDER = "documents/out/job_id={}/"
OF_DATABASES = {"query", "params", "table", "where_recent"}
"""Fields that only a job has that reads rows from a database."""
OF_SLOTS = {"schedule"}
"""Fields that only the job of a schedule's slot has."""
LEFT_OUT = {"loads", "reason", "summary", "results", "checks", "job"}
"""Fields that are absent unless the job failed, is a small job of records, has findings, or was loaded on request."""


def section(heading: str) -> str:
    found = re.search(rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    assert found, heading
    return found[1]


def rows_of(table: str) -> set[str]:
    """Return every name in the first column of the page's tables."""
    first = [line.split(" | ")[0] for line in table.splitlines() if line.startswith("| `")]
    return {name for cell in first for name in re.findall(r"`([^`]+)`", cell)}


def tables(heading: str) -> list[set[str]]:
    return [rows_of(block) for block in section(heading).split("\n\n") if "| `" in block]


@pytest.fixture(scope="module")
def bucket(worker: Stack) -> ObjectStore:
    client = Client.from_env(worker.environ)
    models = ModelStorageManager.from_env(worker.environ)
    challenger = models.publish("documents", LinearRegression().fit(pd.DataFrame({"x": [0.0, 1.0]}), [0.0, 2.0])).ref
    models.publish("documents", LinearRegression().fit(pd.DataFrame({"x": [0.0, 1.0]}), [0.0, 2.0]))
    store = client.buckets.main
    table = pd.DataFrame({"x": [*np.zeros(99), np.nan], "s": ["a", "b"] * 50}).to_parquet(index=False)
    store.put("documents/in.parquet", table)
    for job_id, gather in ((PLAIN, False), (GATHERED, True)):
        where = f"s3://{store.bucket}/documents/"
        client.submit(
            "documents",
            f"{where}in.parquet",
            output=f"{where}out/",
            job_id=job_id,
            gather=gather,
            group="pages",
            priority="high",
            max_processes=2,
            deadline="1d",
            checks="[columns.x]\nmax = 50\n[rejects]\nlevel = 'off'\n",
            profile="on",
            segment="s",
            challenger=challenger,
            only_changed=True,
            into="public.scores",
            key=["s"],
            into_columns=["prediction"],
            mode="append",
            create=True,
            database="warehouse",
            labels={"page": "documents"},
        )
        *_, last = client.watch(job_id, timeout_s=HANG_S)
        assert last.state == "partial"
    return store


@pytest.fixture
def document(bucket: ObjectStore) -> Callable[[str], Mapping[str, Any]]:
    return lambda key: json.loads(bucket.get(key).data)


@pytest.mark.parametrize("job_id", [PLAIN, GATHERED])
def test_documents_of_a_job_have_the_fields_of_the_page(document: Callable[..., Any], job_id: str) -> None:
    job = document(keys.job(job_id))
    fields, spec = tables("job.json")
    assert [set(job), set(job["spec"])] == [fields - OF_SLOTS, spec - OF_DATABASES]
    assert set(document(keys.outcome(job_id))) | {"not_carried"} == tables("outcome.json")[0] - LEFT_OUT


def test_a_plan_has_the_fields_of_the_page(bucket: ObjectStore) -> None:
    header, slices = tables("plan.json.gz")
    first = zlib.decompressobj(wbits=31)
    assert set(json.loads(first.decompress(bucket.get(keys.plan(PLAIN)).data))) == header
    assert {"etag", "first_row"} <= slices


def test_manifest_and_success_have_the_fields_of_the_page(document: Callable[..., Any]) -> None:
    plain, gathered = (document(keys.results_manifest(FOLDER.format(job_id))) for job_id in (PLAIN, GATHERED))
    (fields,) = tables("Results manifest")
    assert set(gathered) == fields
    assert set(plain) == fields - {"partition_by", "files"}
    prose = set(re.findall(r"`(\w+)`", section("Results manifest")))
    assert {*plain["parts"][0], *gathered["parts"][0], *plain["parts"][0]["source"][0]} <= prose
    plain, gathered = (document(keys.success(FOLDER.format(job_id))) for job_id in (PLAIN, GATHERED))
    (fields,) = tables("_SUCCESS")
    assert set(gathered) == fields
    assert set(plain) == fields - {"plan", "files"}


def test_a_comparison_has_the_fields_of_the_page(document: Callable[..., Any]) -> None:
    found = document(keys.comparison(FOLDER.format(PLAIN)))
    prose = set(re.findall(r"`(\w+)`", section("Challenger's results")))
    assert "failures" not in found, found["failures"]
    scores, segment = found["scores"]["prediction"], found["segments"]["a"]
    sums = {name for name in scores if name.endswith("_sum")}
    assert {*found, *segment, *scores} - sums <= prose


def test_latest_and_review_have_the_fields_of_the_page(
    worker: Stack, bucket: ObjectStore, document: Callable[..., Any]
) -> None:
    client = Client.from_env(worker.environ)
    client.reject(PLAIN, "for this page")
    client.accept(PLAIN, "for this page, too")
    client.accept(GATHERED, "it is the newest")
    fields, run = tables("latest.json")
    latest = document("documents/out/latest.json")
    optional = {"partition_by", "next", "floor"}
    assert set(latest) == fields - optional
    assert run - {"slot", "number", "left"} <= {name for entry in latest["runs"] for name in entry} <= run
    prose = set(re.findall(r"`(\w+)`", section("latest.json")))
    assert {*latest["files"][0], *latest["history"][0]} <= prose
    assert {set(document(keys.review(job_id))) == tables("review.json")[0] for job_id in (PLAIN, GATHERED)} == {True}


def test_outcomes_have_the_fields_of_the_page(
    worker: Stack, bucket: ObjectStore, document: Callable[..., Any], tmp_path: Any
) -> None:
    client = Client.from_env(worker.environ)
    (tmp_path / "labels.csv").write_text("s,y\na,1.5\nb,2.5\n")
    client.add_outcomes(f"s3://{bucket.bucket}/documents/out/", tmp_path / "labels.csv", key="s", target="y")
    found = document("documents/out/_outcomes/outcomes.json")
    head, run = tables("outcomes.json")
    assert set(found) == head
    assert run - {"scorer", "positive", "one_in", "runs"} == {name for item in found["runs"] for name in item}
    prose = set(re.findall(r"`(\w+)`", section("outcomes.json")))
    whole = found["runs"][0]["groups"][0]
    assert {*found["files"][0], *whole, *whole["metrics"]["rmse"], *whole["deciles"][0]} <= prose


def test_receipt_and_footer_have_the_fields_of_the_page(bucket: ObjectStore, tmp_path: Any) -> None:
    stored = bucket.get(keys.result_part(FOLDER.format(PLAIN), 0))
    assert set(stored.info.metadata) == set(re.findall(r"`([a-z0-9]+)`", section("Receipts").partition("A result")[0]))
    (tmp_path / "part").write_bytes(stored.data)
    footer = pq.read_metadata(tmp_path / "part").metadata
    assert {name.decode() for name in footer if name.startswith(b"scoreline.")} == tables("Receipts")[0]


def test_a_profile_has_the_fields_of_the_page(document: Callable[..., Any]) -> None:
    for job_id in (PLAIN, GATHERED):
        profile = document(keys.results_profile(FOLDER.format(job_id)))
        fields, of_column = tables("_profile.json")
        assert set(profile) == fields - {"other_segments"}
        assert {name for column in profile["columns"] for name in column} <= of_column
        assert {column["name"]: column["kind"] for column in profile["columns"]} == {
            "x": "feature",
            "s": "kept",
            "prediction": "score",
        }
        assert {name: segment["rows"] for name, segment in profile["segments"].items()} == {"a": 50, "b": 50}


def test_rejected_rows_have_the_columns_of_the_page(bucket: ObjectStore, tmp_path: Any) -> None:
    (tmp_path / "part").write_bytes(bucket.get(rejected_key(bucket, FOLDER.format(PLAIN))).data)
    assert set(pq.read_schema(tmp_path / "part").names) - {"x", "s"} == tables("Rejected rows")[0]


def test_a_model_has_the_fields_of_the_page(bucket: ObjectStore, document: Callable[..., Any]) -> None:
    key = next(info.key for info in bucket.list("models/documents/") if info.key.endswith("/manifest.json"))
    manifest = document(key)
    assert [set(manifest), set(manifest["artifacts"][0])] == tables("Model manifest")[:2]


def test_a_baseline_has_the_fields_of_the_page(worker: Stack, bucket: ObjectStore) -> None:
    rows = pd.DataFrame({"x": np.arange(20.0)})
    manager = scoreline.ModelStorageManager.from_env(worker.environ)
    made = manager.publish("documents-baseline", LinearRegression().fit(rows, rows["x"]), baseline=rows)
    data = bucket.get(f"models/{made.name}/{made.version}/baseline.json.gz").data
    of_profile = {"rows", "counted", "one_in", "columns"}
    assert set(json.loads(gzip.decompress(data))) == tables("Model manifest")[2] | of_profile


@pytest.mark.parametrize("job_id", [PLAIN, GATHERED])
def test_the_end_of_a_load_has_the_fields_of_the_page(
    document: Callable[..., Any], client: Client, job_id: str
) -> None:
    (load,) = wait_until(lambda: [load for load in client.status(job_id).loads if load.ended], "the end of the load")
    assert "has no database 'warehouse'" in load.error
    assert set(document(keys.load_ended(job_id, load.load_id))) == tables("Loads")[1]
