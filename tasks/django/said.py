"""What an action has done, for the page that follows it. The text is signed, so that nobody else can put one there."""

from __future__ import annotations

from django.core import signing
from django.http import HttpRequest

from scoreline.storage.wording import cut

_SALT = "scoreline.said"
_VALID_S = 60
_MAX_CHARS = 300


def sign_text(text: str) -> str:
    """Return a text as a parameter of an address."""
    return signing.dumps(cut(text, _MAX_CHARS), salt=_SALT, compress=True)


def text_of(request: HttpRequest) -> str:
    """Return the text in the address of a page; empty if there is none, or if it is old."""
    token = request.GET.get("said", "")
    try:
        return str(signing.loads(token, salt=_SALT, max_age=_VALID_S)) if token else ""
    except signing.BadSignature:
        return ""


def why_not_cancelled(state: str, *, has_ended: bool) -> str:
    """Return why a job that a person cancelled is in another state: it was too late."""
    return f"it has ended: {state}" if has_ended else "all of its parts are scored, and its results are being completed"
