"""Where a job's results and parts lie."""

from __future__ import annotations

from scoreline.storage import keys
from scoreline.storage.objects.base import ObjectStore
from scoreline.storage.objects.buckets import Buckets
from scoreline.tasks.job.documents import Job
from scoreline.tasks.job.uris import parse_uri


def results(buckets: Buckets, job: Job) -> tuple[ObjectStore, str]:
    """Store and folder of a job's results."""
    bucket, prefix = parse_uri(job.spec.output)
    return buckets[bucket], keys.output_folder(prefix, job.spec.job_id)


def parts(buckets: Buckets, job: Job) -> tuple[ObjectStore, str]:
    """Store and folder of a job's parts: that of the results, unless these are arranged from the parts."""
    store, folder = results(buckets, job)
    return store, keys.parts_folder(folder) if job.spec.arranged else folder
