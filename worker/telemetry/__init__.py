"""Reports the errors of a worker to Sentry and its tasks to OpenTelemetry, if the environment asks for it.

Other services that receive reports may be added here if they are optional: a service is imported only if its variable
is set, and if its package is missing, one warning says what to install. The package may import `logs`, `version`, the
errors of `scoreline.storage` and the signals of Celery.
"""

from __future__ import annotations

from typing import Any

from scoreline.worker.telemetry import faults, traces


def connect() -> None:
    """Make each process of a worker set up the services that the environment selects."""
    faults.connect()
    traces.connect()


def report(error: BaseException, **where: Any) -> None:
    """Report a failed job or an unexpected error. `where` names the job and, if there is one, the part."""
    faults.report(error, **where)
    traces.note(error)
