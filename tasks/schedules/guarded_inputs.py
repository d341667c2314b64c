"""Keeps the results of requested jobs out of the inputs of schedules.

A request over the broker chooses the output of its job. Results in the input of a schedule would be scored by its
next job. A schedule itself may read the results of another one.
"""

from __future__ import annotations

from collections.abc import Iterator

from scoreline.storage import keys
from scoreline.storage.errors import InvalidRequest
from scoreline.storage.objects.base import ObjectStore
from scoreline.tasks.job.spec import JobSpec
from scoreline.tasks.job.uris import names, parse_uri
from scoreline.tasks.schedules.file import parse_tables, slots_as_globs
from scoreline.tasks.schedules.in_force import read_in_force


def check_outside_schedules(main: ObjectStore, spec: JobSpec) -> None:
    """Raise `InvalidRequest` if the results of a job would be input of a schedule that is in force."""
    bucket, prefix = parse_uri(spec.output)
    result = keys.result_part(keys.output_folder(prefix, spec.job_id), 0)
    for schedule, uri in _inputs(main):
        where, pattern = parse_uri(slots_as_globs(uri))
        if bucket == where and names(f"{pattern}*" if pattern.endswith("/") else pattern, result):
            raise InvalidRequest(
                f"output {spec.output!r} lies within {uri!r}, which the schedule {schedule!r} reads: choose another "
                "place, or a folder there whose name begins with '_'"
            )


def _inputs(main: ObjectStore) -> Iterator[tuple[str, str]]:
    """Yield the name and each input of the schedules in force."""
    found = read_in_force(main)
    for schedule in parse_tables(found.tables).schedules if found else ():
        for uri in schedule.inputs:
            yield schedule.name, uri
