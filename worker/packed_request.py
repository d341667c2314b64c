"""Packs the message of an application's request as text, so that any process of the deployment can do the request.

The text is in the ledger while all processes are busy (see `scoreline.worker.held_requests`), and is untrusted.
"""

from __future__ import annotations

import json
import zlib
from base64 import b64decode, b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from scoreline.storage import keys
from scoreline.storage.hashing import sha256_hex
from scoreline.storage.ledger.waiting import ALIKE_CHARS, WaitingStep
from scoreline.storage.typed_json import MALFORMED, build, decode_object

REQUEST_TASKS = frozenset({"scoreline.submit", "scoreline.score_records", "scoreline.status"})
"""The tasks that applications without Scoreline may request."""
MAX_BODY_BYTES = 1 << 20
"""Maximum size of a message that is packed: four times the records that a message may carry."""
_KEPT_PROPERTIES = ("correlation_id", "reply_to")


@dataclass(frozen=True, kw_only=True)
class PackedRequest:
    """The message of a request, as Celery's tracer takes it."""

    headers: dict[str, Any]
    body: str
    content_type: str
    content_encoding: str
    properties: dict[str, Any]

    @classmethod
    def of_message(cls, message: Any) -> PackedRequest | None:
        """Return the request in a message of kombu; None if only Celery can do what the message says.

        Celery itself does a request that has a time to begin, a time limit, or a malformed id.
        """
        headers, body = message.headers, message.body
        if headers.get("task") not in REQUEST_TASKS or not keys.is_name(headers.get("id")):
            return None
        if headers.get("eta") or any(headers.get("timelimit") or ()) or has_expired(headers):
            return None
        if isinstance(body, bytes):
            try:
                body = body.decode()
            except UnicodeDecodeError:
                return None
        if not isinstance(body, str) or len(body) > MAX_BODY_BYTES or message.content_type != "application/json":
            return None
        properties = {name: message.properties.get(name) for name in _KEPT_PROPERTIES}
        encoding = message.content_encoding or "utf-8"
        return cls(
            headers=dict(headers),
            body=body,
            content_type=message.content_type,
            content_encoding=encoding,
            properties=properties,
        )

    @property
    def step(self) -> WaitingStep:
        """The request as a step that waits. The job of the step is the id of the message."""
        trace = self.headers.get("traceparent")
        return WaitingStep(
            task=self.headers["task"],
            job_id=self.headers["id"],
            carried=self.to_text(),
            trace=trace if isinstance(trace, str) else "",
        )

    def to_text(self) -> str:
        """Encode. No two requests are alike (see `WaitingStep.carried`), because each has its own id."""
        fields = {
            "headers": self.headers,
            "body": self.body,
            "content_type": self.content_type,
            "content_encoding": self.content_encoding,
            "properties": self.properties,
        }
        packed = b64encode(zlib.compress(json.dumps(fields).encode())).decode()
        return sha256_hex(str(self.headers["id"]).encode())[:ALIKE_CHARS] + packed

    @classmethod
    def of(cls, step: WaitingStep) -> PackedRequest | None:
        """Decode what a step carries; None if it is malformed, or is not the request that the step names."""
        try:
            inflater = zlib.decompressobj()
            raw = inflater.decompress(b64decode(step.carried[ALIKE_CHARS:], validate=True), 4 * MAX_BODY_BYTES)
            found = build(cls, decode_object(raw))
        except (*MALFORMED, zlib.error):
            return None
        named = (found.headers.get("task"), found.headers.get("id"))
        return found if named == (step.task, step.job_id) and step.task in REQUEST_TASKS else None


def has_expired(headers: Mapping[str, Any]) -> bool:
    """Return whether the message must no longer be done. A malformed time counts as expired: Celery decides on it.

    >>> has_expired({"expires": "2026-11-25T06:00:00+00:00"}), has_expired({"expires": None})
    (True, False)
    """
    expires = headers.get("expires")
    if expires is None:
        return False
    try:
        at = datetime.fromisoformat(expires)
    except (TypeError, ValueError):
        return True
    return (at if at.tzinfo else at.replace(tzinfo=UTC)) <= datetime.now(UTC)
