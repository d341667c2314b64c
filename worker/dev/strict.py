"""Makes the embedded S3 server as strict as R2, so that tested code also works with R2.

Moto accepts some requests that R2 refuses. This layer refuses such requests, according to R2's documentation:
https://developers.cloudflare.com/r2/api/s3/api/ and https://developers.cloudflare.com/r2/platform/limits/.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import parse_qs
from xml.etree import ElementTree

Start = Callable[..., Any]
App = Callable[[dict[str, Any], Start], Iterable[bytes]]

SECONDS_BETWEEN_WRITES = 1.0
MIN_PART_BYTES = 5 << 20
MAX_KEY_BYTES = 1024
MAX_METADATA_BYTES = 8192
_REMEMBERED = 10_000


class StrictR2:
    """Passes requests on to an S3 server, except requests that R2 would refuse.

    Parameters
    ----------
    app : WSGI application
        The S3 server.
    seconds_between_writes : float
        How long a second write to a key is refused.
    """

    def __init__(self, app: App, seconds_between_writes: float = SECONDS_BETWEEN_WRITES) -> None:
        self._app = app
        self._seconds_between_writes = seconds_between_writes
        self._lock = threading.Lock()
        self._written: dict[str, float] = {}
        self._parts: dict[str, dict[int, int]] = {}

    def __call__(self, environ: dict[str, Any], start: Start) -> Iterable[bytes]:
        """Answer one request."""
        query = parse_qs(environ.get("QUERY_STRING", ""), keep_blank_values=True)
        refusal = _malformed(environ) or self._too_soon(environ, query) or self._unequal(environ, query)
        if refusal is not None:
            return refuse(start, *refusal)

        def note(status: str, headers: list[tuple[str, str]], *more: Any) -> Any:
            if status.startswith("2"):
                self._note(environ, query)
            return start(status, headers, *more)

        return self._app(environ, note)

    def _too_soon(self, environ: dict[str, Any], query: dict[str, list[str]]) -> tuple[str, str, str] | None:
        if not _is_write(environ, query):
            return None
        with self._lock:
            last = self._written.get(environ["PATH_INFO"])
        if last is not None and time.monotonic() - last < self._seconds_between_writes:
            return (
                "429 Too Many Requests",
                "TooManyRequests",
                "Reduce your concurrent request rate for the same object.",
            )
        return None

    def _unequal(self, environ: dict[str, Any], query: dict[str, list[str]]) -> tuple[str, str, str] | None:
        if environ["REQUEST_METHOD"] != "POST" or "uploadId" not in query:
            return None
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        environ["wsgi.input"] = _Replay(body)
        listed = [
            int(node.text or 0) for node in ElementTree.fromstring(body).iter() if node.tag.endswith("PartNumber")
        ]
        with self._lock:
            sizes = self._parts.get(query["uploadId"][0], {})
        known = [sizes[number] for number in listed if number in sizes]
        first, rest, last = known[:1], known[1:-1], known[-1:]
        if any(size != first[0] for size in rest) or last > first or (len(known) > 1 and first[0] < MIN_PART_BYTES):
            return "400 Bad Request", "InvalidPart", "All non-trailing parts must have the same length."
        return None

    def _note(self, environ: dict[str, Any], query: dict[str, list[str]]) -> None:
        with self._lock:
            if _is_write(environ, query):
                self._written[environ["PATH_INFO"]] = time.monotonic()
                while len(self._written) > _REMEMBERED:
                    del self._written[next(iter(self._written))]
            elif environ["REQUEST_METHOD"] == "PUT" and "uploadId" in query:
                sizes = self._parts.setdefault(query["uploadId"][0], {})
                sizes[int(query["partNumber"][0])] = int(environ.get("CONTENT_LENGTH") or 0)
            elif environ["REQUEST_METHOD"] == "DELETE":
                self._parts.pop(query.get("uploadId", [""])[0], None)


class _Replay:
    """A request body that has already been read, and that the S3 server reads again."""

    def __init__(self, body: bytes) -> None:
        self._body = body

    def read(self, size: int = -1) -> bytes:
        """Return the next `size` bytes, or all remaining bytes."""
        size = len(self._body) if size is None or size < 0 else size
        taken, self._body = self._body[:size], self._body[size:]
        return taken


def refuse(start: Start, status: str, code: str, message: str) -> list[bytes]:
    """Send an error in the format of S3."""
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{message}</Message></Error>".encode()
    start(status, [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))])
    return [body]


def _is_write(environ: dict[str, Any], query: dict[str, list[str]]) -> bool:
    """Return whether a request creates an object, as PutObject and CompleteMultipartUpload do."""
    key = environ["PATH_INFO"].lstrip("/").partition("/")[2]
    if environ["REQUEST_METHOD"] == "PUT":
        return bool(key) and "partNumber" not in query
    return environ["REQUEST_METHOD"] == "POST" and "uploadId" in query


def _malformed(environ: dict[str, Any]) -> tuple[str, str, str] | None:
    encoding = environ.get("HTTP_CONTENT_ENCODING", "")
    if (
        "aws-chunked" in encoding
        or "HTTP_X_AMZ_TRAILER" in environ
        or environ.get("HTTP_X_AMZ_CONTENT_SHA256", "").startswith("STREAMING-")
    ):
        return "501 Not Implemented", "NotImplemented", "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER not implemented"
    if encoding:
        return (
            "400 Bad Request",
            "InvalidArgument",
            "Content-Encoding is decoded by R2, which breaks ranges and digests",
        )
    key = environ["PATH_INFO"].lstrip("/").partition("/")[2]
    if len(key.encode("latin-1", "replace")) > MAX_KEY_BYTES:  # WSGI decodes bytes as latin-1
        return "400 Bad Request", "KeyTooLongError", "Your key is too long"
    metadata = sum(
        len(name) - len("HTTP_X_AMZ_META_") + len(value)
        for name, value in environ.items()
        if name.startswith("HTTP_X_AMZ_META_")
    )
    if metadata > MAX_METADATA_BYTES:
        return "400 Bad Request", "MetadataTooLarge", "Your metadata headers exceed the maximum allowed metadata size"
    return None
