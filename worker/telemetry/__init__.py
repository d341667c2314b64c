"""Reports errors of a worker to Sentry, and tasks of a worker to OpenTelemetry, if the service's variable is set.

Other optional services may be added here. The package of a service is imported only if the service's variable is set.
If the package is missing, one warning says what to install. The package `telemetry` may import `logs`, `version`, the
errors of `scoreline.storage` and the signals of Celery.
"""

from __future__ import annotations

from typing import Any

from scoreline.worker.telemetry import faults, traces
from scoreline.worker.telemetry.traces import context as trace_context
from scoreline.worker.telemetry.traces import drop, is_tracing, step, turn_to

__all__ = ["connect", "drop", "is_tracing", "report", "step", "trace_context", "turn_to"]


def connect() -> None:
    """Make each process of a worker set up the services whose variables are set."""
    faults.connect()
    traces.connect()


def report(error: BaseException, **where: Any) -> None:
    """Report a failed job or an unexpected error. `where` contains the job id, and may contain the part."""
    faults.report(error, **where)
    traces.note(error)
