"""Recognize answers that do not come from an S3 server, such as the page of a console or of a portal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from scoreline.storage.errors import NotAnObjectStore

_FIELDS = {
    "get_object": "ETag",
    "head_object": "ETag",
    "put_object": "ETag",
    "upload_part": "ETag",
    "complete_multipart_upload": "ETag",
    "create_multipart_upload": "UploadId",
    "list_objects_v2": "IsTruncated",
}
"""For each method of the client, a field that every S3 server sends. A web page of another server contains none of
these fields."""
_UNPARSED = 500


def check_answer(method: str, answer: Mapping[str, Any], endpoint: str) -> None:
    """Raise `NotAnObjectStore` if an answer lacks a field that every S3 server sends."""
    if (field := _FIELDS.get(method)) and field not in answer:
        if body := answer.get("Body"):
            body.close()
        raise not_a_store(endpoint)


def status_of(code: str, status: int, headers: Mapping[str, str]) -> str:
    """Return an error code or status for a message, and mention a web page, which S3 never sends.

    For a page that it cannot parse, botocore reports status 500, even if the server sent another status.
    """
    if headers.get("content-type", "").startswith("text/html"):
        return f"{'' if status == _UNPARSED else f'{code or status} '}with a web page: is R2_ENDPOINT_URL correct?"
    return code or str(status)


def not_a_store(endpoint: str) -> NotAnObjectStore:
    """Return the error for an address at which something other than an S3 server answers."""
    return NotAnObjectStore(
        f"{endpoint} does not answer like an S3 server: correct R2_ENDPOINT_URL, which may name a console or a portal"
    )
