"""What the fields of `Scoring` refer to. Migrations of applications name these functions, so they must stay here."""

from __future__ import annotations

import secrets
from datetime import UTC, datetime
from typing import get_args

from scoreline.tasks.job.documents import State

SUBMITTING, REFUSED, REMOVED = "submitting", "refused", "removed"
MAX_NAME, MAX_REASON, MAX_URI = 300, 20, 1200
"""Numbers of characters for which rows have space: names of model versions, reasons, and addresses."""


def new_job_id() -> str:
    """Return an id for a job: the time, and a random number that is long enough for all jobs of a bucket."""
    return f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(8)}"


def states() -> list[tuple[str, str]]:
    """Return the states of a row, for forms and filters."""
    return [(name, name) for name in (SUBMITTING, *get_args(State), REFUSED, REMOVED)]
