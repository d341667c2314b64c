"""Prevents jobs that are requested over the broker from writing results into the inputs of schedules.

Any client of the broker can choose the output of its job. The next job of a schedule would score results that are
written into the schedule's input. The jobs of schedules are not checked, so a schedule may read the results of another
schedule.
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
    """Raise `InvalidRequest` if a job would write its results into the input of a schedule in force."""
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
    """Yield the name and the URI of each input of each schedule in force."""
    found = read_in_force(main)
    for schedule in parse_tables(found.tables).schedules if found else ():
        for uri in schedule.inputs:
            yield schedule.name, uri
