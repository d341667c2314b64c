"""A shell in a checkout finds the Celery app and the command line by their names."""

from __future__ import annotations

import subprocess
import sys

import pytest

from scoreline.worker.dev.stack import ROOT, Stack
from scoreline.worker.version import __version__
from tests.support.waiting import HANG_S


def run(stack: Stack, *arguments: str) -> str:
    """Run a module as ``python -m`` does, in the folder of the checkout."""
    done = subprocess.run(
        [sys.executable, "-m", *arguments],
        env={"PATH": "/usr/bin:/bin"} | stack.environ,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=HANG_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_celery_finds_one_app_under_both_names(stack: Stack) -> None:
    # A Procfile that was deployed before the packages were renamed says `celery -A worker`
    reports = [run(stack, "celery", "-A", name, "report") for name in ("scoreline", "worker")]
    assert "task_default_queue: 'scoreline.jobs.scoreline'" in reports[0]
    assert reports[0] == reports[1]


def test_a_worker_starts_under_the_old_name_and_knows_every_task(own: Stack) -> None:
    own.start_worker(1, app="worker")
    (log,) = own.folder.glob("worker*.log")
    assert ". scoreline.score_part" in log.read_text()


@pytest.mark.parametrize("module", ["scoreline", "worker"])
def test_the_command_line_also_runs_as_a_module(stack: Stack, module: str) -> None:
    assert run(stack, module, "--version").split()[-1] == __version__
