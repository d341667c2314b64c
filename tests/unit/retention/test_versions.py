"""Old versions of models are removed, except those that something needs."""

from __future__ import annotations

import contextlib
import json
from dataclasses import replace
from pathlib import Path

import pytest

from scoreline.storage import keys
from scoreline.storage.errors import ModelNotFound
from scoreline.storage.hashing import sha256_hex
from scoreline.storage.models import aliases
from scoreline.storage.models.manifest import PinnedModel
from scoreline.storage.models.registry import ModelRegistry
from scoreline.storage.objects.base import ObjectStore
from scoreline.tasks.retention.versions import VersionReport, collect_versions
from scoreline.tasks.schedules.in_force import read_in_force
from tests.support.old_jobs import Died, DyingBuckets, OldJobs

VERSIONS = [f"2026010{day}T000000Z-00000" for day in range(1, 7)]


def publish(main: ObjectStore, name: str = "m") -> None:
    for version in VERSIONS:
        main.put(keys.artifact(name, version, "model.joblib"), b"model")
        main.put(keys.manifest(name, version), version.encode())


def move(main: ObjectStore, version: str, *, rollback: bool = False) -> None:
    pinned = PinnedModel(name="m", version=version, manifest_sha256=sha256_hex(version.encode()))
    aliases.move(main, "m", "champion", lambda _: pinned, rollback=rollback)


def days(report: VersionReport) -> list[int]:
    return [int(item.version[7]) for item in report.removed]


def test_the_newest_versions_are_kept_and_a_removed_one_says_so(old: OldJobs) -> None:
    publish(old.main)
    publish(old.main, "n")
    report = collect_versions(old.main, 4)
    assert [item.ref for item in report.removed] == [f"{name}@{version}" for name in "mn" for version in VERSIONS[:2]]
    registry = ModelRegistry(old.main)
    assert registry.versions("m") == VERSIONS[2:]
    folder = keys.version_folder("m", VERSIONS[0])
    assert [info.key for info in old.main.list(folder)] == [f"{folder}removed.json"]
    with pytest.raises(ModelNotFound, match=r"was removed on 20.*: 4 newer versions are kept, and nothing needs it"):
        registry.resolve(f"m@{VERSIONS[0]}")
    assert days(collect_versions(old.main, 4)) == []


def test_what_an_alias_names_or_a_rollback_could_is_kept(old: OldJobs) -> None:
    publish(old.main)
    for day in (1, 2, 3):
        move(old.main, VERSIONS[day - 1])
    move(old.main, VERSIONS[1], rollback=True)  # from 3 back to 2, so that no rollback restores 3
    report = collect_versions(old.main, 2)
    assert days(report) == [3, 4]
    assert {(item.version[7], why) for item, why in report.kept} == {
        ("1", "alias champion can be rolled back to it"),
        ("2", "alias champion names it"),
    }


def test_nothing_of_a_model_is_removed_while_an_alias_cannot_be_read(old: OldJobs) -> None:
    publish(old.main)
    publish(old.main, "n")
    old.main.put(keys.alias("m", "champion"), b"{")
    report = collect_versions(old.main, 4)
    assert {item.name for item in report.removed} == {"n"}
    assert all("cannot be read" in why for _, why in report.kept)


@pytest.mark.parametrize("state", [None, "succeeded", "failed"])
def test_the_version_of_a_job_that_is_kept_stays(old: OldJobs, state: str | None) -> None:
    publish(old.main)
    old.add("a", state=state, version=VERSIONS[1])
    report = collect_versions(old.main, 4)
    assert days(report) == [1]
    assert [why for _, why in report.kept] == ["job a scored with it, and is kept"]


def test_the_version_of_a_job_of_a_later_release_stays(old: OldJobs) -> None:
    publish(old.main)
    old.add("a", state=None, active=True, version=VERSIONS[1])
    raw = json.loads(old.main.get(keys.job("a")).data)
    raw["spec"]["unknown"] = 1
    old.main.put(keys.job("a"), json.dumps(raw).encode())
    assert days(collect_versions(old.main, 4)) == [1]


def test_the_version_that_a_schedule_names_stays(old: OldJobs) -> None:
    publish(old.main)
    old.in_force(nightly=None, hourly=None)
    found = read_in_force(old.main)
    assert found is not None
    tables = {**found.tables, "nightly": {**found.tables["nightly"], "model": f"m@{VERSIONS[0]}"}}
    old.main.put(keys.SCHEDULES_IN_FORCE, replace(found, tables=tables).to_json())
    report = collect_versions(old.main, 4)
    assert days(report) == [2]
    assert [why for _, why in report.kept] == ["schedule nightly scores with it"]


def test_an_interrupted_removal_is_withdrawn_if_the_version_is_needed_again(old: OldJobs) -> None:
    publish(old.main)
    before = old.objects()
    with pytest.raises(Died):  # the audit, the tombstone and the manifest
        collect_versions(DyingBuckets(old.folder, 3).main, 5)
    assert ModelRegistry(old.main).versions("m") == VERSIONS[1:]
    job = old.add("a", state=None, active=True, version=VERSIONS[0])
    report = collect_versions(old.main, 5)
    assert [why for _, why in report.kept] == ["job a scores with it"]
    assert old.objects() - job.objects - {uri for uri in old.objects() if "/jobs/" in uri} == before
    assert ModelRegistry(old.main).resolve(f"m@{VERSIONS[0]}").version == VERSIONS[0]


@pytest.mark.parametrize("change", ["alias", "job"])
def test_a_version_that_is_needed_again_is_restored(old: OldJobs, monkeypatch: pytest.MonkeyPatch, change: str) -> None:
    publish(old.main)
    delete = old.main.delete

    def deleting(key: str) -> None:
        if key == keys.manifest("m", VERSIONS[0]):
            monkeypatch.setattr(old.main, "delete", delete)
            if change == "alias":
                move(old.main, VERSIONS[0])
            else:
                old.add("a", state=None, active=True, version=VERSIONS[0])
        delete(key)

    monkeypatch.setattr(old.main, "delete", deleting)
    report = collect_versions(old.main, 5)
    assert days(report) == []
    assert len(report.kept) == 1
    assert sorted(info.key.rpartition("/")[2] for info in old.main.list(keys.version_folder("m", VERSIONS[0]))) == [
        "manifest.json",
        "model.joblib",
    ]


def test_killed_at_any_change_it_finishes_later(tmp_path: Path) -> None:
    for left in range(12):
        folder = tmp_path / str(left)
        old = OldJobs(folder)
        publish(old.main)
        move(old.main, VERSIONS[0])
        with contextlib.suppress(Died):
            collect_versions(DyingBuckets(folder, left).main, 3)
        collect_versions(old.main, 3)
        assert ModelRegistry(old.main).versions("m") == [VERSIONS[0], *VERSIONS[3:]]
        for version in VERSIONS[1:3]:
            found = keys.version_folder("m", version)
            assert [info.key for info in old.main.list(found)] == [f"{found}removed.json"]


def test_a_version_that_is_being_published_is_left_alone(old: OldJobs) -> None:
    publish(old.main)
    new = [keys.artifact("m", "20250101T000000Z-00000", f"{name}.joblib") for name in ("model", "scaler")]
    for key in new:
        old.main.put(key, b"new")
    collect_versions(old.main, 1)
    assert [old.main.get(key).data for key in new] == [b"new", b"new"]


def test_a_preview_removes_nothing(old: OldJobs) -> None:
    publish(old.main)
    before = {info.key: info.etag for info in old.main.list("")}
    assert days(collect_versions(old.main, 4, dry_run=True)) == [1, 2]
    assert {info.key: info.etag for info in old.main.list("")} == before
