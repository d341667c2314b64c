from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner, Result
from rich.console import Console
from sklearn.compose import make_column_transformer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

from scoreline.storage import keys
from scoreline.storage.errors import ModelInUse
from scoreline.storage.models.manager import ModelStorageManager
from scoreline.storage.objects.directory import DirectoryStore
from scoreline.tasks.job.documents import Job, mark_active
from scoreline.tasks.job.spec import JobSpec
from scoreline.worker.cli.main import cli
from tests.support.one_model import LINE
from tests.support.waiting import HANG_S


@pytest.mark.parametrize("user", ["an alias", "a job"])
def test_a_version_in_use_is_refused_before_anything_is_asked(
    user: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ENVIRONMENT", "development")
    monkeypatch.setenv("STORE_DIR", str(tmp_path))
    store = DirectoryStore(tmp_path, "scoreline")
    models = ModelStorageManager(store, cloud_only=False, use_r2=False)
    manifest = models.publish("used", LINE, alias="champion" if user == "an alias" else None)
    if user == "a job":
        spec = JobSpec(job_id="j", model="used", inputs=("s3://scoreline/in/",), output="s3://scoreline/out/")
        mark_active(store, "j")
        job = Job(spec=spec, model=models.registry.resolve("used"), submitted="2026-11-25T00:00:00+00:00")
        store.put(keys.job("j"), job.to_json())
    done = CliRunner().invoke(cli, ["models", "delete", manifest.ref], input="y\n")
    assert isinstance(done.exception, ModelInUse)
    assert "for good?" not in done.output
    assert models.registry.versions("used") == [manifest.version]


def test_a_version_that_is_not_in_use_is_deleted_after_confirmation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ENVIRONMENT", "development")
    monkeypatch.setenv("STORE_DIR", str(tmp_path))
    models = ModelStorageManager(DirectoryStore(tmp_path, "scoreline"), cloud_only=False, use_r2=False)
    manifest = models.publish("unused", LINE)
    for answer, left in (("n\n", [manifest.version]), ("y\n", [])):
        done = CliRunner().invoke(cli, ["models", "delete", manifest.ref], input=answer)
        assert f"delete {manifest.ref} for good?" in done.output
        assert models.registry.versions("unused") == left


def test_many_aliases_are_read_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a model with 24 aliases, and a store that answers only if eight requests arrive at once
    monkeypatch.setenv("ENVIRONMENT", "development")
    monkeypatch.setenv("STORE_DIR", str(tmp_path))
    store = DirectoryStore(tmp_path, "scoreline")
    models = ModelStorageManager(store, cloud_only=False, use_r2=False)
    manifest = models.publish("many", LINE, alias="a00")
    for number in range(1, 24):
        store.put(keys.alias("many", f"a{number:02}"), store.get(keys.alias("many", "a00")).data)
    together, real = threading.Barrier(8, timeout=HANG_S), DirectoryStore.get

    def get(self: DirectoryStore, key: str, **options: Any) -> Any:
        if "/aliases/" in key:
            together.wait()
        return real(self, key, **options)

    monkeypatch.setattr(DirectoryStore, "get", get)
    # When the models are listed, then all aliases are there, in order
    listed = CliRunner().invoke(cli, ["models", "list"]).output
    assert [word for word in listed.split() if word.startswith("a") and word[1:].isdigit()] == [
        f"a{number:02}" for number in range(24)
    ]
    assert (listed.count(manifest.version), listed.count("-> newest")) == (1, 24)


def test_all_models_are_listed_by_one_request_and_one_for_each_alias_and_newest_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given two models with three aliases, one of which cannot be read, and objects that are neither models nor aliases
    monkeypatch.setenv("ENVIRONMENT", "development")
    monkeypatch.setenv("STORE_DIR", str(tmp_path))
    store = DirectoryStore(tmp_path, "scoreline")
    models = ModelStorageManager(store, cloud_only=False, use_r2=False)
    first, second = models.publish("one", LINE, alias="live"), models.publish("two", LINE, alias="live")
    store.put(keys.alias("two", "broken"), b"{")
    for key in ("models/two/aliases/README", "models/two/aliases/a b.json", "models/none/aliases/live.json"):
        store.put(key, store.get(keys.alias("two", "live")).data)
    asked: list[str] = []

    def count(method: str) -> None:
        real = getattr(DirectoryStore, method)

        def call(self: DirectoryStore, key: str, **options: Any) -> Any:
            asked.append(key)
            return real(self, key, **options)

        monkeypatch.setattr(DirectoryStore, method, call)

    for method in ("get", "head", "list"):
        count(method)
    # When the models are listed
    lines = CliRunner().invoke(cli, ["models", "list"]).stdout.splitlines()
    # Then each model has its versions and aliases, and nothing is requested twice
    about = ["1", "feature,", f"{first.size}", "B"]
    assert [line.split() for line in lines[-2:]] == [
        ["one", "1", first.version, f"{first.created[:10]},", *about, "live", "->", "newest"],
        ["two", "1", second.version, f"{second.created[:10]},", *about, "live", "->", "newest"],
    ]
    aliases = [keys.alias("one", "live"), keys.alias("two", "broken"), keys.alias("two", "live")]
    manifests = [keys.manifest(made.name, made.version) for made in (first, second)]
    assert sorted(asked) == sorted([keys.MODELS, *aliases, *manifests])


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Return a function that runs ``scoreline models`` where a model with a baseline is published."""
    monkeypatch.setenv("ENVIRONMENT", "development")
    monkeypatch.setenv("STORE_DIR", str(tmp_path / "store"))
    rows = pd.DataFrame({"plan": ["basic", "pro"] * 40, "age": range(80), "secret": range(80)})
    y = np.where(rows["age"] % 7 < 3, "yes", "no")
    model = make_pipeline(
        make_column_transformer((OneHotEncoder(), ["plan"]), remainder="passthrough"), LogisticRegression(max_iter=999)
    ).fit(rows, y)
    joblib.dump(model, tmp_path / "model.joblib")
    rows.assign(y=y).to_csv(tmp_path / "train.csv", index=False, sep="\t")
    invoke = CliRunner().invoke
    options = [
        "--model",
        str(tmp_path / "model.joblib"),
        "--baseline",
        str(tmp_path / "train.csv"),
        "--target",
        "y",
        "--delimiter",
        "tab",
    ]
    done = invoke(cli, ["models", "publish", "churn", *options, "--alias", "champion", "--hide-values", "secret"])
    assert done.exit_code == 0, done.output
    return lambda *words: done if words == ("publish",) else invoke(cli, ["models", *words])


def test_publishing_says_what_it_understood(published: Callable[..., Result]) -> None:
    shown = published("publish").stderr.splitlines()
    assert shown[0].startswith("model 'model': Pipeline in ")
    assert shown[1] == "features: 3: plan, age, secret"
    assert shown[2] == "outputs: prediction, proba_no, proba_yes"
    assert re.fullmatch(r"baseline: 80 rows, 0 rejected; [\d,]+ bytes", shown[3])
    assert re.fullmatch(r"metrics on 'y', 80 rows: accuracy 0\.\d+, AUC .*, log loss .*, Brier .*", shown[4])
    assert shown[5] == "checks: none (the default checks apply)"


def test_a_version_is_listed_with_date_metrics_features_size_and_alias(published: Callable[..., Result]) -> None:
    heading, line = published("list", "churn").stdout.splitlines()
    assert heading.split() == ["version", "published", "metrics", "features", "size", "aliases"]
    assert re.fullmatch(r"\S+ +\d{4}-\d\d-\d\d +AUC [01]\.\d{3} +3 +[\d.]+ KiB +champion *", line)
    assert re.search(r"\d, 3 features, [\d.]+ KiB, AUC [01]\.\d{3} +champion -> newest", published("list").stdout)


def test_a_version_is_shown_for_people_with_a_line_for_each_feature(published: Callable[..., Result]) -> None:
    shown = published("show", "churn@champion").stdout
    for pattern in (
        r"^  aliases +champion$",
        r"^  features +3, plan, age, secret$",
        r"^  classes +no, yes$",
        r"^plan +basic 50%, 2 values *$",
        r"^age +39\.5 +23\.24 +0 to 79 *$",
        r"^secret +39\.5 +23\.24 +\(values are left out\) *$",
        r"^prediction +no \d+%, \d values? *$",
        r"^0\.\d to 0\.\d +\d+ +0\.\d{3} +[01]\.\d{3} *$",
    ):
        assert re.search(pattern, shown, re.MULTILINE), pattern


def test_a_version_is_shown_as_json_for_programs(published: Callable[..., Result]) -> None:
    shown = json.loads(published("show", "churn", "--json").stdout)
    assert shown["feature_names"] == ["plan", "age", "secret"]
    assert "chunks" not in shown["artifacts"][0]
    assert shown["metadata"]["_scoreline"]["metrics"]["model"]["rows"] == 80


def test_a_terminal_of_80_columns_shows_whole_lines(
    published: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scoreline.worker.cli.output.terminal_width", lambda **_: 80)
    monkeypatch.setattr("scoreline.worker.cli.output.console", lambda: Console(width=80))
    for words in (("list",), ("list", "churn"), ("show", "churn")):
        assert max(len(line.rstrip()) for line in published(*words).stdout.splitlines()) <= 80


def test_a_version_with_an_unreadable_manifest_is_listed_as_such(
    published: Callable[..., Result], tmp_path: Path
) -> None:
    store = DirectoryStore(tmp_path / "store", "scoreline")
    (key,) = [info.key for info in store.list("models/") if info.key.endswith("manifest.json")]
    store.put(key, b"{")
    assert "unreadable" in published("list", "churn").stdout
    assert "its manifest is unreadable" in published("list").stdout
