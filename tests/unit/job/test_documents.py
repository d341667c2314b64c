"""Documents that earlier and later releases wrote can be read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from scoreline.storage import keys
from scoreline.storage.errors import DocumentCorrupt
from scoreline.storage.models.manifest import PinnedModel
from scoreline.storage.objects.directory import DirectoryStore
from scoreline.tasks.job.documents import Delivery, Job, Outcome, Run, Status, read_job
from scoreline.tasks.job.spec import JobSpec


@pytest.mark.parametrize("kind", [Outcome, Run, Delivery])
def test_a_field_that_a_later_release_adds_is_ignored(kind: type[Outcome | Run | Delivery]) -> None:
    written = {
        Outcome: Outcome(state="failed", failures={}, reason="parts").to_json(),
        Run: Run(number=2).to_json(),
        Delivery: Delivery(run=1, delivered=True).to_json(),
    }[kind]
    later = json.dumps(json.loads(written) | {"from_the_future": 1}).encode()
    assert kind.from_json(later) == kind.from_json(written)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        ("10 of 100 rows were rejected, allowed are 1%", "rejected"),
        ("1 of 2 parts failed; part 1: more rows cannot be scored than the 5 that may be rejected", "rejected"),
        ("1 of 2 parts failed; part 1: RuntimeError: no", ""),
    ],
)
def test_the_reason_of_an_older_outcome_is_read_from_its_error(error: str, reason: str) -> None:
    older = json.dumps({"state": "failed", "error": error, "failures": {}}).encode()
    assert Outcome.from_json(older).reason == reason


def test_an_empty_reason_is_in_no_document_and_in_no_notification() -> None:
    assert "reason" not in json.loads(Outcome(state="cancelled", failures={}).to_json())
    status = Status(job_id="j", state="succeeded", model="m@1", output="s3://data/out/")
    assert "reason" not in status.to_dict()


def test_a_job_document_that_was_copied_to_another_id_is_refused(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path, "data")
    spec = JobSpec(job_id="one", model="m", inputs=("s3://data/in/",), output="s3://data/out/")
    pinned = PinnedModel(name="m", version="20260101T000000Z-aaaaa", manifest_sha256="d" * 64)
    job = Job(spec=spec, model=pinned, submitted="2026-01-01T00:00:00+00:00")
    for name in ("one", "two"):
        store.put(keys.job(name), job.to_json())
    assert read_job(store, "one") == job
    with pytest.raises(DocumentCorrupt, match="it is job 'one'"):
        read_job(store, "two")
