"""The process: the Celery app, its tasks, the model cache, the command line and the doctor.

This package contains everything that a deployment starts, and the settings that only a worker reads. Jobs are defined
in `scoreline.tasks`. This package may import `scoreline.tasks` and `scoreline.storage`, and neither imports it.
"""

from __future__ import annotations

from typing import Any


def __getattr__(name: str) -> Any:
    """Provide `app` for ``celery -A worker``, which deployed Procfiles use with the checkout on the path."""
    if name == "app":
        from scoreline.worker.celery import app

        return app
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
