"""A deployment with jobs of the past."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.old_jobs import OldJobs


@pytest.fixture
def old(tmp_path: Path) -> OldJobs:
    return OldJobs(tmp_path)
