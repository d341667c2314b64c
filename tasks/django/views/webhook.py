"""Receives the notifications of the workers, and records in the rows of `Scoring` how their jobs ended."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping
from typing import Any

from django.http import HttpRequest, HttpResponse
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_POST

from scoreline.storage import keys
from scoreline.storage.errors import InvalidSettings, describe, one_line
from scoreline.storage.typed_json import MALFORMED, decode_object, moment
from scoreline.tasks.django.project_client import environ
from scoreline.tasks.django.scoring import sending
from scoreline.tasks.django.scoring.observed import Observed, record
from scoreline.tasks.webhooks.settings import WebhookSettings
from scoreline.tasks.webhooks.verification import is_authentic

log = logging.getLogger(__name__)

MAX_BYTES = 1 << 20
"""Maximum size of a notification. It contains the status of a job, and the findings of its checks."""


@csrf_exempt
@require_POST
def webhook(request: HttpRequest) -> HttpResponse:
    """Record the end of a job in its row, if the request is signed with WEBHOOK_SECRET.

    The same notification may arrive again, and an old one after a new one: the row changes once for each end. After an
    error of a receiver of `on_ended`, the worker sends the notification again.
    """
    try:
        secret = WebhookSettings.from_env(environ()).secret
    except InvalidSettings as error:
        log.error("webhook.unusable", extra={"error": describe(error)})
        return _refuse(503, "The settings of webhooks are wrong; the log of this site says why.")
    if not secret:
        log.error("webhook.unusable", extra={"error": "WEBHOOK_SECRET is not set"})
        return _refuse(503, "WEBHOOK_SECRET is not set, so that no notification can be verified.")
    body = _read(request)
    if body is None:
        return _refuse(413, f"A notification has at most {MAX_BYTES} bytes.")
    names = ("webhook-id", "webhook-timestamp", "webhook-signature")
    event_id, timestamp, signatures = (request.headers.get(name, "") for name in names)
    if not is_authentic(secret, event_id, timestamp, signatures, body, now_s=time.time()):
        log.warning("webhook.refused", extra={"id": event_id[:200]})
        return _refuse(401, "The signature is wrong or too old.")
    try:
        job_id, seen = _decode(event_id, body)
    except MALFORMED as error:
        log.warning("webhook.refused", extra={"id": event_id[:200], "error": describe(error)})
        return _refuse(400, f"This is no notification: {one_line(error)}")
    for model in sending.models():
        for row in sending.rows_of(model).filter(job_id=job_id):
            record(row, seen)
    sending.send_passing()
    return HttpResponse(status=204)


def _read(request: HttpRequest) -> bytes | None:
    """Return the body of a request; None if it is too long. The rest of it is not read."""
    length = request.headers.get("content-length") or "0"
    if not length.isdigit() or int(length) > MAX_BYTES:
        return None
    body: bytes = request.read(MAX_BYTES + 1)
    return body if len(body) <= MAX_BYTES else None


def _decode(event_id: str, body: bytes) -> tuple[str, Observed]:
    """Return the job id and the state in a notification; raises an error of `MALFORMED`."""
    content = decode_object(body)
    data: Any = content.get("data")
    job_id, _, run = event_id.rpartition(".")
    if not isinstance(data, Mapping) or data.get("job_id") != job_id or not keys.is_name(job_id):
        raise ValueError("it is not about the job in its id")
    if not (run.isascii() and run.isdigit() and 0 < len(run) < 9):
        raise ValueError("its id does not name a run")
    return job_id, Observed.from_notification(data, int(run), moment(content.get("timestamp"), "timestamp"))


def _refuse(status: int, reason: str) -> HttpResponse:
    return HttpResponse(json.dumps({"error": reason}), content_type="application/json", status=status)
