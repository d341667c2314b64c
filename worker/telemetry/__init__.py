"""Reports the errors of a worker to Sentry and its tasks to OpenTelemetry, if the environment asks for it.

A service that receives what a worker reports may be added here, as long as it is optional: it is imported only if its
variable is set, and one warning says what to install if its package is missing. The package may import `logs`,
`version`, the errors of `scoreline.storage` and the signals of Celery.
"""

from __future__ import annotations

from typing import Any

from scoreline.worker.telemetry import faults, traces


def connect() -> None:
    """Arrange for each process of a worker to set up the services that the environment asks for."""
    faults.connect()
    traces.connect()


def report(error: BaseException, **where: Any) -> None:
    """Report a job that failed, or an unexpected error; `where` names the job and, if there is one, the part."""
    faults.report(error, **where)
    traces.note(error)
