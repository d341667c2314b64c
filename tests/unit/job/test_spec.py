from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from scoreline.storage.errors import InvalidRequest
from scoreline.storage.models.manifest import PinnedModel
from scoreline.tasks.job.documents import Job
from scoreline.tasks.job.spec import JobSpec, budget_rows, check_apart

SPEC = JobSpec(job_id="j1", model="m@champion", inputs=("s3://data/in/",), output="s3://data/out/")
MODEL = PinnedModel(name="m", version="20260101T000000Z-00000", manifest_sha256="0" * 64)
NOW = "2026-01-01T00:00:00.000+00:00"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("job_id", "../up"),
        ("job_id", ""),
        ("model", "a@b@c"),
        ("model", "a/b"),
        ("inputs", ("/etc/passwd",)),
        ("inputs", ("s3://data/../x",)),
        ("inputs", ()),
        ("inputs", (5,)),
        ("rejected_of", "../up"),
        ("output", "s3://data/out"),
        ("method", "fit"),
        ("max_rejected", "some"),
        ("max_rejected", "101%"),
        ("part_rows", 0),
        ("part_rows", "9"),
        ("max_attempts", 0),
        ("max_attempts", True),
    ],
)
def test_a_malformed_field_is_refused(field: str, value: Any) -> None:
    with pytest.raises(InvalidRequest):
        replace(SPEC, **{field: value}).check()


@pytest.mark.parametrize(
    ("uri", "output", "refused"),
    [
        ("s3://data/in/", "s3://data/in/", True),
        ("s3://data/in/", "s3://data/in/scores/", True),
        ("s3://data/in/", "s3://data/in/_scores/", False),
        ("s3://data/in/", "s3://data/scores/", False),
        ("s3://data/in/", "s3://other/in/", False),
        ("s3://data/*.parquet", "s3://data/out/", True),
        ("s3://data/*.csv", "s3://data/out/", False),
        ("s3://data/out/job_id=a/", "s3://data/out/", False),
        ("s3://data/out/job_id=j1/", "s3://data/out/", True),
        ("s3://data/*-00001.parquet", "s3://data/out/", True),
    ],
)
def test_an_output_that_a_later_job_would_read_as_input_is_refused(uri: str, output: str, refused: bool) -> None:
    spec = replace(SPEC, inputs=("s3://data/first.csv", uri), output=output)
    if refused:
        with pytest.raises(InvalidRequest, match="lies within input"):
            check_apart(spec)
    else:
        check_apart(spec)
    assert spec.check() is spec  # the spec of an existing job stays valid


def test_the_budget_is_a_count_or_a_percentage() -> None:
    assert budget_rows("7", 1000) == 7
    assert budget_rows("2.5%", 1000) == 25
    assert budget_rows("0.29%", 100_000) == 290


def test_the_pace_is_recorded_per_model_version_and_method() -> None:
    job = Job(spec=SPEC, model=MODEL, submitted="2026-01-01")
    others = [
        replace(job, spec=replace(SPEC, method="predict")),
        replace(job, spec=replace(SPEC, method="predict_proba")),
        replace(job, model=replace(MODEL, version="2")),
        replace(job, model=replace(MODEL, name="n")),
    ]
    assert len({one.work for one in (job, *others)}) == 5
    assert replace(job, spec=replace(SPEC, job_id="j2"), submitted="2026-01-02").work == job.work


def test_a_job_document_of_the_time_of_single_inputs_can_be_read() -> None:
    job = Job(spec=SPEC, model=MODEL, submitted=NOW)
    old = json.loads(job.to_json())
    old["spec"] = {name: value for name, value in old["spec"].items() if name not in ("inputs", "read", "rejected_of")}
    old["spec"]["input"] = "s3://data/in/"
    assert Job.from_json(json.dumps(old).encode()) == job


def test_a_job_survives_its_encoding() -> None:
    job = Job(spec=SPEC, model=MODEL, submitted=NOW)
    assert Job.from_json(job.to_json()) == job
