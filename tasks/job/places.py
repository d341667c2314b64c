"""Checks where a new job reads and writes, and its id.

Anyone who can reach the broker can submit a job. Therefore a job must not read or overwrite documents of other jobs, or
take the id of a future job of a schedule. These checks apply only to new jobs, not to jobs that were accepted earlier.
"""

from __future__ import annotations

from collections.abc import Sequence

from scoreline.storage import keys
from scoreline.storage.errors import InvalidRequest
from scoreline.tasks.job.spec import JobSpec
from scoreline.tasks.job.uris import literal_prefix, parse_uri

_JOB_FOLDER = "job_id="


def check_places(spec: JobSpec, main: str, allowed_outputs: Sequence[str]) -> None:
    """Raise `InvalidRequest` if a new job may not read its inputs or write to its output.

    Parameters
    ----------
    main : str
        Name of the main bucket.
    allowed_outputs : sequence of str
        Prefixes below which a job may write (see `check_output`).
    """
    known = spec.rejected_of is not None or spec.reads_database  # rejected rows, or rows that a worker stages
    for uri in () if known else spec.inputs:
        check_input(uri, main, spec.job_id)
    bucket, prefix = parse_uri(spec.output)
    if bucket == main and keys.is_reserved(prefix):
        raise InvalidRequest(
            f"output {spec.output!r} is in a folder that Scoreline keeps for itself (jobs/, models/, schedules/, "
            "audit/): choose another place"
        )
    if any(step.startswith(_JOB_FOLDER) for step in prefix.split("/")):
        raise InvalidRequest(
            f"output {spec.output!r} is in the folder of a job's results, which is named {_JOB_FOLDER}...: choose the "
            "folder above it, or another place"
        )
    check_output(spec.output, main, allowed_outputs)


def check_input(uri: str, main: str, job_id: str) -> None:
    """Raise `InvalidRequest` if an input lies in a folder of documents or models.

    A prefix or glob that also matches other objects is accepted, but documents and models are not read (see
    `is_input`).
    """
    bucket, pattern = parse_uri(uri)
    prefix = literal_prefix(pattern)
    if bucket == main and keys.is_reserved(prefix):
        if prefix == pattern and (is_records_of(job_id, pattern) or is_staged_of(job_id, pattern)):
            return
        raise InvalidRequest(
            f"input {uri!r} is in a place that Scoreline keeps for itself (jobs, models, schedules, audit, "
            "schedules.toml, queries.toml): name objects elsewhere"
        )


def is_input(bucket: str, key: str, main: str, job_id: str) -> bool:
    """Return whether a job may read an object as its input."""
    return bucket != main or not keys.is_reserved(key) or is_records_of(job_id, key) or is_staged_of(job_id, key)


def is_records_of(job_id: str, key: str) -> bool:
    """Return whether the records that were submitted with a job are stored under a key."""
    return keys.records_digest(job_id, key) is not None or keys.is_records_bulk(job_id, key)


def is_staged_of(job_id: str, key: str) -> bool:
    """Return whether a key is that of a file of rows that were staged for a job."""
    return key.startswith(keys.staged_folder(job_id)) and not key.endswith("/")


def check_output(output: str, main: str, allowed: Sequence[str]) -> None:
    """Raise `InvalidRequest` if an output is below none of the allowed prefixes.

    Parameters
    ----------
    allowed : sequence of str
        ALLOWED_OUTPUTS; if empty, every place in an allowed bucket is allowed. Default outputs, which are below
        ``results/`` in the main bucket, are always allowed.

    >>> check_output("s3://data/scores/a/", "data", ["s3://data/scores/"])
    """
    if allowed and not output.startswith((*allowed, f"s3://{main}/results/")):
        raise InvalidRequest(
            f"output {output!r} is not within ALLOWED_OUTPUTS, which allows {', '.join(allowed)}: choose one of these"
        )


def check_job_id(job_id: str) -> None:
    """Raise `InvalidRequest` if a job id is reserved, or has the form that schedules use for their jobs."""
    if job_id in keys.RESERVED_JOB_IDS:  # a job of an earlier release may be named "index"
        raise InvalidRequest(f"job id {job_id!r} is reserved: choose another")
    if keys.is_slot_job(job_id):
        raise InvalidRequest(
            f"job id {job_id!r} ends with a time, as those of schedules do, which are reserved: choose another"
        )
