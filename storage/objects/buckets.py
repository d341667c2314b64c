"""Stores by bucket name, for those buckets that the settings allow."""

from __future__ import annotations

from collections.abc import Container, Mapping

from scoreline.storage.errors import BucketNotAllowed
from scoreline.storage.objects.base import ObjectStore
from scoreline.storage.objects.caching import RememberingStore
from scoreline.storage.objects.directory import DirectoryStore
from scoreline.storage.settings import StorageSettings


class Buckets:
    """Opens stores, one a bucket, and keeps them.

    Parameters
    ----------
    settings : StorageSettings
        Where objects live, and which buckets may be named.
    patient : bool
        Whether to wait out transient failures, as a worker does; a person at a terminal wants an answer within
        10 seconds.
    """

    def __init__(self, settings: StorageSettings, *, patient: bool = True) -> None:
        self._settings = settings
        self._patient = patient
        self._open: dict[str, ObjectStore] = {}

    @classmethod
    def from_env(cls, environ: Mapping[str, str], *, patient: bool = True) -> Buckets:
        """Read the settings and open nothing yet."""
        return cls(StorageSettings.from_env(environ), patient=patient)

    @property
    def main(self) -> ObjectStore:
        """The bucket of models and jobs."""
        return self[self._settings.bucket_name]

    def __getitem__(self, bucket: str) -> ObjectStore:
        if bucket not in self._settings.allowed_buckets:
            allowed = ", ".join(sorted(self._settings.allowed_buckets))
            raise BucketNotAllowed(f"bucket {bucket!r} is not in ALLOWED_BUCKETS ({allowed})")
        if bucket not in self._open:
            self._open[bucket] = self._make(bucket)
        return self._open[bucket]

    def remembering(self, fixed: Container[str]) -> Buckets:
        """Return the same stores for one task, which are not asked twice for the objects of the keys `fixed`."""
        return _Remembering(self, fixed)

    def _make(self, bucket: str) -> ObjectStore:
        if self._settings.r2 is None:
            return DirectoryStore(self._settings.store_dir, bucket)
        from scoreline.storage.objects.r2 import (
            R2Store,
        )  # boto3 takes 0.2 s to import

        if self._patient:
            return R2Store(self._settings.r2, bucket, read_timeout_s=self._settings.r2.timeout_s)
        timeout_s = min(20, self._settings.r2.timeout_s)
        return R2Store(self._settings.r2, bucket, max_attempts=2, connect_timeout_s=3, read_timeout_s=timeout_s)


class _Remembering(Buckets):
    def __init__(self, behind: Buckets, fixed: Container[str]) -> None:
        super().__init__(behind._settings, patient=behind._patient)
        self._behind = behind
        self._fixed = fixed

    def _make(self, bucket: str) -> ObjectStore:
        return RememberingStore(self._behind[bucket], self._fixed)
