"""Deployments that share a broker use different queues."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from scoreline.storage.settings import main_bucket
from scoreline.tasks.dispatch.queue_names import SHARED, QueueNames

OURS = QueueNames.of("ours")
BUCKETS = ("a", "clock", "jobs", "clock.a", "a.clock", "jobs.a", "scoreline")


def test_no_two_buckets_share_a_queue() -> None:
    names = [name for bucket in BUCKETS for name in QueueNames.of(bucket).read if name not in SHARED.read]
    assert len({*names, *SHARED.read}) == 4 * len(BUCKETS) + 4


def test_a_worker_reads_its_own_queues_and_those_of_earlier_releases() -> None:
    own = ("scoreline.jobs.ours", "scoreline.clock.ours", "scoreline.steps.ours", "scoreline.parts.ours")
    assert OURS.read == (*own, "scoreline", "scoreline.clock")


def test_only_parts_are_in_the_queue_of_parts() -> None:
    assert OURS.of_task("scoreline.score_part") == OURS.parts
    assert {OURS.of_task(f"scoreline.{name}") for name in ("plan", "score_staged", "finalize")} == {OURS.steps}
    assert {OURS.of_task(f"scoreline.{name}") for name in ("submit", "score_records")} == {OURS.jobs}
    assert {OURS.of_task(f"scoreline.{name}") for name in ("tick", "reconcile", "status", "events")} == {OURS.clock}


@pytest.mark.parametrize(
    ("read", "is_ours"),
    [
        (OURS.read, True),
        (("scoreline", "scoreline.clock"), True),  # the queues of release 0.1.0
        (QueueNames.of("theirs").read, False),
        ((OURS.clock,), False),
        (("celery",), False),
    ],
)
def test_workers_of_other_deployments_are_distinguished(read: tuple[str, ...], is_ours: bool) -> None:
    assert OURS.are_read_by(read) is is_ours


def test_a_deployment_that_does_not_know_its_bucket_has_the_shared_queues() -> None:
    assert QueueNames.of("").are_read_by(OURS.read)
    assert QueueNames.of("").jobs == "scoreline"


def test_the_processes_of_other_deployments_are_not_counted() -> None:
    answers: dict[str, Any] = {
        "ours@a": {"processes": 2, "cache_bytes": 0, "queue": OURS.jobs},
        "earlier@a": {"processes": 3, "cache_bytes": 0},
        "theirs@a": {"processes": 4, "cache_bytes": 0, "queue": "scoreline.jobs.theirs"},
        "other@a": {"error": "no such command"},
    }
    assert sorted(OURS.own_gauges(answers)) == ["earlier@a", "ours@a"]


def test_the_bucket_is_known_without_credentials() -> None:
    environments: list[dict[str, str]] = [
        {"R2_BUCKET": " ours "},
        {"AWS_STORAGE_BUCKET_NAME": "ours"},
        {"ENVIRONMENT": "development", "R2_BUCKET": "ours"},
    ]
    assert {main_bucket(environ) for environ in environments} == {"ours"}
    assert main_bucket({}) == ""
    assert main_bucket({"ENVIRONMENT": "development"}) == "scoreline"
    for name, value in itertools.product(("DYNO", "FORCE_R2"), ("1",)):
        assert main_bucket({"ENVIRONMENT": "development", name: value}) == ""
