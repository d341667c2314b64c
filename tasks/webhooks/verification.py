"""Verifies the signature of a notification, for a receiver of webhooks (see Standard Webhooks)."""

from __future__ import annotations

import hmac

from scoreline.tasks.webhooks.delivery import sign

TOLERANCE_S = 300
"""Seconds by which the time of a request may differ from the clock of the receiver, as Standard Webhooks proposes."""
_MAX_SIGNATURES = 20


def is_authentic(secret: str, event_id: str, timestamp: str, signatures: str, body: bytes, *, now_s: float) -> bool:
    """Return whether a request was signed with a secret, and recently.

    Parameters
    ----------
    secret : str
        The secret of the workers: ``whsec_`` followed by a key in base64, or a plain key.
    event_id, timestamp, signatures : str
        The headers ``webhook-id``, ``webhook-timestamp`` and ``webhook-signature``. While a secret is replaced, a
        sender may send several signatures, separated by spaces.
    now_s : float
        The present time, in seconds since 1970.
    """
    if not (secret and event_id and timestamp.isascii() and timestamp.isdigit() and len(timestamp) < 12):
        return False
    if abs(now_s - int(timestamp)) > TOLERANCE_S:
        return False
    expected = sign(secret, event_id, int(timestamp), body).encode()
    given = signatures.split()[:_MAX_SIGNATURES]
    return any(hmac.compare_digest(expected, one.encode()) for one in given)
