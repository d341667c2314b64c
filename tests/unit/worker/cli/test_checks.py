"""Checks are tried on an input without a job, and a first file is made from the baseline."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from click.testing import CliRunner, Result
from sklearn.linear_model import LogisticRegression

from scoreline.storage.errors import InvalidRequest
from scoreline.storage.models.manager import ModelStorageManager
from scoreline.storage.objects.directory import DirectoryStore
from scoreline.tasks.quality.checks.checks_file import parse
from scoreline.tasks.quality.profiles.baseline import Baseline
from scoreline.tasks.quality.profiles.counting import profile_of
from scoreline.testing import eager
from scoreline.worker.cli.main import cli, main

ROWS = 2_000
CHECKS = """\
[drift]
level = "block"

[columns]
age = {min = 0, max = 120}
country = {in = ["DE", "AT"], kept = true}
"""


def people(seed: int, older: float = 0.0) -> pd.DataFrame:
    generator = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "age": generator.normal(40, 8, ROWS) + older,
            "income": np.exp(generator.normal(8, 1, ROWS)),
            "country": generator.choice(["DE", "AT"], ROWS),
        }
    )


def run(*words: str) -> Result:
    return CliRunner().invoke(cli, ["checks", *words])


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("store")
    models = ModelStorageManager(DirectoryStore(root, "scoreline"), cloud_only=False, use_r2=False)
    frame = people(1)
    features = frame[["age", "income"]]
    model = LogisticRegression().fit(features, frame["age"] > 40)
    outputs = pa.table({"prediction": model.predict(features), "proba_True": model.predict_proba(features)[:, 1]})
    baseline = Baseline(profile=profile_of(features, outputs)).encode()
    models.publish("plain", model)
    models.publish("known", model, attachments={"baseline.json.gz": baseline, "checks.toml": CHECKS.encode()})
    return root


@pytest.fixture(autouse=True)
def environment(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENVIRONMENT", "development")
    monkeypatch.setenv("STORE_DIR", str(root))


def test_an_input_like_the_baseline_passes(tmp_path: Path) -> None:
    people(2).to_csv(tmp_path / "today.csv", index=False)
    done = run("test", "known", str(tmp_path / "today.csv"))
    assert (done.exit_code, done.output.splitlines()[-1]) == (0, "all checks passed")


def test_an_input_that_would_be_blocked_ends_with_5_and_says_why(tmp_path: Path) -> None:
    frame = people(2, older=25)
    frame.loc[7, "country"] = "XX"
    frame.loc[[9, 11], "age"] = 300.0
    frame.to_parquet(tmp_path / "today.parquet")
    done = run("test", "known", str(tmp_path / "today.parquet"))
    assert done.exit_code == 5, done.output
    text = " ".join(done.output.split())
    assert "2,000 rows, 3 rows rejected; nothing was written or sent" in text
    assert "2 rows at stage contract for 'age'" in text
    assert "1 row at stage contract for 'country'" in text
    assert "block 'age' has drifted from the baseline: its population stability index is" in text
    assert "a job with this input would be blocked" in text
    found = json.loads(run("test", "known", str(tmp_path / "today.parquet"), "--json").output)
    assert (found["rows"], found["rejected"], found["blocked"], found["has_baseline"]) == (ROWS, 3, True, True)
    assert found["reasons"] == {"contract age": 2, "contract country": 1}
    assert any(
        (item["check"], item.get("column"), item["level"]) == ("drift", "age", "block") for item in found["findings"]
    )


def test_a_file_of_checks_comes_before_that_of_the_version(tmp_path: Path, root: Path) -> None:
    people(2, older=25).to_csv(tmp_path / "today.csv", index=False)
    (tmp_path / "checks.toml").write_text("[drift]\nlevel = 'warn'\n")
    done = run("test", "known", str(tmp_path / "today.csv"), "--checks", str(tmp_path / "checks.toml"))
    assert (done.exit_code, "warn" in done.output) == (0, True)
    done = run("test", "known", str(tmp_path / "today.csv"), "--checks", "none")
    assert done.output.splitlines()[-1] == "all checks passed"


def test_a_version_without_a_baseline_says_that_little_was_checked(root: Path) -> None:
    data = people(2).to_csv(index=False).encode()
    DirectoryStore(root, "scoreline").put("in/today.csv", data)
    done = run("test", "plain", "s3://scoreline/in/")
    assert done.exit_code == 0
    assert "the version has no baseline, so only fixed limits were checked" in " ".join(done.output.split())


def test_an_input_is_compared_with_the_accepted_runs_of_an_output(tmp_path: Path, root: Path) -> None:
    with eager(root) as client:
        client.put("in/before.parquet", people(3))
        client.submit("plain", "s3://scoreline/in/before.parquet", job_id="before", output="s3://scoreline/out/")
    people(2, older=25)[: ROWS // 2].to_csv(tmp_path / "today.csv", index=False)
    words = ["test", "plain", str(tmp_path / "today.csv"), "--output", "s3://scoreline/out/"]
    text = " ".join(run(*words).output.split())
    assert "the numbers of rows were compared with those of job before" in text
    assert "50% fewer than the 2,000 of the last accepted run" in text
    assert "'age' has drifted from the first accepted run" in text
    found = json.loads(run(*words, "--json").output)
    assert (found["compared_with"], found["has_baseline"]) == ("before", False)
    refused = run("test", "plain", str(tmp_path / "today.csv"), "--output", "s3://scoreline/elsewhere/")
    assert isinstance(refused.exception, InvalidRequest)
    assert "no run of s3://scoreline/elsewhere/ is accepted" in str(refused.exception)


def test_a_misspelt_column_of_a_check_is_noted(tmp_path: Path) -> None:
    people(2).to_csv(tmp_path / "today.csv", index=False)
    (tmp_path / "checks.toml").write_text("[columns]\nagee = {nulls = 'off'}\nincome = {nulls = 'off'}\n")
    done = run("test", "known", str(tmp_path / "today.csv"), "--checks", str(tmp_path / "checks.toml"))
    (note,) = (line for line in done.output.splitlines() if line.startswith("  note"))
    assert "the checks name the column 'agee'" in note
    assert note.endswith("; did you mean 'age'?")


def test_faults_of_a_file_are_printed_line_by_line_below_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.toml").write_text("[drif]\n[columns]\nage = {mim = 0}\n")
    words = ["submit", "known", "s3://scoreline/in/", "--checks", str(tmp_path / "mine.toml")]
    monkeypatch.setattr(sys, "argv", ["scoreline", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    first, *faults = capsys.readouterr().err.splitlines()
    assert ended.value.code == 2
    assert first == f"error: {tmp_path / 'mine.toml'} has 2 faults:"
    assert [fault[:10] for fault in faults] == ["  line 1: ", "  line 3: "]


def test_faults_of_a_file_are_printed_with_their_lines(tmp_path: Path) -> None:
    people(2).to_csv(tmp_path / "today.csv", index=False)
    (tmp_path / "checks.toml").write_text("[drif]\n[columns]\nage = {mim = 0}\n")
    done = run("test", "known", str(tmp_path / "today.csv"), "--checks", str(tmp_path / "checks.toml"))
    assert isinstance(done.exception, InvalidRequest)
    assert "line 1: unknown table or key 'drif'; did you mean 'drift'?" in str(done.exception)
    assert "line 3: unknown key 'mim'; did you mean 'min'?" in str(done.exception)
    missing = run("test", "known", str(tmp_path / "today.csv"), "--checks", str(tmp_path / "missing.toml"))
    assert (missing.exit_code, "cannot read" in missing.output) == (2, True)
    missing = run("test", "known", str(tmp_path / "missing.csv"))
    assert (missing.exit_code, "there is no file" in missing.output) == (2, True)


def test_a_first_file_from_the_baseline_has_no_faults_and_passes(tmp_path: Path) -> None:
    done = run("infer", "known")
    assert done.exit_code == 0
    assert parse(done.output, features=["age", "income"], outputs=["prediction", "proba_True"]).faults == ()
    assert "\n[columns.age]\n# not_null = true  # as in the baseline\n# min = " in done.output
    uncommented = done.output.replace("# min", "min").replace("# max", "max").replace("# not_null", "not_null")
    checks = parse(uncommented, features=["age", "income"], outputs=["prediction", "proba_True"])
    assert checks.faults == ()
    assert len(checks.checks.rules) == 6
    (tmp_path / "checks.toml").write_text(done.output)
    people(3).to_csv(tmp_path / "today.csv", index=False)
    done = run("test", "known", str(tmp_path / "today.csv"), "--checks", str(tmp_path / "checks.toml"))
    assert (done.exit_code, done.output.splitlines()[-1]) == (0, "all checks passed")


def test_a_version_without_a_baseline_gives_no_first_file() -> None:
    done = run("infer", "plain")
    assert isinstance(done.exception, InvalidRequest)
    assert "has no baseline: publish it with --baseline FILE" in str(done.exception)


def publish(folder: Path, text: str) -> Result:
    joblib.dump(LogisticRegression().fit(people(1)[["age", "income"]], people(1)["age"] > 40), folder / "m.joblib")
    (folder / "checks.toml").write_text(text)
    words = ["models", "publish", "churn", "--model", str(folder / "m.joblib"), "--checks", str(folder / "checks.toml")]
    return CliRunner().invoke(cli, words)


def test_a_version_is_published_with_its_checks(tmp_path: Path) -> None:
    done = publish(tmp_path, CHECKS + "[columns.proba_True]\nmean = 'off'\n")
    assert done.exit_code == 0, done.output
    registry = ModelStorageManager.from_env().registry
    manifest = registry.show("churn")
    assert registry.attachment(manifest, "checks.toml") == (tmp_path / "checks.toml").read_bytes()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[columns]\nagee = {min = 0}\n", "line 2: unknown column 'agee'; did you mean 'age'?"),
        ("[columns]\nprediction = {in = [true]}\n", "line 2: 'prediction' is an output, and row rules (in) are for"),
        ("[columns]\nproba_0x = {drift = 'off'}\n", "line 2: unknown column 'proba_0x'"),
        ("[rows]\nmim = 5\n", "line 2: unknown key 'mim' of rows"),
    ],
)
def test_a_version_is_not_published_with_checks_that_do_not_fit(tmp_path: Path, text: str, message: str) -> None:
    before = ModelStorageManager.from_env().registry.versions("churn")
    done = publish(tmp_path, text)
    assert isinstance(done.exception, InvalidRequest)
    assert message in str(done.exception)
    assert ModelStorageManager.from_env().registry.versions("churn") == before
