"""What a worker tells others where it is told to: its errors to Sentry, its spans to OpenTelemetry.

Both are optional: without their variables nothing is imported, without their packages one warning says what to install.
"""

from __future__ import annotations

from typing import Any

from scoreline.worker.telemetry import faults, traces


def connect() -> None:
    """Set up in each process of a worker what the environment asks for."""
    faults.connect()
    traces.connect()


def report(error: BaseException, **where: Any) -> None:
    """Tell of a job that failed, or of an error that nobody foresaw; `where` names the job and the part."""
    faults.report(error, **where)
    traces.note(error)
