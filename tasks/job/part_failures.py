"""Stores in the bucket why parts failed.

The ledger stores only summaries that quote no input, because people without access to the bucket may read the ledger.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping

from scoreline.storage import keys
from scoreline.storage.errors import ObjectNotFound, StoreUnavailable
from scoreline.storage.objects.base import ObjectStore


def write_failure(main: ObjectStore, job_id: str, part: int, reason: str) -> None:
    """Store why a part failed. If the store does not answer, only the summary in the ledger remains."""
    with contextlib.suppress(StoreUnavailable):
        main.put(keys.part_failure(job_id, part), reason.encode())


def read_failures(main: ObjectStore, job_id: str, summaries: Mapping[int, str]) -> dict[int, str]:
    """Return the reason for each failed part, by part number.

    If the bucket has no reason, the summary from the ledger is returned.
    """
    return {part: _read(main, keys.part_failure(job_id, part)) or summary for part, summary in summaries.items()}


def _read(main: ObjectStore, key: str) -> str:
    try:
        return main.get(key).data.decode(errors="replace")
    except ObjectNotFound:
        return ""
