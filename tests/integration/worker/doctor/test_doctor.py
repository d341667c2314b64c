"""Tests every check of ``scoreline doctor`` on a sound deployment, and on deployments with one fault each."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
from redis import Redis

from scoreline.storage.ledger.redis_ledger import RedisLedger
from scoreline.worker.dev.stack import ROOT, Stack
from scoreline.worker.doctor import NAMES, Finding, bucket, examine
from scoreline.worker.doctor.packages import required
from tests.support.broken_store import BrokenStore
from tests.support.doctor_case import Case, Valkey
from tests.support.doctor_examples import EXAMPLES, Example
from tests.support.installed import required_by
from tests.support.waiting import wait_until


@pytest.fixture(scope="module")
def valkey(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    server = Valkey(stack, tmp_path_factory.mktemp("valkey"))
    yield server
    server.stop()


@pytest.fixture(scope="module")
def broken(stack: Stack) -> Iterator[str]:
    with BrokenStore(stack.environ["R2_ENDPOINT_URL"]) as store:
        yield store.endpoint


@pytest.fixture
def case(stack: Stack, valkey: Valkey, broken: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Case]:
    case = Case(stack, valkey, broken, tmp_path, monkeypatch)
    with case.ends:
        yield case
    valkey.restore()


def worst(findings: list[Finding]) -> str:
    return max((finding.severity for finding in findings), key=["ok", "warning", "error"].index)


def test_every_check_has_an_example() -> None:
    assert {example.check for example in EXAMPLES} == set(NAMES)


@pytest.mark.parametrize("example", EXAMPLES, ids=str)
def test_each_fault_is_found_and_comes_with_a_remedy(case: Case, example: Example) -> None:
    example.spoil(case)
    before = case.redis_keys()
    found = examine(case.environ, only=[example.check], **case.examined)
    assert worst(found) == example.severity, found
    assert {finding.check for finding in found} == {example.check}
    messages = "\n".join(finding.message for finding in found)
    assert [words for words in example.says if words not in messages] == [], messages
    for finding in found:
        assert bool(finding.remedy) == (finding.severity != "ok")
        assert not any(secret in f"{finding.message} {finding.remedy}" for secret in ("hush", "right-right"))
    assert case.redis_keys() == before
    if example.check == "bucket" and "no-deletes" not in case.environ["R2_ACCESS_KEY_ID"]:
        assert case.left_behind() == []


def test_a_sound_deployment_passes_every_check_and_no_probe_is_left_behind(case: Case, worker: Stack) -> None:
    # Given a deployment with models, schedules, workers and a clock
    case.set(REDIS_URL=worker.environ["REDIS_URL"], PRELOAD_MODELS=case.publish("churn"), ALLOWED_BUCKETS="scoreline")
    case.write("schedules.toml", '[n]\ncron = "0 2 * * *"\nmodel = "churn@champion"\ninput = "s3://scoreline/in/"\n')
    RedisLedger(worker.environ["REDIS_URL"], namespace=case.bucket).note_tick()
    redis = Redis.from_url(worker.environ["REDIS_URL"])
    before = set(redis.keys())
    # When the doctor examines the deployment
    found = examine(case.environ)
    # Then every check passes except the check of the worker, because the worker belongs to another bucket
    severities = {name: "warning" if name == "workers" else "ok" for name in NAMES}
    assert [(finding.check, finding.severity) for finding in found] == list(severities.items()), found
    (missing,) = (finding for finding in found if finding.check == "workers")
    assert missing.message.startswith("no worker answers (")
    (answered,) = examine(case.environ | {"R2_BUCKET": "scoreline"}, only=["workers"])
    assert (answered.severity, "answered" in answered.message) == ("ok", True)
    assert case.left_behind() == []
    assert set(redis.keys()) - before <= {b"unacked", b"unacked_index", *redis.keys("*{scoreline}*")}  # a worker's keys
    redis.close()


def test_without_a_procfile_the_environment_counts(case: Case) -> None:
    (case.folder / "Procfile").unlink()
    case.set(REMAP_SIGTERM="SIGQUIT", OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")
    found = examine(case.environ, only=["timeouts", "shutdown", "threads"])
    assert [finding.severity for finding in found] == ["ok", "ok", "ok"], found


def test_a_directory_must_fulfil_the_same_contract(case: Case) -> None:
    case.set(ENVIRONMENT="development", STORE_DIR=str(case.folder / "store"), ALLOWED_BUCKETS="")
    found = examine(case.environ, only=["bucket", "time"])
    assert [finding.severity for finding in found] == ["ok", "ok"], found
    files = [path.name for path in (case.folder / "store").rglob("*") if path.is_file()]
    assert files == [".lock"]


def test_checks_that_need_settings_are_skipped_while_settings_are_invalid(case: Case) -> None:
    case.set(TICK_SECONDS="soon")
    found = {finding.check: finding for finding in examine(case.environ)}
    assert list(found) == list(NAMES)
    assert found["settings"].severity == "error"
    assert found["bucket"].message == "skipped"
    assert found["shutdown"].severity == "ok"


def test_a_check_that_raises_is_reported_as_an_error(case: Case) -> None:
    def fail(*_: object) -> None:
        raise ValueError("unexpected")

    case.patch.setattr(bucket, "Probe", fail)
    found = {finding.check: finding for finding in examine(case.environ, only=["bucket", "redis"])}
    assert (found["bucket"].severity, found["redis"].severity) == ("error", "ok")
    assert "ValueError: " in found["bucket"].message


def test_a_check_that_hangs_is_reported_as_an_error(case: Case) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        case.set(R2_ENDPOINT_URL=f"http://127.0.0.1:{port}", REDIS_URL=f"redis://127.0.0.1:{port}/0")
        found = {finding.check: finding for finding in examine(case.environ, deadline_s=2)}
    for thread in threading.enumerate():
        if thread.name.startswith("doctor-"):
            thread.join()
    assert list(found) == list(NAMES)
    assert {found[name].message for name in ("redis", "bucket", "time")} == {"no result within 2 s"}
    assert {found[name].message for name in ("models", "workers", "clock")} == {"skipped"}
    assert found["shutdown"].severity == "ok"


def test_workers_of_another_application_do_not_count_but_their_visibility_timeout_does(case: Case) -> None:
    def examined() -> dict[str, Finding] | None:
        found = {finding.check: finding for finding in examine(case.environ, only=["workers", "timeouts"])}
        return found if "1 of other" in found["workers"].message else None  # a busy worker may answer too late

    guard = case.stack.start_worker(1, case.environ, app="tests.support.hasty_app")
    try:
        found = wait_until(examined, "an answer of the other worker")
    finally:
        case.stack.stop(guard)
    assert "no worker answers (1 of other applications or buckets does)" in found["workers"].message
    assert "has messages redelivered after 60 s (visibility_timeout)" in found["timeouts"].message


def test_the_doctor_needs_requirements_txt_alone(case: Case) -> None:
    case.publish("churn", saved_by="1.0.2")
    code = f"import sys, runpy; sys.path[:0] = [{str(ROOT)!r}, {str(only_the_requirements(case.folder))!r}]; "
    code += "sys.argv = ['worker', 'doctor', '--json']; runpy.run_module('worker', run_name='__main__')"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code],
        env=case.environ,
        cwd=case.folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = {finding["check"]: finding for finding in json.loads(done.stdout)}
    assert list(found) == list(NAMES)
    assert found["packages"]["severity"] == "warning"
    assert "not installed: apprise, cryptography, joblib, numpy" in found["packages"]["message"]
    for what in ("signatures were not checked", "versions were not compared"):
        assert what in found["models"]["message"]


def only_the_requirements(folder: Path) -> Path:
    """Make a directory that contains only the packages of `requirements.txt`, as links to those installed here."""
    site = folder / "site"
    site.mkdir()
    for name in required_by("requirements.txt"):
        try:
            found = distribution(name)
        except PackageNotFoundError:  # a requirement may be for another platform
            continue
        for top in {file.parts[0] for file in found.files or () if file.parts[0] not in ("..", "__pycache__")}:
            if not (site / top).exists():
                os.symlink(str(found.locate_file(top)), site / top)
    return site


def test_a_wheel_requires_ranges_and_a_checkout_pins_versions_within_them(tmp_path: Path) -> None:
    # Given the pins in a checkout's requirement files, and the ranges in the metadata of the package
    for pinned, ranges in zip(required(), required(tmp_path), strict=True):
        # Then both list the same packages, and each pin is inside its range
        assert pinned.keys() == ranges.keys()
        for name, pin in pinned.items():
            (version,) = pin
            assert version.operator == "=="
            assert "==" not in str(ranges[name])
            assert ranges[name].contains(version.version)
