"""A shell in a checkout finds the Celery app and the command line by their names."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from scoreline.worker.dev.stack import ROOT, Stack
from scoreline.worker.version import __version__
from tests.support.waiting import HANG_S
from tests.support.warm import run_script

SHOW_HELP = """
import importlib, pkgutil, runpy, sys
from scoreline.worker import cli

for module in pkgutil.iter_modules(cli.__path__, f"{cli.__name__}."):
    importlib.import_module(module.name)

def show(words, command):
    sys.argv = [SCORELINE, *words, "--help"]
    try:
        runpy.run_path(SCORELINE, run_name="__main__")
    except SystemExit as done:
        assert not done.code, (words, done.code)
    for name, inner in getattr(command, "commands", {}).items():
        show([*words, name], inner)

SCORELINE = sys.argv[1]
show([], sys.modules["scoreline.worker.cli.main"].cli)
"""


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
    # An older Procfile contains `celery -A worker`, the name of the app before the packages were renamed
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


def test_every_command_of_the_installed_script_shows_its_help_outside_the_checkout(tmp_path: Path) -> None:
    # Python runs without PYTHONPATH and the working directory, either of which may contain the checkout's packages
    script = str(Path(sys.executable).with_name("scoreline"))
    done = subprocess.run(
        [sys.executable, "-I", "-c", SHOW_HELP, script],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=HANG_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    shown = [line for line in done.stdout.splitlines() if line.startswith("Usage: ")]
    assert {"Usage: scoreline submit", "Usage: scoreline models list", "Usage: scoreline demo"} <= {
        line.partition(" [")[0] for line in shown
    }


@pytest.mark.parametrize("environ", [{}, {"PYTHONPATH": "/one:/two"}], ids=["", "PYTHONPATH"])
def test_a_forked_script_finds_the_modules_that_a_new_process_finds(tmp_path: Path, environ: dict[str, str]) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import importlib.util, json, sys; print(json.dumps([sys.path, importlib.util.find_spec('tests')]))"
    )
    forked = run_script(str(script), environ=environ, folder=ROOT)
    new = subprocess.run(
        [sys.executable, str(script)],
        env=environ,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=HANG_S,
        check=False,
    )
    assert json.loads(forked.stdout) == json.loads(new.stdout), forked.stderr + new.stderr
    assert json.loads(new.stdout)[1] is None
