"""The doctor says where the extensions for models are missing, and what that costs."""

from __future__ import annotations

from typing import Any

import pytest

from scoreline.worker.doctor import packages as module
from scoreline.worker.doctor.packages import packages


@pytest.mark.parametrize("built", [True, False])
@pytest.mark.parametrize("scores", [True, False], ids=["worker", "submitter"])
def test_a_worker_without_the_extensions_for_models_is_a_warning_that_names_the_cost(
    built: bool, scores: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def installed(name: str) -> str | None:
        return version(name) if scores or name != "scikit-learn" else None

    version = module.installed_version
    monkeypatch.setattr(module, "installed_version", installed)
    monkeypatch.setattr(module, "is_available", lambda: built)
    context: Any = None
    found = [finding for finding in packages(context) if "extensions" in finding.message]
    assert len(found) == (scores and not built)
    for finding in found:
        assert finding.severity == "warning"
        assert "takes 3 to 20 times as long" in finding.message
        assert "install a C compiler" in finding.remedy
