from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.rig import Rig


@pytest.fixture(scope="module")
def _at_work(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    with Rig(tmp_path_factory.mktemp("rig")) as running:
        running.start_worker(2)
        yield running


@pytest.fixture
def rig_at_work(_at_work: Rig) -> Rig:
    """A rig with two processes, shared by the tests that leave its services as they were."""
    _at_work.reset()
    return _at_work


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    with Rig(tmp_path) as running:
        yield running
