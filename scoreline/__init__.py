"""Batch scoring with scikit-learn models: Celery workers, models streamed from Cloudflare R2, results as Parquet.

This module is the public interface. It needs only `requirements.txt`::

    from scoreline import submit, watch

    job = submit("churn@champion", "s3://my-bucket/in/")
    for status in watch(job.job_id):
        print(status.state, status.rows)

`ModelStorageManager` also needs `ml-requirements.txt`, because it loads models. Each name is imported on first use, so
that a process only imports the modules that it needs.
"""

from __future__ import annotations

import importlib
import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scoreline.storage.audit import acting_as
    from scoreline.storage.errors import (
        AccessDenied,
        BucketNotAllowed,
        BucketNotFound,
        DocumentCorrupt,
        InputChanged,
        InputError,
        InputNotFound,
        InvalidKey,
        InvalidRequest,
        InvalidSettings,
        InvalidURI,
        JobConflict,
        JobFailed,
        JobNotFound,
        JobRemoved,
        LedgerError,
        LedgerFenced,
        LedgerLost,
        LedgerUnavailable,
        MissingColumns,
        ModelCorrupt,
        ModelError,
        ModelInUse,
        ModelNotFound,
        ModelUnloadable,
        ModelUntrusted,
        NothingToResume,
        ObjectNotFound,
        PackageMissing,
        PreconditionFailed,
        QueueUnavailable,
        RejectBudgetExceeded,
        ScorelineError,
        ScoringError,
        StoreError,
        StoreUnavailable,
        UnreadableInput,
        WebhookRefused,
        WebhookUnavailable,
    )
    from scoreline.tasks.client import Client, cancel, resume, resume_rejected, status, submit, submit_records, watch
    from scoreline.tasks.job.documents import Status
    from scoreline.tasks.publishing import ModelStorageManager
    from scoreline.tasks.records.job import RecordsJob
    from scoreline.worker.version import __version__

__all__ = [
    "AccessDenied",
    "BucketNotAllowed",
    "BucketNotFound",
    "Client",
    "DocumentCorrupt",
    "InputChanged",
    "InputError",
    "InputNotFound",
    "InvalidKey",
    "InvalidRequest",
    "InvalidSettings",
    "InvalidURI",
    "JobConflict",
    "JobFailed",
    "JobNotFound",
    "JobRemoved",
    "LedgerError",
    "LedgerFenced",
    "LedgerLost",
    "LedgerUnavailable",
    "MissingColumns",
    "ModelCorrupt",
    "ModelError",
    "ModelInUse",
    "ModelNotFound",
    "ModelStorageManager",
    "ModelUnloadable",
    "ModelUntrusted",
    "NothingToResume",
    "ObjectNotFound",
    "PackageMissing",
    "PreconditionFailed",
    "QueueUnavailable",
    "RecordsJob",
    "RejectBudgetExceeded",
    "ScorelineError",
    "ScoringError",
    "Status",
    "StoreError",
    "StoreUnavailable",
    "UnreadableInput",
    "WebhookRefused",
    "WebhookUnavailable",
    "__version__",
    "acting_as",
    "cancel",
    "resume",
    "resume_rejected",
    "status",
    "submit",
    "submit_records",
    "watch",
]

_HOMES = {
    "ModelStorageManager": "scoreline.tasks.publishing",
    "RecordsJob": "scoreline.tasks.records.job",
    "Status": "scoreline.tasks.job.documents",
    "__version__": "scoreline.worker.version",
    "acting_as": "scoreline.storage.audit",
} | dict.fromkeys(
    ("Client", "cancel", "resume", "resume_rejected", "status", "submit", "submit_records", "watch"),
    "scoreline.tasks.client",
)


# If an application does not configure logging, it sees no log messages, rather than their bare names on stderr.
logging.getLogger("scoreline").addHandler(logging.NullHandler())


def __getattr__(name: str) -> Any:
    """Import a public name on first use. Names that are not in `_HOMES` are those of exceptions."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES.get(name, "scoreline.storage.errors")), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List all names of the package, including public names that are not imported yet."""
    return sorted({*globals(), *__all__})
