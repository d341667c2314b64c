"""Reports failed jobs and unexpected errors to Sentry, once each and without secrets, if SENTRY_DSN is set.

Errors that will be retried are not reported. Log records of level ERROR are not reported either, because each retry may
log the same error again.
"""

from __future__ import annotations

import importlib.util
import logging
import os
from collections import OrderedDict
from collections.abc import Iterable
from typing import Any

from celery.signals import celeryd_after_setup, worker_process_init

from scoreline.storage.errors import JobFailed, describe
from scoreline.worker.logs import redact, secrets_of
from scoreline.worker.version import __version__

log = logging.getLogger(__name__)

_FLUSH_S = 2
_MAX_REMEMBERED = 1_000
_reported: OrderedDict[tuple[Any, ...], None] = OrderedDict()
"""The errors that this process has reported, oldest first."""


def connect() -> None:
    """Set up the main process and each child. Threads and connections do not survive a fork."""
    celeryd_after_setup.connect(_in_parent, weak=False)
    worker_process_init.connect(_in_child, weak=False)


def report(error: BaseException, **where: Any) -> None:
    """Send an error once per process and job. This function never raises an error.

    Sentry's filter drops transient errors. A transient error that is no longer retried is therefore sent as
    `JobFailed`.
    """
    if not _installed() or not _wanted():
        return
    import sentry_sdk

    key = (where.get("job_id"), "part" in where, type(error))
    if key in _reported:
        return
    _reported[key] = None
    while len(_reported) > _MAX_REMEMBERED:
        _reported.popitem(last=False)
    if getattr(error, "transient", False):
        cause, error = error, JobFailed(describe(error))
        error.__cause__ = cause
    with sentry_sdk.new_scope() as scope:
        for name, value in where.items():
            scope.set_tag(name, value)
        sentry_sdk.capture_exception(error)


def scrub(value: Any, hidden: Iterable[str]) -> Any:
    """Redact the secrets in every string of a document.

    >>> scrub({"url": ["redis://:hush-hush@host"], "line": 3}, ["hush-hush"])
    {'url': ['redis://:***@host'], 'line': 3}
    """
    if isinstance(value, str):
        return redact(value, hidden)
    if isinstance(value, dict):
        return {name: scrub(item, hidden) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [scrub(item, hidden) for item in value]
    return value


def _in_parent(**_: Any) -> None:
    if not _wanted():
        return
    if not _installed():
        remedy = "pip install sentry-sdk, or unset SENTRY_DSN"
        log.warning("sentry.missing", extra={"remedy": remedy})
        return
    _init()


def _in_child(**_: Any) -> None:
    if _wanted() and _installed():
        _init()


def _wanted() -> bool:
    return bool(os.environ.get("SENTRY_DSN", "").strip())


def _installed() -> bool:
    return importlib.util.find_spec("sentry_sdk") is not None


def _init() -> None:
    import sentry_sdk
    from sentry_sdk.integrations.atexit import AtexitIntegration
    from sentry_sdk.integrations.celery import CeleryIntegration
    from sentry_sdk.integrations.dedupe import DedupeIntegration
    from sentry_sdk.integrations.excepthook import ExcepthookIntegration
    from sentry_sdk.integrations.logging import LoggingIntegration
    from sentry_sdk.utils import BadDsn

    hidden = secrets_of(os.environ)

    def before_send(event: Any, hint: Any) -> Any:
        error = (hint.get("exc_info") or (None, None))[1]
        if getattr(error, "transient", False):  # will be retried, at the latest by the reconciler
            return None
        return scrub(event, hidden)

    try:
        sentry_sdk.init(
            dsn=os.environ["SENTRY_DSN"].strip(),
            release=None if __version__ == "unknown" else f"scoreline@{__version__}",
            environment=os.environ.get("ENVIRONMENT") or "production",
            send_default_pii=False,
            include_local_variables=False,  # these may contain rows
            default_integrations=False,  # the defaults send arguments, addresses and headers
            auto_enabling_integrations=False,
            integrations=[
                AtexitIntegration(callback=lambda pending, timeout: None),
                CeleryIntegration(propagate_traces=False),
                DedupeIntegration(),
                ExcepthookIntegration(),
                LoggingIntegration(event_level=None, sentry_logs_level=None),  # send log records only as breadcrumbs
            ],
            auto_session_tracking=False,
            shutdown_timeout=_FLUSH_S,
            before_send=before_send,
        )
    except BadDsn as error:
        log.error("sentry.refused", extra={"error": f"SENTRY_DSN is invalid: {error}"})
