"""The keys of the objects that make up a job's results."""

from __future__ import annotations

from dataclasses import dataclass

from scoreline.storage import keys
from scoreline.storage.objects.base import ObjectStore
from scoreline.storage.objects.buckets import Buckets
from scoreline.tasks.job.documents import Job
from scoreline.tasks.job.uris import parse_uri


@dataclass(frozen=True, kw_only=True)
class ResultsLayout:
    """The store of a job's results, and the keys of the result objects."""

    store: ObjectStore
    folder: str
    """Prefix of all objects that the job writes for readers; ends in ``/``."""
    parts_folder: str
    """Prefix of the parts: `folder` itself, or a folder in it that is removed after the results are arranged."""

    @classmethod
    def of(cls, buckets: Buckets, job: Job) -> ResultsLayout:
        """Return the layout of a job; raises `BucketNotAllowed` if its output is in no allowed bucket."""
        bucket, prefix = parse_uri(job.spec.output)
        folder = keys.output_folder(prefix, job.spec.job_id)
        parts_folder = keys.parts_folder(folder) if job.spec.arranged else folder
        return cls(store=buckets[bucket], folder=folder, parts_folder=parts_folder)

    @property
    def keeps_parts(self) -> bool:
        """Whether the parts are the final results.

        Otherwise the parts are arranged into other files, and then deleted.
        """
        return self.parts_folder == self.folder

    def part(self, number: int) -> str:
        """Return the key of a part's scored rows."""
        return keys.result_part(self.parts_folder, number)

    def rejected_part(self, number: int, sha256: str) -> str:
        """Return the key of a part's rejected rows. `sha256` is the digest of the object with the rejected rows."""
        return keys.rejected_part(self.folder, number, sha256)

    def former_rejected_parts(self, number: int) -> tuple[str, str]:
        """Return the keys of a part's rejected rows in results of earlier releases."""
        return keys.former_rejected_parts(self.folder, number)

    @property
    def rejected_folder(self) -> str:
        """Prefix of all rejected rows."""
        return keys.rejected_folder(self.folder)

    @property
    def manifest(self) -> str:
        """Key of the manifest, which lists every part."""
        return keys.results_manifest(self.folder)

    @property
    def profile(self) -> str:
        """Key of the profile of the rows and their scores."""
        return keys.results_profile(self.folder)

    @property
    def report(self) -> str:
        """Key of the page that reports on the job."""
        return keys.results_report(self.folder)

    def carry_part(self, number: int, sha256: str) -> str:
        """Return the key of the scores of a part that a later job may carry over."""
        return keys.carry_part(self.folder, number, sha256)

    @property
    def challenger_folder(self) -> str:
        """Prefix of the results of the challenger."""
        return keys.challenger_folder(self.folder)

    def challenger_part(self, number: int) -> str:
        """Return the key of the challenger's scores of a part."""
        return keys.result_part(self.challenger_folder, number)

    def challenger_failure(self, number: int) -> str:
        """Return the key of the document that says why the challenger has not scored a part."""
        return keys.challenger_failure(self.folder, number)

    @property
    def comparison(self) -> str:
        """Key of the comparison of the challenger with the model of the job."""
        return keys.comparison(self.folder)

    @property
    def success(self) -> str:
        """Key of ``_SUCCESS``, which is written last."""
        return keys.success(self.folder)

    def uri(self, key: str) -> str:
        """Return the full ``s3://`` URI of a key, bucket included."""
        return self.store.uri(key)
