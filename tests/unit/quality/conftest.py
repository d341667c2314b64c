"""Jobs of one output, whose checks find what a test says."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.gated import Gated, gated


@pytest.fixture
def jobs(tmp_path: Path) -> Iterator[Gated]:
    with gated(tmp_path) as found:
        yield found
