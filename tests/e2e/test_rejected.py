"""A job says why rows could not be scored, and scores them again once the cause is fixed."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from datetime import date

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from sklearn.compose import make_column_transformer
from sklearn.linear_model import LinearRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OrdinalEncoder

from scoreline.storage import keys
from scoreline.storage.models.manager import ModelStorageManager
from scoreline.storage.objects.base import ObjectStore
from scoreline.tasks.client import Client
from scoreline.tasks.job.uris import parse_uri
from scoreline.tasks.rejects.report import MAX_REASONS, OTHER, Tally
from scoreline.worker.dev.stack import Stack
from tests.support.rejects import rejected_key
from tests.support.waiting import HANG_S

Put = Callable[..., str]
Cli = Callable[..., subprocess.CompletedProcess[str]]

ROWS = 400


def tariff(**how: object) -> Pipeline:
    """Fit a model that refuses NaN, and refuses unknown plans with an error that contains the plan's name."""
    frame = pd.DataFrame({"plan": ["a", "b"], "x": [0.0, 1.0]})
    encode = make_column_transformer((OrdinalEncoder(**how), ["plan"]), remainder="passthrough")
    return make_pipeline(encode, LinearRegression()).fit(frame, [0.0, 2.0])


@pytest.fixture(scope="module")
def job(worker: Stack) -> str:
    """Run a job in which 20 rows each have another unknown value of `plan`, and three rows lack a number."""
    client, models = Client.from_env(worker.environ), ModelStorageManager.from_env(worker.environ)
    models.publish("tariff", tariff(), alias="champion")
    frame = pd.DataFrame({"row": np.arange(ROWS) + 10_000, "plan": ["a", "b"] * (ROWS // 2), "x": 1.0})
    frame.loc[frame.index[5::20], "plan"] = [f"plan {number}" for number in range(20)]
    frame.loc[[100, 101, 350], "x"] = np.nan
    for number, half in enumerate((frame[: ROWS // 2], frame[ROWS // 2 :])):
        client.buckets.main.put(f"in/tariff/{number}.parquet", half.to_parquet(index=False))
    client.submit("tariff@champion", "s3://scoreline/in/tariff/", job_id="tariff-1", max_rejected="10%")
    *_, last = client.watch("tariff-1", timeout_s=HANG_S)
    assert (last.state, last.rows, last.rejected) == ("partial", ROWS - 23, 23)
    return "tariff-1"


def test_rows_rejected_for_the_same_reason_are_counted_together(job: str, cli: Cli) -> None:
    found = json.loads(cli("rejected", job, "--json", "--examples", "2").stdout)
    # Messages that differ only in a value count as one reason, and the most frequent reason comes first
    unknown, nan = found["reasons"]
    assert (unknown["rows"], nan["rows"], found["rows"]) == (20, 3, 23)
    assert "unknown categories […] in column …" in unknown["message"]
    assert "NaN" in nan["message"]
    # Each reason has examples with their position and their input columns; an input column named `row` keeps its name
    assert [example["row"] for example in nan["examples"]] == [100, 101]
    first = unknown["examples"][0]
    assert first["source"] == "s3://scoreline/in/tariff/0.parquet"
    assert (first["row"], first["columns"]) == (5, {"plan": "plan 0", "x": 1.0, "row": 10_005})
    assert "plan 0" in first["message"]
    assert nan["examples"][0]["columns"]["x"] is None
    assert found["stages"] == {"predict": 20, "schema": 3}
    assert found["columns"] == {"plan": 20, "x": 3}
    assert found["sources"] == {"s3://scoreline/in/tariff/0.parquet": 12, "s3://scoreline/in/tariff/1.parquet": 11}


def test_rejected_prints_reasons_examples_and_objects(job: str, cli: Cli) -> None:
    done = cli("rejected", job)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("tariff-1: 23 rejected, 377 scored, of 400 rows; partial\n")
    assert "20 rows  predict  'plan'  ValueError: Found unknown" in done.stdout
    assert "3 rows  schema  'x'  … is null or NaN, which the model does not take" in done.stdout
    assert "row 5 of 0.parquet: ValueError: Found unknown categories ['plan 0']" in done.stdout
    assert '{"plan": "plan 0", "x": 1.0, "row": 10005}' in done.stdout
    assert "12  s3://scoreline/in/tariff/0.parquet" in done.stdout


def test_rejects_of_a_part_that_died_before_its_commit_are_ignored(
    job: str, client: Client, store: ObjectStore
) -> None:
    folder = parse_uri(client.status(job).output)[1]
    data = store.get(rejected_key(store, folder)).data
    left = [keys.rejected_part(folder, 99, "a" * 64), keys.rejected_part(folder, 0, "a" * 64)]
    left += keys.former_rejected_parts(folder, 0)
    for key in left:
        store.put(key, data)
    try:
        assert client.rejected(job).rows == 23
    finally:
        for key in left:
            store.delete(key)


def test_jobs_without_rejects_and_jobs_not_begun_and_unknown_jobs_are_distinguished(
    worker: Stack, cli: Cli, client: Client, models: ModelStorageManager, put_table: Put
) -> None:
    models.publish("fine", LinearRegression().fit(pd.DataFrame({"x": [0.0, 1.0]}), [0.0, 2.0]))
    client.submit("fine", put_table("in/fine.parquet", pd.DataFrame({"x": [1.0]})), job_id="fine-1")
    client.submit("fine", "s3://scoreline/in/nowhere/", job_id="fine-2")
    for job_id in ("fine-1", "fine-2"):
        *_, _ = client.watch(job_id, timeout_s=HANG_S)
    assert "fine-1: 0 rejected, 1 scored, of 1 row; succeeded" in cli("rejected", "fine-1").stdout
    refused = cli("rejected", "fine-2")
    assert "fine-2: 0 rejected, 0 scored, of 0 rows; failed" in refused.stdout
    assert "the prefix is empty" in refused.stdout
    unknown = cli("rejected", "nobody")
    assert (unknown.returncode, "no job 'nobody'" in unknown.stderr) == (2, True)


def test_a_tally_does_not_grow_with_the_number_of_reasons() -> None:
    words = ["".join(chr(97 + int(digit)) for digit in str(number)) for number in range(3 * MAX_REASONS)]
    tally = Tally(("x",), examples=1)
    for start in range(0, len(words), 100):
        some = words[start : start + 100]
        columns = {"x": some, "source": some, "row": range(100), "stage": ["decode"] * 100, "message": some}
        tally.add(pa.table(columns).to_batches()[0])
    found = tally.report("many", "partial")
    assert sum(reason.rows for reason in found.reasons) == sum(found.sources.values()) == found.rows == len(words)
    assert len(found.reasons) == len(found.sources) == MAX_REASONS + 1
    assert found.reasons[0].message == OTHER


def test_values_without_a_json_form_become_texts() -> None:
    tally = Tally(("x", "day"), examples=1)
    row = {"x": float("inf"), "day": date(2026, 11, 25), "source": "s", "row": 0, "stage": "predict", "message": "m"}
    tally.add(pa.Table.from_pylist([row]).to_batches()[0])
    (reason,) = json.loads(json.dumps(tally.report("job", "partial").to_dict(), allow_nan=False))["reasons"]
    assert reason["examples"][0]["columns"] == {"x": "inf", "day": "2026-11-25"}


def test_rejected_names_what_to_install_when_pyarrow_is_missing(stack: Stack) -> None:
    code = "import sys; sys.modules['pyarrow'] = None; from scoreline.worker.cli.main import main; main()"
    command = [sys.executable, "-c", code, "rejected", "any"]
    done = subprocess.run(command, env=stack.environ, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == ("error: reading rejected rows needs 'pyarrow': pip install -r ml-requirements.txt\n")
