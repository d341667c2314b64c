from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

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
    assert listed.count(manifest.version) == 25


def test_all_models_are_listed_by_one_request_and_one_for_each_alias(
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
    assert [line.split() for line in lines[-2:]] == [
        ["one", "1", first.version, "live", "->", first.version],
        ["two", "1", second.version, "live", "->", second.version],
    ]
    aliases = [keys.alias("one", "live"), keys.alias("two", "broken"), keys.alias("two", "live")]
    assert sorted(asked) == [keys.MODELS, *aliases]
