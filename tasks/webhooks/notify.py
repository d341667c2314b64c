"""Notifies a receiver that a job has ended, and records in the bucket whether the notification was delivered.

The message that requests a notification can get lost. Until the delivery is recorded, the job therefore keeps its
marker in ``jobs/active/``, and the reconciler sends the message ``scoreline.events`` again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from scoreline.storage import keys
from scoreline.storage.errors import (
    InvalidRequest,
    InvalidSettings,
    ScorelineError,
    ScoringError,
    WebhookRefused,
    describe,
)
from scoreline.tasks.dispatch.dispatcher import Dispatcher
from scoreline.tasks.dispatch.leases import hold_step
from scoreline.tasks.dispatch.outcome import clean_up_if_ended, webhook_pending
from scoreline.tasks.dispatch.status import StatusReader
from scoreline.tasks.job.documents import Delivery, Job, Outcome, read_job, read_outcome
from scoreline.tasks.webhooks import delivery
from scoreline.tasks.webhooks.settings import WebhookSettings

log = logging.getLogger(__name__)

type Sender = Callable[[str, delivery.Notification, str], None]
"""Delivers a notification to an address, signed with a secret."""


def notify(dispatcher: Dispatcher, settings: WebhookSettings, job_id: str, send: Sender = delivery.send) -> None:
    """Send a job's notification, unless it was already delivered or the job has no webhook.

    Parameters
    ----------
    send : callable
        Delivers a notification (see `scoreline.tasks.webhooks.delivery.send`).

    Raises
    ------
    WebhookUnavailable, StoreUnavailable, LedgerUnavailable
        Transient: try again.
    """
    main = dispatcher.buckets.main
    job, outcome = read_job(main, job_id), read_outcome(main, job_id)
    if outcome is not None and job.webhook is not None and webhook_pending(main, job, outcome.run):
        try:
            with hold_step(dispatcher, job_id, "events"):
                _send(dispatcher, settings, job, job.webhook, outcome, send)
        except (WebhookRefused, InvalidRequest, InvalidSettings, ScoringError) as error:
            give_up(dispatcher, job_id, error)
            return
        _write_notice(dispatcher, job_id, Delivery(run=outcome.run, delivered=True))
        log.info("event.sent", extra={"job_id": job_id, "state": outcome.state, "to": delivery.origin(job.webhook)})
    clean_up_if_ended(dispatcher, job_id)


def give_up(dispatcher: Dispatcher, job_id: str, error: ScorelineError) -> None:
    """Record that a job's notification was not delivered and will not be retried."""
    outcome = read_outcome(dispatcher.buckets.main, job_id)
    log.error("event.undelivered", extra={"job_id": job_id, "error": describe(error)})
    if outcome is not None:
        _write_notice(dispatcher, job_id, Delivery(run=outcome.run, delivered=False, error=describe(error)))
        clean_up_if_ended(dispatcher, job_id)


def _send(
    dispatcher: Dispatcher, settings: WebhookSettings, job: Job, url: str, outcome: Outcome, send: Sender
) -> None:
    """Send the notification. Check the address again, because another program may have written the job's document."""
    settings.check(url)
    if not settings.secret:
        raise InvalidSettings("WEBHOOK_SECRET is not set for the workers: nothing is sent unsigned")
    ended = datetime.fromisoformat(job.submitted) + timedelta(seconds=outcome.seconds)
    status = StatusReader(dispatcher.buckets.main, dispatcher.ledger).status(job.spec.job_id)
    send(url, delivery.notification_of(status, outcome.run, ended.astimezone(UTC)), settings.secret)


def _write_notice(dispatcher: Dispatcher, job_id: str, notice: Delivery) -> None:
    dispatcher.buckets.main.put(keys.delivery(job_id), notice.to_json())
