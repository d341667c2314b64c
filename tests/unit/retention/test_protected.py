"""In no bucket does the removal touch anything that is protected, whoever dies in between."""

from __future__ import annotations

import contextlib
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from scoreline.storage import keys
from scoreline.tasks.job.results_keep import ResultsKeep
from scoreline.tasks.retention import rounds
from scoreline.tasks.retention.policies import Policies, read_policies
from tests.support.old_jobs import Died, DyingBuckets, OldJobs

OUTPUTS = ("s3://data/out/", "s3://other/out/", "s3://data/out/b/")
IDS = st.sampled_from(
    (
        *("a", "ab", "a-rejected-1", "a-rejected-1-rejected-1", "a.b", "job_id"),
        *("b-20260101T020000Z", "b-20260101T020000Z-2", "b-20260102T020000Z", "b-20260103T020000Z"),
        *("b-20260102T020000Z-rejected-1", "c-20260101T020000Z"),
    )
)
AGES = st.sampled_from([0.0, 0.5, 1.5, 6.0, 8.0, 13.0, 15.0, 29.0, 31.0, 400.0])


@dataclass(frozen=True)
class Drawn:
    state: str | None
    days: float
    active: bool
    output: str
    rejected: int


JOBS = st.dictionaries(
    IDS,
    st.builds(
        Drawn,
        st.sampled_from(["succeeded", "partial", "failed", "cancelled", None]),
        AGES,
        st.booleans(),
        st.sampled_from(OUTPUTS),
        st.integers(0, 1),
    ),
    max_size=8,
)
KEEPS = st.sampled_from([None, "7d", "30d", 1, 2])


def protected(jobs: dict[str, Drawn], policies: Policies, named: dict[str, list[str]]) -> set[str]:
    """Return the jobs that must stay, by rules that are written anew, from what was drawn."""
    kept = set()
    for job_id, job in jobs.items():
        policy = policies.by_id(job_id)
        complete = job.state in ("succeeded", "partial")
        if (
            policy is None
            or (job.state is None or job.active or job_id in named.get(job.output, []))
            or job.days < (policy.keep.days or (1 if complete else 14))
        ):
            kept.add(job_id)
        elif policy.keep.runs is not None:
            group = [other for other in jobs if (found := policies.by_id(other)) and found.group == policy.group]
            if not policy.group:
                group = [other for other in group if jobs[other].output == job.output]
                order = {other: (-jobs[other].days, number) for number, other in enumerate(jobs)}  # as they are written
                later = [other for other in group if order[other] > order[job_id]]
            else:
                later = [other for other in group if slot(other) > slot(job_id)]
            if sum(jobs[other].state in ("succeeded", "partial") for other in later) < policy.keep.runs:
                kept.add(job_id)
    # A job that may score rejected rows keeps its sources, unless it is removed itself in the same round
    for job_id in sorted(jobs, key=len, reverse=True):
        if any(child in kept and jobs[child].state not in ("succeeded", "partial") for child in below(jobs, job_id)):
            kept.add(job_id)
    return kept


def below(jobs: dict[str, Drawn], job_id: str) -> list[str]:
    """Return the jobs that read the rejected rows of a job, directly or through others."""
    return [
        other for other in jobs if other.startswith(f"{job_id}-rejected-") and parents_rejected(jobs, job_id, other)
    ]


def parents_rejected(jobs: dict[str, Drawn], job_id: str, child: str) -> bool:
    """Return whether each job between a job and its descendant exists and has rejected rows."""
    between = child.removesuffix("-rejected-1")
    if between not in jobs or not jobs[between].rejected or jobs[between].state not in ("succeeded", "partial"):
        return between == job_id and bool(jobs[job_id].rejected)
    return between == job_id or parents_rejected(jobs, job_id, between)


def slot(job_id: str) -> tuple[str, int]:
    text = job_id[2:].split("-")
    return text[0], int(text[1]) if len(text) > 1 else 1


@settings(max_examples=60)
@given(
    jobs=JOBS,
    default=KEEPS,
    schedule=KEEPS,
    named=st.dictionaries(st.sampled_from(OUTPUTS), st.lists(IDS, max_size=2)),
    lives=st.lists(st.integers(0, 40), max_size=2),
)
def test_nothing_protected_is_removed(
    jobs: dict[str, Drawn],
    default: str | int | None,
    schedule: str | int | None,
    named: dict[str, list[str]],
    lives: list[int],
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        old = OldJobs(Path(folder))
        old.in_force(b=schedule)
        for job_id, job in jobs.items():
            source = job_id.removesuffix("-rejected-1")
            old.add(
                job_id,
                state=job.state,
                days=job.days,
                active=job.active,
                output=job.output,
                rejected=job.rejected,
                schedule=None if "-rejected-" in job_id or "T02" not in job_id else job_id[0],
                rejected_of=None if source == job_id else source,
            )
        for output, names in named.items():
            bucket, prefix = output.removeprefix("s3://").split("/", 1)
            old.buckets[bucket].put(f"{prefix}latest.json", json.dumps({"job": names}).encode())
        before = old.objects()
        policies = read_policies(old.main, None if default is None else ResultsKeep.parse(default))
        kept = old.all_of(protected(jobs, policies, named))
        for left in lives:
            with contextlib.suppress(Died):
                rounds.collect(DyingBuckets(Path(folder), left), policies)
            assert kept <= old.objects()
        report = rounds.collect(old.buckets, policies)
        assert report.failed == []
        after = old.objects()
        assert kept <= after <= before
        # And all other jobs are removed, except those that another one needed at the time
        gone = {job_id for job_id in jobs if not old.jobs[job_id].objects <= after}
        assert {job_id for job_id in jobs if job_id not in gone and not below(jobs, job_id)} <= protected(
            jobs, policies, named
        )
        # The objects that are gone are those of jobs with a tombstone, whose removal is complete
        for past in old.jobs.values():
            documents = {info.key for info in old.main.list(f"jobs/{past.job_id}/")}
            if not past.objects <= after:
                assert documents == {keys.job(past.job_id)}
                assert not past.results & after
