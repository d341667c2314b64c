"""Notifies other systems if the job of a slot was refused.

A refused job has no document in the bucket, so no worker would send its webhook.
"""

from __future__ import annotations

import logging
from datetime import datetime, timedelta

from scoreline.storage.errors import InvalidRequest, WebhookRefused, WebhookUnavailable, describe
from scoreline.tasks.job.documents import Status
from scoreline.tasks.schedules.schedule import Refusal
from scoreline.tasks.webhooks import delivery
from scoreline.tasks.webhooks.notify import Sender
from scoreline.tasks.webhooks.settings import WebhookSettings

log = logging.getLogger(__name__)

_PATIENCE = timedelta(hours=1)
"""How long ticks retry a notification if the receiver does not answer."""


def status_of(refusal: Refusal) -> Status:
    """Return the status of a refused job; the job itself is not recorded."""
    return Status(
        job_id=refusal.job_id,
        state="failed",
        model=refusal.model,
        output=f"{refusal.output}job_id={refusal.job_id}/",
        error=refusal.error,
        reason="request",
        submitted=refusal.at,
    )


def settle(refusal: Refusal, webhooks: WebhookSettings, send: Sender, now: datetime) -> bool:
    """Send the notification of a refusal. Return False if the notification should be sent again later.

    If the webhook of the schedule is not allowed, the default webhook is used, because the job may have been refused
    for its own webhook.
    """
    url = refusal.webhook or webhooks.url
    if url is None:
        return True
    try:
        webhooks.check(url)
    except InvalidRequest as error:
        if webhooks.url is None:
            log.error("event.undelivered", extra={"job_id": refusal.job_id, "error": describe(error)})
            return True
        url = webhooks.url
    if not webhooks.secret:
        reason = "WEBHOOK_SECRET is not set where schedules are run: nothing is sent unsigned"
        log.error("event.undelivered", extra={"job_id": refusal.job_id, "error": reason})
        return True
    ended = datetime.fromisoformat(refusal.at)
    try:
        send(url, delivery.notification_of(status_of(refusal), 1, ended), webhooks.secret)
    except (WebhookRefused, WebhookUnavailable) as error:
        if error.transient and now - ended < _PATIENCE:
            return False
        log.error("event.undelivered", extra={"job_id": refusal.job_id, "error": describe(error)})
        return True
    log.info("event.sent", extra={"job_id": refusal.job_id, "state": "failed", "to": delivery.origin(url)})
    return True
