"""The content of ``_SUCCESS``, which says that all results of a job are complete and for readers."""

from __future__ import annotations

import json
from typing import Any

from scoreline.tasks.job.documents import Job


def encode_success(
    job: Job,
    *,
    rows: int,
    rejected: int,
    parts: int,
    manifest_sha256: str,
    plan_sha256: str = "",
    files: int | None = None,
) -> bytes:
    """Return the content of ``_SUCCESS``. Equal results give equal bytes.

    Parameters
    ----------
    manifest_sha256 : str
        Digest of the results manifest.
    plan_sha256 : str
        Digest of the plan, if the results are arranged.
    files : int, optional
        Number of files into which the results are arranged; None if the parts are the results.
    """
    content: dict[str, Any] = {
        "job_id": job.spec.job_id,
        "model": job.model.ref,
        "rows": rows,
        "rejected": rejected,
        "parts": parts,
        "manifest_sha256": manifest_sha256,
    }
    if files is not None:
        content |= {"plan": plan_sha256, "files": files}
    return json.dumps(content, sort_keys=True).encode()
