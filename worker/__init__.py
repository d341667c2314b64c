"""The process: Celery app, model cache, control commands, command line.

What a deployment starts lives here, and the settings that it reads. What a job is does not enter. It imports
`scoreline.tasks` and `scoreline.storage`; nothing imports it back.
"""

from __future__ import annotations

from typing import Any


def __getattr__(name: str) -> Any:
    """Give ``celery -A worker`` the one app: deployed Procfiles name it so, where the checkout is on the path."""
    if name == "app":
        from scoreline.worker.celery import app

        return app
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
