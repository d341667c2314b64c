"""A bucket of moto in this process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import moto.s3.models
from moto.core.models import DEFAULT_ACCOUNT_ID


@contextmanager
def moto_bucket(name: str) -> Iterator[Any]:
    """Create a bucket, and forget it at the end: a process may run the tests of a module in several turns."""
    backends = moto.s3.models.s3_backends
    backend = backends[DEFAULT_ACCOUNT_ID]["aws"]
    yield backend.create_bucket(name, "us-east-1")
    del backend.buckets[name]
    backends.bucket_accounts.pop(name, None)
