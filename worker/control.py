"""Control commands: ``celery -A worker inspect models``. They run in the parent, so they only look."""

from __future__ import annotations

from typing import Any

from celery.worker.control import inspect_command

from worker import lifecycle


@inspect_command()
def models(state: Any) -> dict[str, Any]:
    """Models that each process of the pool holds."""
    return {str(pid): held for pid, held in lifecycle.models().items()}
