"""The names by which a shell finds the Celery app and the command line, in a checkout."""

from __future__ import annotations

import subprocess
import sys

import pytest

from scoreline.worker.dev.stack import ROOT, Stack
from scoreline.worker.version import __version__


def run(stack: Stack, *arguments: str) -> str:
    """Run a module as ``python -m`` does, in the folder of the checkout."""
    done = subprocess.run(
        [sys.executable, "-m", *arguments],
        env={"PATH": "/usr/bin:/bin"} | stack.environ,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_celery_finds_one_app_under_both_names(stack: Stack) -> None:
    # A Procfile that was deployed before the packages were renamed says `celery -A worker`
    reports = [run(stack, "celery", "-A", name, "report") for name in ("scoreline", "worker")]
    assert "scoreline.worker" in reports[0]
    assert reports[0] == reports[1]


def test_a_worker_answers_celery_under_both_names(worker: Stack) -> None:
    for name in ("scoreline", "worker"):
        assert "scoreline.score_part" in run(worker, "celery", "-A", name, "inspect", "registered", "-t", "30")


@pytest.mark.parametrize("module", ["scoreline", "worker"])
def test_the_command_line_is_a_module_too(stack: Stack, module: str) -> None:
    assert run(stack, module, "--version").split()[-1] == __version__
