"""Defines the processes of a deployment: the Celery app, its tasks, the model cache, the command line and the doctor.

This package contains all programs that a deployment runs, and the settings that only a worker reads. The package
`scoreline.tasks` defines jobs. This package may import `scoreline.tasks` and `scoreline.storage`, which may not import
this package.
"""

from __future__ import annotations

from typing import Any


def __getattr__(name: str) -> Any:
    """Provide `app` for ``celery -A worker``, the deprecated form of ``celery -A scoreline``."""
    if name == "app":
        from scoreline.worker.celery import app

        return app
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
