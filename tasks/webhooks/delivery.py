"""Notifies another system that a job has ended, with one signed POST request as specified by Standard Webhooks.

To verify the signature, the receiver computes HMAC-SHA256 over ``<webhook-id>.<webhook-timestamp>.<body>`` with the
shared secret. The id stays the same when a notification is sent again, so that the receiver can drop duplicates. See
https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import unquote, urlsplit

from scoreline.storage.errors import InvalidRequest, WebhookRefused, WebhookUnavailable
from scoreline.tasks.job.documents import Status
from scoreline.tasks.webhooks.exchange import post

EXCHANGE_S = 30.0
"""Maximum seconds for the whole exchange with a receiver, even if the receiver answers slowly."""
_TRY_AGAIN = frozenset({408, 425, 429})
_PREFIX = "whsec_"


@dataclass(frozen=True, kw_only=True)
class Notification:
    """A notification, which consists of an id and a JSON body."""

    id: str
    body: bytes


def notification_of(status: Status, run: int, ended: datetime) -> Notification:
    """Return the notification for a job that has ended. The type contains the state, as in ``job.succeeded``.

    The data of the notification are the fields of `Status`, which contain no input rows. The id of the notification
    contains the job id and the run number.
    """
    body = {"type": f"job.{status.state}", "timestamp": ended.isoformat(timespec="seconds"), "data": status.to_dict()}
    return Notification(id=f"{status.job_id}.{run}", body=json.dumps(body, sort_keys=True, ensure_ascii=False).encode())


def check_target(url: str, allowed: Iterable[str], also: str | None = None) -> str:
    """Return `url` if it lies below an allowed address; otherwise raise `InvalidRequest`.

    Scheme, host and port must be equal, and the path must be the allowed path or lie below it. The error message shows
    `url` and the allowed addresses, without user names and queries.

    Parameters
    ----------
    also : str, optional
        One more allowed address. The error message does not show this address, because its path may be a secret.

    >>> check_target("https://example.org/hooks/scoreline", ["https://example.org/hooks"])
    'https://example.org/hooks/scoreline'
    """
    if not isinstance(url, str):
        raise InvalidRequest(f"webhook {url!r} is not an address")
    try:
        wanted = _parts(url)
    except ValueError as error:
        raise InvalidRequest(f"webhook {_shown(url)!r} is not the address of a webhook: {error}") from None
    named = tuple(allowed)
    for other in (*named, also) if also else named:
        place, path = _parts(other)
        if wanted[0] == place and (wanted[1] + "/").startswith(path.rstrip("/") + "/"):
            return url
    known = f"which allows {', '.join(map(_shown, named))}" if named else "which is not set"
    raise InvalidRequest(f"webhook {_shown(url)!r} is not within ALLOWED_WEBHOOKS, {known}")


def address_fault(url: str) -> str:
    """Return why a URL cannot be the address of a webhook; empty if it can. The text does not quote the URL."""
    try:
        _parts(url)
    except ValueError as error:
        return f"it is not the address of a webhook: {error}"
    return ""


def origin(url: str) -> str:
    """Return the scheme and host of a URL. The rest may be a secret and must not be logged.

    >>> origin("https://user:hush@example.org/services/T0/hush?key=hush")
    'https://example.org'
    """
    try:
        parts = urlsplit(url)
    except ValueError:
        return "(malformed)"
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


def _shown(url: str) -> str:
    """Return the scheme, host and path of an address. A text without a host may begin with a password.

    >>> _shown("https://user:hush@example.org/hooks?key=hush"), _shown("example.org/hooks"), _shown("user:hush@host")
    ('https://example.org/hooks', 'example.org/hooks', '(malformed)')
    """
    try:
        parts = urlsplit(url)
    except ValueError:
        return "(malformed)"
    if parts.netloc:
        return origin(url) + parts.path
    return "(malformed)" if "@" in url else url.partition("?")[0].partition("#")[0]


def sign(secret: str, event_id: str, timestamp: int, body: bytes) -> str:
    """Return the value of ``webhook-signature``.

    Parameters
    ----------
    secret : str
        ``whsec_`` followed by a key in base64, or a plain key.
    timestamp : int
        Seconds since 1970. Receivers refuse a timestamp that differs from their clock by minutes.
    """
    signed = b"%s.%d.%s" % (event_id.encode(), timestamp, body)
    return "v1," + base64.b64encode(hmac.new(_key(secret), signed, hashlib.sha256).digest()).decode()


def send(url: str, event: Notification, secret: str) -> None:
    """POST a notification once, without following redirects.

    Raises
    ------
    WebhookRefused
        The receiver refuses the notification, and would refuse a retry.
    WebhookUnavailable
        Transient: the receiver cannot be reached, is busy, or takes longer than `EXCHANGE_S`.
    """
    import urllib3  # imported late, because a process that only submits jobs does not need urllib3

    now = int(datetime.now(UTC).timestamp())
    headers = {
        "content-type": "application/json",
        "user-agent": "scoreline",
        "webhook-id": event.id,
        "webhook-timestamp": str(now),
        "webhook-signature": sign(secret, event.id, now, event.body),
    }
    try:
        status = post(url, event.body, headers, EXCHANGE_S)
    except (TimeoutError, urllib3.exceptions.HTTPError) as error:  # the error text contains the secret address
        raise WebhookUnavailable(f"cannot reach {origin(url)}: {type(error).__name__}") from None
    if 200 <= status < 300:
        return
    if status >= 500 or status in _TRY_AGAIN:
        raise WebhookUnavailable(f"{origin(url)} answered {status}")
    raise WebhookRefused(f"{origin(url)} answered {status}")


def check_secret(secret: str) -> None:
    """Raise `ValueError` if a secret is unsuitable for signing."""
    if len(_key(secret)) < 16:
        raise ValueError("is shorter than 16 bytes")


def _key(secret: str) -> bytes:
    if secret.startswith(_PREFIX):
        try:
            return base64.b64decode(secret.removeprefix(_PREFIX), validate=True)
        except binascii.Error as error:
            raise ValueError("is not base64 after whsec_") from error
    return secret.encode()


def _parts(url: str) -> tuple[tuple[str, str, int], str]:
    """Return the scheme, host and port of an address as a tuple, and its path; raises `ValueError`."""
    parts = urlsplit(url)
    if parts.scheme not in ("https", "http") or not parts.hostname:
        raise ValueError("it must begin with https:// and a host")
    if parts.username is not None or parts.password is not None:
        raise ValueError("it names a user")
    if parts.fragment or any(ord(char) <= 32 or char == "\\" for char in url):
        raise ValueError("it contains characters that no address may contain")
    if any(step in (".", "..") for step in unquote(parts.path).split("/")):
        raise ValueError("its path contains '.' or '..'")
    return (parts.scheme, parts.hostname, parts.port or (443 if parts.scheme == "https" else 80)), parts.path
