"""Tests ``scoreline demo --here`` on a bucket, a Redis and workers that are already running."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from scoreline.storage.objects.base import ObjectStore
from scoreline.worker.dev import demo as steps
from scoreline.worker.dev.stack import Stack
from tests.support.installed import not_installed_by
from tests.support.waiting import HANG_S, wait_until
from tests.support.warm import run_scoreline

Packages = Callable[[], tuple[str, ...]]

DEVELOPMENT: Packages = partial(not_installed_by, "requirements.txt", "ml-requirements.txt")
ESTIMATORS: Packages = partial(tuple, ["sklearn"])


def demo_without(find: Packages | None, environ: dict[str, str], folder: Path, *arguments: str) -> Any:
    """Run ``scoreline demo`` as if the packages that `find` returns were not installed."""
    if find is None:
        return run_scoreline("demo", *arguments, environ={"PATH": os.defpath} | environ, folder=folder)
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({find()!r})); sys.argv[1:] = {['demo', *arguments]!r}\n"
        "from scoreline.worker.cli.main import main; main()"
    )
    return subprocess.run(
        [sys.executable, "-c", code],
        env={"PATH": os.defpath} | environ,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=HANG_S,
        check=False,
    )


def test_the_demo_scores_only_its_own_rows_and_deletes_them(
    worker: Stack, store: ObjectStore, cells: pd.DataFrame, tmp_path: Path
) -> None:
    # Given running workers, an installation without development packages, and input files left by an interrupted demo
    left_behind = steps.new_folder()
    steps.upload(store, cells, 20, left_behind)
    before = {info.key for info in store.list("demo/")}
    # When the demo runs with a different number of rows
    done = demo_without(DEVELOPMENT, worker.environ, tmp_path, "--here", "--rows", "1500")
    # Then the demo scores only its own rows
    assert done.returncode == 0, done.stdout + done.stderr
    assert "rows in 1,500 = rows out 1,500, distinct ids 1,500" in done.stdout
    assert "demo-breast-cancer@" in done.stdout
    # And the demo's files are deleted from the bucket and from the disk
    assert {info.key for info in store.list("demo/")} == before
    assert list(tmp_path.iterdir()) == []


def test_input_that_is_kept_can_be_scored_again(
    worker: Stack, store: ObjectStore, tmp_path: Path, cli: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    done = demo_without(None, worker.environ, tmp_path, "--here", "--rows", "300", "--keep")
    assert done.returncode == 0, done.stdout + done.stderr
    suggested = re.search(r"^again: scoreline (.+)$", done.stdout, re.MULTILINE)
    assert suggested
    again = cli(*suggested[1].split())
    assert (again.returncode, "300 scored, 0 rejected" in again.stdout) == (0, True), again.stdout + again.stderr


def test_the_demo_says_what_to_start_if_only_other_applications_have_workers(
    stack: Stack, cli: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    # Given a broker (another database of the same Redis) whose only worker belongs to another application
    broker = stack.environ["REDIS_URL"].removesuffix("/0") + "/9"
    celery = [sys.executable, "-m", "celery", "-b", broker]
    other = stack.run([*celery, "worker", "-P", "solo", "-n", "other@embedded"], tmp_path / "other.log", {})
    try:
        wait_until(
            lambda: not subprocess.run([*celery, "inspect", "ping"], capture_output=True, check=False).returncode,
            "an answer of the other worker",
            (tmp_path / "other.log").read_text,
        )
        # When the demo is started with this broker
        done = demo_without(None, stack.environ | {"REDIS_URL": broker}, tmp_path, "--here")
        # Then the demo does not wait for the worker of the other application
        assert (done.returncode, done.stdout) == (1, "")
        assert "no worker answers" in done.stderr
        assert "celery -A scoreline worker" in done.stderr
        assert cli("workers", "other@embedded", REDIS_URL=broker).returncode == 1
    finally:
        stack.stop(other)


def test_workers_lists_all_workers_or_checks_one(
    worker: Stack, cli: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    names = wait_until(lambda: cli("workers").stdout.split(), "an answer of a busy worker")
    assert any(name.endswith("@embedded") for name in names)
    assert cli("workers", names[0], "--timeout", "60").stdout.split() == names[:1]
    unknown = cli("workers", "unknown@embedded", "--timeout", "0.5")
    assert (unknown.returncode, unknown.stdout) == (1, "")
    assert unknown.stderr == "unknown@embedded does not answer within 0.5 s\n"


@pytest.mark.parametrize(
    ("missing", "environ", "arguments", "code", "expected"),
    [
        (None, {"R2_BUCKET": "", "R2_ACCESS_KEY_ID": ""}, ("--here",), 2, "R2_ACCESS_KEY_ID is not set; R2_BUCKET is"),
        (None, {"REDIS_URL": "redis://:hush@127.0.0.1:9/0"}, ("--here",), 1, "127.0.0.1:9"),
        (None, {}, ("--here", "--workers", "3"), 2, "--workers cannot be used with --here"),
        (DEVELOPMENT, {}, (), 1, "pip install -r dev-requirements.txt"),
    ],
)
def test_the_demo_reports_at_once_what_is_missing(
    stack: Stack,
    tmp_path: Path,
    missing: Packages | None,
    environ: dict[str, str],
    arguments: tuple[str, ...],
    code: int,
    expected: str,
) -> None:
    done = demo_without(missing, stack.environ | environ, tmp_path, *arguments)
    assert done.returncode == code, done.stderr
    assert expected in done.stderr
    assert "hush" not in done.stderr


def test_the_demo_names_the_requirements_file_if_scikit_learn_is_missing(worker: Stack, tmp_path: Path) -> None:
    done = demo_without(ESTIMATORS, worker.environ, tmp_path, "--here")
    assert done.returncode == 1, done.stderr
    assert "needs 'sklearn': pip install -r ml-requirements.txt" in done.stderr
