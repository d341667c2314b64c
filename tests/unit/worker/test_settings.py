"""The settings of a worker are read from its environment."""

from __future__ import annotations

import pytest

from scoreline.storage.errors import InvalidSettings
from scoreline.tasks.job.plan import BATCH_BYTES
from scoreline.worker.settings import DEFAULT_SPOOL_BYTES, WorkerSettings


def test_the_memory_of_a_batch_is_given_in_mebibytes() -> None:
    assert WorkerSettings.from_env({}).batch_bytes == BATCH_BYTES == 64 << 20
    assert WorkerSettings.from_env({"BATCH_MB": "8"}).batch_bytes == 8 << 20
    with pytest.raises(InvalidSettings, match="BATCH_MB"):
        WorkerSettings.from_env({"BATCH_MB": "0"})


def test_the_disk_for_small_objects_is_given_in_mebibytes() -> None:
    assert WorkerSettings.from_env({}).spool_bytes == DEFAULT_SPOOL_BYTES == 256 << 20
    assert WorkerSettings.from_env({"SMALL_OBJECTS_MB": "0"}).spool_bytes == 0
    with pytest.raises(InvalidSettings, match="SMALL_OBJECTS_MB"):
        WorkerSettings.from_env({"SMALL_OBJECTS_MB": "-1"})


def test_groups_have_weights() -> None:
    assert WorkerSettings.from_env({}).group_weights == {}
    assert WorkerSettings.from_env({"GROUP_WEIGHTS": " web=3, nightly = 1,"}).group_weights == {"web": 3, "nightly": 1}


@pytest.mark.parametrize(
    ("given", "fault"),
    [
        ("web", "'web' is not of the form NAME=WEIGHT"),
        ("web=0", "'web=0' is not"),
        ("web=1001", "from 1 to 1000"),
        ("web=1.5", "'web=1.5' is not"),
        ("=3", "'=3' is not"),
        ("a b=3", "'a b=3' is not"),
        ("web=-1", "'web=-1' is not"),
        ("web=3,web=4", "'web' has two weights"),
    ],
)
def test_weights_of_another_form_are_refused(given: str, fault: str) -> None:
    with pytest.raises(InvalidSettings, match=fault):
        WorkerSettings.from_env({"GROUP_WEIGHTS": given})
