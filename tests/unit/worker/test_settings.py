"""The settings of a worker are read from its environment."""

from __future__ import annotations

import pytest

from scoreline.storage.errors import InvalidSettings
from scoreline.tasks.job.plan import BATCH_BYTES
from scoreline.worker.settings import WorkerSettings


def test_the_memory_of_a_batch_is_given_in_mebibytes() -> None:
    assert WorkerSettings.from_env({}).batch_bytes == BATCH_BYTES == 64 << 20
    assert WorkerSettings.from_env({"BATCH_MB": "8"}).batch_bytes == 8 << 20
    with pytest.raises(InvalidSettings, match="BATCH_MB"):
        WorkerSettings.from_env({"BATCH_MB": "0"})
