from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize("module", ["tasks", "tasks.django", "worker.cli.main"])
def test_enqueueing_needs_nothing_of_machine_learning(module: str) -> None:
    code = (
        f"import sys, {module}\n"
        "found = {'sklearn', 'pandas', 'numpy', 'joblib', 'pyarrow', 'scipy'} & sys.modules.keys()\n"
        "sys.exit(f'imported {found}' if found else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
