"""Labels that arrive later, and traces of rows, by the command line and with real workers, Redis and an S3 server."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from scoreline.storage.models.manager import ModelStorageManager
from scoreline.tasks.client import Client
from scoreline.worker.dev.stack import Stack
from tests.support.waiting import HANG_S

Cli = Callable[..., subprocess.CompletedProcess[str]]
ROWS = 3_000


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    rng = np.random.default_rng(3)
    x = rng.normal(size=ROWS)
    left = rng.random(ROWS) < 1 / (1 + np.exp(-x))
    x[7::500] = np.nan
    return pd.DataFrame(
        {"id": [f"c-{row:05d}" for row in range(ROWS)], "x": x, "day": list("abc") * 1_000, "left": left}
    )


@pytest.fixture(scope="module")
def output(worker: Stack, frame: pd.DataFrame) -> str:
    """Run two jobs of one output, the second of which is partitioned, and return the output."""
    client = Client.from_env(worker.environ)
    store = client.buckets.main
    known = frame.dropna()
    model = LogisticRegression().fit(known[["x"]], np.where(known["left"], "yes", "no"))
    ModelStorageManager.from_env(worker.environ).publish("leavers", model)
    inputs = []
    for number, piece in enumerate(np.array_split(np.arange(ROWS), 6)):
        key = f"leavers/in/{number}.csv"
        store.put(key, frame.iloc[piece][["id", "x", "day"]].to_csv(index=False).encode())
        inputs.append(store.uri(key))
    where = store.uri("leavers/out/")
    for job_id, by in (("leavers-1", None), ("leavers-2", "day")):
        given = {"output": where, "job_id": job_id, "part_rows": 700, "partition_by": by}
        client.submit("leavers", inputs, **given)  # type: ignore[arg-type]
        *_, last = client.watch(job_id, timeout_s=HANG_S)
        assert (last.state, last.rejected) == ("partial", 6), last.error
    return where


def test_labels_are_added_and_shown(worker: Stack, output: str, frame: pd.DataFrame, cli: Cli, tmp_path: Path) -> None:
    labels = frame.iloc[:2_000][["id"]].assign(left=np.where(frame["left"][:2_000], "yes", "no"))
    labels.to_csv(tmp_path / "labels.csv", index=False)
    given = ("outcomes", "add", output, str(tmp_path / "labels.csv"), "--key", "id", "--target", "left")
    added = cli(*given)
    assert added.returncode == 0, added.stderr
    assert "2,000 rows: 2,000 new" in added.stdout
    assert "compared 2 runs with 2,000 labels" in added.stdout
    assert "4 keys are in no accepted run, such as 'c-00007', 'c-00507'" in added.stderr  # they were rejected
    assert "nothing changed: 2 runs" in cli(*given).stdout
    shown = cli("outcomes", "show", output)
    assert shown.returncode == 0, shown.stderr
    assert "all 2 runs" in shown.stdout
    found = json.loads(cli("outcomes", "show", output, "--json").stdout)
    results = pd.concat([batch.to_pandas() for batch in Client.from_env(worker.environ).results("leavers-1")])
    joined = results.merge(frame.iloc[:2_000][["id", "left"]], on="id")
    for run in found["runs"]:
        group = run["groups"][0]
        assert (group["rows"], group["labels"]) == (ROWS - 6, 1_996)
        assert group["metrics"]["auc"]["value"] == pytest.approx(roc_auc_score(joined["left"], joined["proba_yes"]))
    refused = cli("outcomes", "add", output, str(tmp_path / "labels.csv"), "--key", "customer", "--target", "left")
    assert refused.returncode == 1
    assert "has no column 'customer'" in refused.stderr


@pytest.mark.parametrize("job_id", ["leavers-1", "leavers-2"])
def test_rows_are_traced_in_the_bucket_and_in_a_copy(
    worker: Stack, output: str, frame: pd.DataFrame, cli: Cli, tmp_path: Path, job_id: str
) -> None:
    store = Client.from_env(worker.environ).buckets.main
    for row in (0, 508, 2_999):
        found = json.loads(cli("trace", job_id, "--key", f"id=c-{row:05d}", "--show", "--json").stdout)
        assert [(item["input"].rpartition("/")[2], item["input_row"]) for item in found] == [
            (f"{row // 500}.csv", row % 500)
        ]
        assert found[0]["input_values"] == {"x": frame["x"][row], "id": f"c-{row:05d}", "day": "abc"[row % 3]}
    (rejected,) = json.loads(cli("trace", job_id, "--key", "id=c-00507", "--json").stdout)
    assert (rejected["rejected"], rejected["input_row"], rejected["input_state"]) == (True, 7, "unchanged")
    file = f"{output}job_id={job_id}/{'day=b/' if job_id == 'leavers-2' else ''}part-00000.parquet"
    copy = tmp_path / "copy.parquet"
    copy.write_bytes(store.get(file.removeprefix(f"s3://{store.bucket}/")).data)
    here, there = (cli("trace", name, "100") for name in (str(copy), file))
    assert (here.returncode, there.returncode) == (0, 0), here.stderr + there.stderr
    assert "  input    row " in here.stdout
    assert [line for line in here.stdout.splitlines() if line.startswith("  input")] == [
        line for line in there.stdout.splitlines() if line.startswith("  input")
    ]
    missing = cli("trace", output, "--key", "id=nobody")
    assert (missing.returncode, missing.stderr) == (1, f"no row of {output} has id=nobody\n")
    latest = json.loads(cli("trace", f"{output}latest.json", "--key", "id=c-00100", "--json").stdout)
    assert [(item["job_id"], item["lineage"]["acceptance"]["is_latest"]) for item in latest] == [("leavers-2", True)]
