"""Open object stores by bucket name. Only the buckets that the settings allow can be opened."""

from __future__ import annotations

from collections.abc import Container, Mapping
from pathlib import Path

from scoreline.storage.errors import BucketNotAllowed
from scoreline.storage.objects.base import ObjectStore
from scoreline.storage.objects.caching import CachingStore
from scoreline.storage.objects.directory import DirectoryStore
from scoreline.storage.objects.partly_local import PartlyLocal
from scoreline.storage.settings import StorageSettings


class Buckets:
    """Object stores for all allowed buckets. Each store is opened when it is first used, and stays open.

    Parameters
    ----------
    settings : StorageSettings
        The settings that name the location of the stores and the allowed buckets.
    fail_fast : bool
        Whether to report an unreachable store within 10 seconds, for use at a terminal. By default, a store retries for
        longer, for use in a worker.
    """

    def __init__(self, settings: StorageSettings, *, fail_fast: bool = False) -> None:
        self._settings = settings
        self._fail_fast = fail_fast
        self._stores: dict[str, ObjectStore] = {}

    @classmethod
    def from_env(cls, environ: Mapping[str, str], *, fail_fast: bool = False) -> Buckets:
        """Read the settings from `environ`. The stores are not opened yet."""
        return cls(StorageSettings.from_env(environ), fail_fast=fail_fast)

    @property
    def main(self) -> ObjectStore:
        """The store for models and jobs."""
        return self[self._settings.bucket_name]

    @property
    def allowed_outputs(self) -> tuple[str, ...]:
        """The prefixes below which jobs may write (see `StorageSettings.allowed_outputs`)."""
        return self._settings.allowed_outputs

    def __getitem__(self, bucket: str) -> ObjectStore:
        if bucket not in self._settings.allowed_buckets:
            allowed = ", ".join(sorted(self._settings.allowed_buckets))
            raise BucketNotAllowed(
                f"bucket {bucket!r} is not in ALLOWED_BUCKETS ({allowed}): add it there, or use one of these"
            )
        if bucket not in self._stores:
            self._stores[bucket] = self._open(bucket)
        return self._stores[bucket]

    def caching(self, immutable: Container[str]) -> Buckets:
        """Return the same stores with a cache, so that objects with keys in `immutable` are read only once."""
        return _CachingBuckets(self, immutable)

    def _open(self, bucket: str) -> ObjectStore:
        if self._settings.r2 is None:
            return DirectoryStore(self._settings.store_dir, bucket)
        from scoreline.storage.objects.r2 import (
            R2Store,
        )  # boto3 takes 0.2 s to import

        if not self._fail_fast:
            return R2Store(self._settings.r2, bucket, read_timeout_s=self._settings.r2.timeout_s)
        timeout_s = min(20, self._settings.r2.timeout_s)
        return R2Store(self._settings.r2, bucket, max_attempts=2, connect_timeout_s=3, read_timeout_s=timeout_s)


class WithLocalFile(Buckets):
    """Other buckets, and the folder of a local file as one more bucket.

    Parameters
    ----------
    name : str
        Stands for the folder where the others have the name of a bucket.
    """

    def __init__(self, behind: Buckets, file: Path, name: str) -> None:
        super().__init__(behind._settings, fail_fast=True)
        self._behind = behind
        folder = file.resolve().parent
        self._local = DirectoryStore(folder.parent, folder.name)
        self._local.bucket = name

    def __getitem__(self, bucket: str) -> ObjectStore:
        return self._local if bucket == self._local.bucket else self._behind[bucket]


class WithLocalFolder(Buckets):
    """Other buckets, of which the objects below a prefix of the main bucket are in a local folder.

    Parameters
    ----------
    prefix : str
        Beginning of the keys of these objects. Nothing else can be written.
    """

    def __init__(self, behind: Buckets, folder: Path, prefix: str) -> None:
        super().__init__(behind._settings, fail_fast=True)
        self._behind = behind
        local = DirectoryStore(folder, behind.main.bucket)
        self._stores[behind.main.bucket] = PartlyLocal(behind.main, local, prefix)

    def _open(self, bucket: str) -> ObjectStore:
        return self._behind[bucket]


class _CachingBuckets(Buckets):
    def __init__(self, behind: Buckets, immutable: Container[str]) -> None:
        super().__init__(behind._settings, fail_fast=behind._fail_fast)
        self._behind = behind
        self._immutable = immutable

    def _open(self, bucket: str) -> ObjectStore:
        return CachingStore(self._behind[bucket], self._immutable)
