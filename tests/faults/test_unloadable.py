"""A job ends even if one of the workers cannot load its model."""

from __future__ import annotations

import numpy as np

from tests.support.estimators import Paced
from tests.support.rig import Rig


def test_a_worker_with_too_little_memory_leaves_the_job_to_the_other(rig: Rig) -> None:
    model = Paced(seconds=0.2)
    model.weights = np.ones(400_000)  # 3 MB
    rig.publish(model)
    rig.start_worker(1, MODEL_CACHE_MB="1")
    rig.start_worker(1)
    rig.chaos(hold="part-0000")  # while the other worker is at this part, it leaves the next ones to the first worker
    job = rig.submit(12)
    rig.wait(lambda: "model.refused" in rig.logs(), "a refusal")
    rig.chaos()
    rig.verify(rig.end(job))
    logs = [log.read_text() for log in rig.stack.folder.glob("worker*.log")]
    assert sorted("model.refused" in text for text in logs) == [False, True]
