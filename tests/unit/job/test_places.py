"""A new job may not read documents or models, or write among documents, models or the results of another job."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from scoreline.storage.errors import InvalidRequest
from scoreline.tasks.job.places import check_job_id, check_places
from scoreline.tasks.job.spec import JobSpec

SPEC = JobSpec(job_id="j1", model="m@champion", inputs=("s3://data/in/",), output="s3://data/out/")
DIGEST = "f" * 64


def check(allowed: tuple[str, ...] = (), **changed: Any) -> None:
    check_places(replace(SPEC, **changed), "data", allowed)


@pytest.mark.parametrize(
    "uri",
    [
        "s3://data/jobs/x/job.json",
        "s3://data/jobs/",
        "s3://data/jobs/*/job.json",
        "s3://data/jobs/x/*.json",
        "s3://data//jobs/x/job.json",
        "s3://data/models/churn/",
        "s3://data/schedules/nightly/state.json",
        "s3://data/schedules.toml",
        f"s3://data/jobs/j2/records-{DIGEST}.parquet",
        f"s3://data/jobs/j1/records-{DIGEST}.jsonl.gz",
        "s3://data/jobs/j1/plan.json.gz",
    ],
)
def test_an_input_among_documents_and_models_is_refused(uri: str) -> None:
    with pytest.raises(InvalidRequest, match="keeps for itself"):
        check(inputs=("s3://data/in/", uri))


@pytest.mark.parametrize(
    "uri",
    [
        "s3://data/",
        "s3://data/*.csv",
        "s3://data/jobs-of-may.csv",
        "s3://data/in/jobs/a.csv",
        "s3://data/results/churn/job_id=a/",
        "s3://lake/jobs/a.csv",
        f"s3://data/jobs/j1/records-{DIGEST}.parquet",
        f"s3://data/jobs/j1/bulk-{DIGEST}.parquet",
    ],
)
def test_any_other_input_is_accepted_and_so_are_the_records_of_the_job(uri: str) -> None:
    check(inputs=(uri,))


def test_rejected_rows_may_be_those_of_records_of_an_earlier_job() -> None:
    check(inputs=(f"s3://data/jobs/j0/records-{DIGEST}.parquet",), rejected_of="j0")


@pytest.mark.parametrize(
    "output",
    [
        "s3://data/results/churn/job_id=other/",
        "s3://lake/results/job_id=other/deep/",
        "s3://data/jobs/active/",
        "s3://data/models/churn/",
        "s3://data//schedules/",
    ],
)
def test_an_output_among_documents_or_results_of_another_job_is_refused(output: str) -> None:
    with pytest.raises(InvalidRequest, match=r"^output"):
        check(output=output)


@pytest.mark.parametrize("output", ["s3://data/results/my_job_id=x/", "s3://lake/models/out/", "s3://data/jobs-out/"])
def test_any_other_output_is_accepted(output: str) -> None:
    check(output=output)


def test_an_output_lies_within_the_allowed_ones_if_there_are_any() -> None:
    allowed = ("s3://data/scores/", "s3://lake/")
    for output in ("s3://data/scores/", "s3://data/scores/a/", "s3://lake/x/", "s3://data/results/churn/"):
        check(allowed, output=output)
    for output in ("s3://data/scores-of-others/", "s3://data/", "s3://lake2/"):
        with pytest.raises(InvalidRequest, match=r"not within ALLOWED_OUTPUTS, which allows s3://data/scores/, s3://l"):
            check(allowed, output=output)


@pytest.mark.parametrize("job_id", ["nightly-20261125T020000Z", "nightly-20261125T020000Z-2", "a-b-29991231T235959Z"])
def test_an_id_of_the_form_of_slots_is_reserved(job_id: str) -> None:
    with pytest.raises(InvalidRequest, match="those of schedules"):
        check_job_id(job_id)


@pytest.mark.parametrize("job_id", ["20261128T161254Z-123456", "nightly-20261125T020000Z-rejected-1", "nightly-2026"])
def test_an_id_of_another_form_is_accepted(job_id: str) -> None:
    check_job_id(job_id)
