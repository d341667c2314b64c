"""Calls an outside monitor when the job of a slot has ended, as Healthchecks and Sentry Crons expect it.

A monitor tells people if it has heard nothing for too long. So it notices when no clock or worker runs any more, which
nothing inside of the deployment can report.
"""

from __future__ import annotations

import logging
import time
from urllib.parse import urlsplit

from scoreline.storage.errors import InvalidRequest, describe
from scoreline.tasks.job.documents import COMPLETE
from scoreline.tasks.webhooks.delivery import origin
from scoreline.tasks.webhooks.exchange import post
from scoreline.tasks.webhooks.settings import WebhookSettings

log = logging.getLogger(__name__)

_STATUS = "{status}"
_TRIES = 3
_DEADLINE_S = 5.0


def address_of(url: str, state: str) -> str:
    """Return the address to call for the state in which a slot has ended.

    If the address contains ``{status}``, it is replaced by ``ok`` or ``error``. Otherwise ``/fail`` is appended to its
    path if the slot has failed.

    >>> address_of("https://sentry.example/cron/nightly/key/?status={status}", "partial")
    'https://sentry.example/cron/nightly/key/?status=ok'
    >>> address_of("https://hc.example/0b8e/?create=1", "blocked")
    'https://hc.example/0b8e/fail?create=1'
    """
    good = state in COMPLETE
    if _STATUS in url:
        return url.replace(_STATUS, "ok" if good else "error")
    parts = urlsplit(url)
    return url if good else parts._replace(path=f"{parts.path.rstrip('/')}/fail").geturl()


def check_in(url: str, webhooks: WebhookSettings, schedule: str, state: str) -> None:
    """Call the monitor of a schedule. If it cannot be reached, this is logged, and the monitor will tell people."""
    import urllib3  # imported late, because a process that only submits jobs does not need urllib3

    try:
        webhooks.check(url)
    except InvalidRequest as error:
        log.error("check_in.failed", extra={"schedule": schedule, "error": describe(error)})
        return
    error_text = ""
    for attempt in range(_TRIES):
        time.sleep(0.5 * attempt)
        try:
            status = post(address_of(url, state), b"", {"user-agent": "scoreline"}, _DEADLINE_S)
        except (TimeoutError, urllib3.exceptions.HTTPError) as error:  # the error text contains the secret address
            error_text = f"cannot reach {origin(url)}: {type(error).__name__}"
            continue
        if 200 <= status < 300:
            log.info("check_in.sent", extra={"schedule": schedule, "state": state, "to": origin(url)})
            return
        error_text = f"{origin(url)} answered {status}"
    log.error("check_in.failed", extra={"schedule": schedule, "error": error_text})
