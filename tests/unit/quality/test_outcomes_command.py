"""``scoreline outcomes``."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner, Result
from rich.console import Console
from sklearn.linear_model import LogisticRegression

from scoreline.storage.errors import InvalidRequest
from scoreline.tasks.client import Client
from scoreline.tasks.steps.planner import plan_job
from scoreline.worker.cli import output
from scoreline.worker.cli.main import cli
from tests.support.gated import OUTPUT, Gated

ROWS = 600


@pytest.fixture
def run(jobs: Gated, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    client = Client(jobs.buckets, jobs.client.queue, jobs.client.ledger, submitter="alice")
    monkeypatch.setattr(Client, "from_env", lambda: client)
    monkeypatch.setattr(output, "console", lambda: Console(width=80))
    monkeypatch.setattr(output, "terminal_width", lambda *, stderr=False: 80)
    return lambda *words: CliRunner().invoke(cli, list(words))


@pytest.fixture
def labels(jobs: Gated, tmp_path: Path) -> Path:
    """Run two jobs, the second of which scores other customers than it says, and return the labels as a file."""
    rng = np.random.default_rng(5)
    x = rng.normal(size=ROWS) * 2
    yes = rng.random(ROWS) < 1 / (1 + np.exp(-x))
    jobs.client.models.publish("churn", LogisticRegression().fit(pd.DataFrame({"x": x}), yes))
    for job_id, values in (("a", x), ("b", rng.permutation(x))):
        frame = pd.DataFrame({"id": range(ROWS), "x": values, "region": ["north", "south"] * (ROWS // 2)})
        given: dict[str, Any] = {"job_id": job_id, "output": OUTPUT, "segment": "region"}
        jobs.client.submit("churn", jobs.client.put(f"in/{job_id}.parquet", frame), **given)
        plan_job(jobs.at.engine, job_id)
        jobs.at.score(job_id, 0)
        jobs.finalize(job_id)
    path = tmp_path / "labels.tsv"
    pd.DataFrame({"id": range(0, ROWS, 2), "left": yes[::2]}).to_csv(path, index=False, sep="\t")
    return path


def test_labels_are_added_and_shown_within_80_columns(labels: Path, run: Callable[..., Result]) -> None:
    none = run("outcomes", "show", OUTPUT)
    assert none.output.startswith(f"no labels were added to {OUTPUT}: `scoreline outcomes add")
    added = run("outcomes", "add", OUTPUT[:-1], str(labels), "--key", "id", "--target", "left", "--delimiter", "tab")
    assert (added.exit_code, added.stderr) == (0, "")
    assert added.stdout == (f"300 rows: 300 new\ncompared 2 runs with 300 labels\nscoreline outcomes show {OUTPUT}\n")
    again = run("outcomes", "add", OUTPUT, str(labels), "--key", "id", "--target", "left")
    assert again.stdout.startswith("300 rows: 300 known already\nnothing changed: 2 runs with 300 labels\n")
    shown = run("outcomes", "show", OUTPUT).output
    assert max(map(len, shown.splitlines())) <= 80
    assert "300 labels of 'left' by id, last added 20" in shown
    assert "all 2 runs" in shown
    assert " 50.0% ±4.0%" in shown
    worse = [line for line in shown.splitlines() if line.startswith("  WORSE")]
    assert [line.split(": ")[1].split()[0] for line in worse] == ["AUC", "accuracy", "log", "Brier"]
    assert "fell to" in worse[0]
    assert worse[0].startswith("  WORSE 20")
    assert " (b): AUC fell to " in worse[0]
    assert "  accuracy 0." in shown
    assert "positive class 'true'" in shown
    assert "decile" in shown
    assert "too high" in shown


def test_a_segment_or_a_version_is_shown_alone(labels: Path, run: Callable[..., Result]) -> None:
    run("outcomes", "add", OUTPUT, str(labels), "--key", "id", "--target", "left")
    north = run("outcomes", "show", OUTPUT, "--segment", "north").output
    assert ", region north\n" in north
    assert "100.0% ±" in north
    every = run("outcomes", "show", OUTPUT, "--segment", "all").output
    assert ", region south\n" in every
    assert run("outcomes", "show", OUTPUT, "--segment", "east").exit_code == 2
    found = json.loads(run("outcomes", "show", OUTPUT, "--json").output)
    assert [run_["job_id"] for run_ in found["runs"]] == ["a", "b"]
    (version,) = found["versions"]
    assert (version["runs"], version["groups"][0]["labels"]) == (2, 600)
    name = version["model"].partition("@")[2]
    assert json.loads(run("outcomes", "show", OUTPUT, "--model", name, "--json").output) == found
    unknown = run("outcomes", "show", OUTPUT, "--model", "none")
    assert unknown.exit_code == 2
    assert "no run has model version none: the versions are churn@" in " ".join(unknown.output.split())


def test_unknown_keys_and_runs_that_are_left_out_are_noted(
    jobs: Gated, labels: Path, run: Callable[..., Result], tmp_path: Path
) -> None:
    jobs.run("line", output=OUTPUT)
    path = tmp_path / "more.csv"
    path.write_text("id,left\n1,true\n2,\n700,false\n")
    added = run("outcomes", "add", OUTPUT, str(path), "--key", "id", "--target", "left")
    assert added.stdout.startswith("3 rows: 2 new, 1 without a label\ncompared 2 runs with 2 labels\n")
    said = " ".join(added.stderr.split())
    assert "1 key is in no accepted run, such as '700': kept for later runs" in said
    assert "run line was not compared: 1 label is a value that line@" in said
    as_json = json.loads(run("outcomes", "add", OUTPUT, str(path), "--key", "id", "--target", "left", "--json").stdout)
    assert (as_json["repeated"], as_json["unknown"], as_json["changed"]) == (2, 1, False)
    path.write_text("id,left\n1,true\n1,false\n")
    refused = run("outcomes", "add", OUTPUT, str(path), "--key", "id", "--target", "left")
    assert isinstance(refused.exception, InvalidRequest)
