"""Lists the files with the results and the rejected rows that an output, a job or a file stands for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from scoreline.storage import keys
from scoreline.storage.errors import InvalidRequest, ObjectNotFound, ResultsDamaged
from scoreline.storage.objects.buckets import Buckets
from scoreline.tasks.job.documents import read_job
from scoreline.tasks.job.layout import ResultsLayout
from scoreline.tasks.job.plan_file import PlanFile
from scoreline.tasks.job.uris import parse_uri
from scoreline.tasks.quality.gate.pointer import Pointer
from scoreline.tasks.quality.gate.published import stream_files
from scoreline.tasks.rejects.report import committed_rejects

_JOB_FOLDER = "job_id="
_LATEST = "latest.json"


def is_single_file(target: str) -> bool:
    """Return whether a target names one result file.

    >>> is_single_file("s3://data/out/job_id=a/part-00000.parquet"), is_single_file("s3://data/out/latest.json")
    (True, False)
    """
    return target.endswith(".parquet") or ("://" not in target and Path(target).is_file())


def files_of(buckets: Buckets, target: str) -> Iterator[str]:
    """Yield the files that a target stands for: those with results, in order of the input, then the rejected rows.

    Parameters
    ----------
    target : str
        A result file, or the URI of an output, of its ``latest.json`` or of the folder of a job, or the id of a job.

    Raises
    ------
    InvalidRequest
        There is no such job or output, or no run of the output is accepted.
    """
    if is_single_file(target):
        yield target
    elif "://" in target:
        yield from _of_job(buckets, _job_of(buckets, target))
    elif "/" in target or target.startswith("."):
        raise InvalidRequest(f"there is no file {target}: name a result file, an output or a job")
    else:
        yield from _of_job(buckets, target)


def _job_of(buckets: Buckets, target: str) -> str:
    output = target.removesuffix(_LATEST) if target.endswith(f"/{_LATEST}") else target
    output = output if output.endswith("/") else f"{output}/"
    last = output[:-1].rpartition("/")[2]
    if last.startswith(_JOB_FOLDER):
        return last.removeprefix(_JOB_FOLDER)
    parse_uri(output)
    document, _ = Pointer.of(buckets, output).read()
    if document is None or document.job_id is None:
        raise InvalidRequest(f"no run of {output} is accepted: `scoreline results {output}` lists its runs")
    return document.job_id


def _of_job(buckets: Buckets, job_id: str) -> Iterator[str]:
    """Yield the files of a job, whether or not it has ended."""
    layout = ResultsLayout.of(buckets, read_job(buckets.main, job_id))
    try:
        plan = PlanFile(buckets.main, job_id)
    except ObjectNotFound:
        raise InvalidRequest(f"job {job_id} is not planned, so it has no results") from None
    try:
        for file in stream_files(layout.store, layout.folder):
            if not file.uri.startswith(layout.uri(layout.folder)):
                raise ResultsDamaged(f"{file.uri} is not in the folder of its job")
            yield file.uri
    except ObjectNotFound:  # the job has not ended, or not with all its results
        listed = {info.key for info in layout.store.list(layout.parts_folder)}
        numbers = (keys.part_number(key) for key in listed)
        for number in sorted({number for number in numbers if number is not None}):
            if layout.part(number) in listed:
                yield layout.uri(layout.part(number))
    for info in committed_rejects(layout, plan.sha256):
        yield layout.uri(info.key)
