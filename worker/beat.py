"""The scheduler of beat."""

from __future__ import annotations

from typing import Any

from celery import beat

from scoreline.storage.ledger import shared_connection


class Scheduler(beat.Scheduler):
    """Celery's scheduler, but without a file, and with a connection that is closed after each message."""

    def apply_entry(self, entry: Any, producer: Any = None) -> None:
        """Send the message of an entry of the beat schedule."""
        super().apply_entry(entry, producer)
        shared_connection.close_idle(0)
