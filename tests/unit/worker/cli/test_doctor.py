from __future__ import annotations

from typing import Any

import pytest
from click.testing import CliRunner

from scoreline.worker.cli import doctor
from scoreline.worker.cli.main import cli
from scoreline.worker.doctor import Finding


@pytest.mark.parametrize(
    ("options", "severity", "code"),
    [
        ((), "warning", 0),
        ((), "error", 1),
        (("--strict",), "warning", 1),
        (("--only", "workers"), "warning", 1),
        (("--only", "clock,workers"), "warning", 1),
        (("--only", "workers"), "ok", 0),
        (("--only", "redis,workers"), "warning", 0),
    ],
)
def test_a_health_check_fails_if_no_worker_answers(
    options: tuple[str, ...], severity: Any, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = [Finding(check="workers", severity=severity, message="no worker answers", remedy="start one")]
    monkeypatch.setattr(doctor, "examine", lambda **_: found)
    assert CliRunner().invoke(cli, ["doctor", *options]).exit_code == code
