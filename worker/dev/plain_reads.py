"""Answers the most common request of the embedded S3 server, GetObject without options, in a quarter of moto's time.

A job sends one or two such requests for each small object. On a laptop, the server shares the processors with the
worker. Moto takes a millisecond for a request, mostly in Flask and to find out which of a hundred actions is meant.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any
from urllib.parse import unquote

from moto.s3.models import FakeBucket, FakeKey, S3Backend

from scoreline.worker.dev.strict import App, Start

_HOST = "127.0.0.1"
"""Moto takes the first part of any other host for a bucket."""
_RANGE = re.compile(r"bytes=(\d+)-(\d*)", re.ASCII)
_OPTIONS = ("HTTP_IF_NONE_MATCH", "HTTP_IF_MODIFIED_SINCE", "HTTP_IF_UNMODIFIED_SINCE", "HTTP_X_AMZ_CHECKSUM_MODE")
"""Headers of requests that are left to moto."""
_KNOWN = ("HTTP_X_AMZ_CONTENT_SHA256", "HTTP_X_AMZ_DATE", "HTTP_X_AMZ_SECURITY_TOKEN")


class Plain:
    """Answers some requests from the memory of moto. All others are passed on to moto.

    Parameters
    ----------
    app : WSGI application
        Moto's S3 server.
    backend : S3Backend
        The buckets of that server.
    """

    def __init__(self, app: App, backend: S3Backend) -> None:
        self._app = app
        self._backend = backend


class PlainReads(Plain):
    """Reads objects. Requests that would fail are passed on, too."""

    def __call__(self, environ: dict[str, Any], start: Start) -> Iterable[bytes]:
        """Answer one request."""
        found = self._find(environ)
        if found is None:
            return self._app(environ, start)
        headers: dict[str, str] = {**found.response_dict, **found.metadata, "Accept-Ranges": "bytes"}
        data = found.value
        status = "200 OK"
        if "HTTP_RANGE" in environ:
            span = _RANGE.fullmatch(environ["HTTP_RANGE"])
            first = int(span[1]) if span else len(data)
            last = min(int(span[2]), len(data) - 1) if span and span[2] else len(data) - 1
            if first > last:
                return self._app(environ, start)
            status = "206 Partial Content"
            headers["content-range"] = f"bytes {first}-{last}/{len(data)}"
            data = data[first : last + 1]
        del headers["content-length"]
        headers["Content-Length"] = str(len(data))  # the name as Flask writes it
        start(status, list(headers.items()))
        return [data]

    def _find(self, environ: dict[str, Any]) -> FakeKey | None:
        """Return the object that a request reads; None if moto has to answer."""
        if environ["REQUEST_METHOD"] != "GET" or not is_plain(environ) or any(name in environ for name in _OPTIONS):
            return None
        path = unquote(environ["RAW_URI"]) if "//" not in environ["RAW_URI"] else ""
        name, _, key = path.removeprefix("/").partition("/")
        bucket: FakeBucket | None = self._backend.buckets.get(name)
        if bucket is None or bucket.policy or bucket.is_versioned:
            return None
        found = bucket.keys.get(key)
        if not isinstance(found, FakeKey) or found.storage_class != "STANDARD":
            return None
        wanted = environ.get("HTTP_IF_MATCH")
        return found if wanted in (None, found.etag) else None


def is_plain(environ: dict[str, Any]) -> bool:
    """Return whether a request concerns an object as a whole, is signed, and names its bucket in the path."""
    return not environ.get("QUERY_STRING") and is_signed(environ)


def is_signed(environ: dict[str, Any]) -> bool:
    """Return whether a request is signed in a header, and names its bucket in the path."""
    return "HTTP_AUTHORIZATION" in environ and environ.get("HTTP_HOST", "").partition(":")[0] == _HOST


def has_unknown_headers(environ: dict[str, Any], more: str = "") -> bool:
    """Return whether a request has options of S3 in headers, other than those that begin with `more`."""
    found = (name for name in environ if name.startswith("HTTP_X_AMZ_") and name not in _KNOWN)
    return any(not more or not name.startswith(more) for name in found)
