"""Formats expected errors for the command line."""

from __future__ import annotations

import os

from scoreline.storage.errors import LedgerUnavailable, QueueUnavailable, ScorelineError, describe
from scoreline.tasks.dispatch.settings import QueueSettings


def explain(error: ScorelineError) -> str:
    """Return an error on one line. If the default address of Redis fails, add that REDIS_URL is not set."""
    if not isinstance(error, LedgerUnavailable | QueueUnavailable):
        return describe(error)
    settings = QueueSettings.from_env(os.environ)
    note = settings.note_of(settings.redis_url if isinstance(error, LedgerUnavailable) else settings.broker_url)
    return describe(error) if note in str(error) else f"{describe(error)}{note}"
