"""Answers PutObject, HeadObject and DeleteObject of the embedded S3 server without moto, in a fraction of its time.

The same holds for GetObject of an object that does not exist, for which moto searches all errors of S3. A small job
writes six objects, and is asked for before it has ended. On a laptop, the server shares the processors with the worker.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterable
from typing import Any
from urllib.parse import unquote

from moto.s3.models import FakeBucket, FakeKey, S3Backend

from scoreline.worker.dev.plain_reads import Plain, has_unknown_headers, is_plain
from scoreline.worker.dev.strict import App, Start, refuse

MAX_BYTES = 1 << 20
"""Maximum size of an object that is written without moto."""
_META = "HTTP_X_AMZ_META_"
_OPTIONS = ("HTTP_CONTENT_MD5", "HTTP_CONTENT_ENCODING", "HTTP_CACHE_CONTROL", "HTTP_RANGE", "HTTP_IF_MODIFIED_SINCE")


class PlainWrites(Plain):
    """Writes, looks up and deletes objects. Requests with options are passed on."""

    def __init__(self, app: App, backend: S3Backend) -> None:
        super().__init__(app, backend)
        self._lock = threading.Lock()

    def __call__(self, environ: dict[str, Any], start: Start) -> Iterable[bytes]:
        """Answer one request."""
        found = self._bucket_of(environ)
        if found is None:
            return self._app(environ, start)
        bucket, key = found
        match environ["REQUEST_METHOD"]:
            case "PUT" if int(environ.get("CONTENT_LENGTH") or MAX_BYTES + 1) <= MAX_BYTES:
                return self._put(bucket, key, environ, start)
            case "DELETE":
                with self._lock:
                    if key in bucket.keys:
                        bucket.keys.pop(key)
                start("204 No Content", [])
                return []
            case "HEAD":
                stored = bucket.keys.get(key)
                if isinstance(stored, FakeKey) and stored.storage_class == "STANDARD":
                    headers: dict[str, str] = {**stored.response_dict, **stored.metadata, "Accept-Ranges": "bytes"}
                    start("200 OK", list(headers.items()))
                    return []
                if stored is None:
                    start("404 Not Found", [("Content-Length", "0")])
                    return []
            case "GET" if key not in bucket.keys:
                return _refuse_absent(start)
        return self._app(environ, start)

    def _put(self, bucket: FakeBucket, key: str, environ: dict[str, Any], start: Start) -> Iterable[bytes]:
        length = int(environ["CONTENT_LENGTH"])
        body = environ["wsgi.input"].read(length)
        if len(body) < length:  # the client died meanwhile: a store must not keep half of an object
            return refuse(start, "400 Bad Request", "IncompleteBody", "The body is shorter than its Content-Length.")
        metadata = {
            f"x-amz-meta-{name.removeprefix(_META).lower().replace('_', '-')}": value
            for name, value in environ.items()
            if name.startswith(_META)
        }
        if environ.get("CONTENT_TYPE"):
            metadata["Content-Type"] = environ["CONTENT_TYPE"]
        account, region, etag = self._backend.account_id, self._backend.region_name, hashlib.md5(body).hexdigest()
        expected, free = environ.get("HTTP_IF_MATCH"), environ.get("HTTP_IF_NONE_MATCH")
        with self._lock:
            before = bucket.keys.get(key)
            if expected is not None and before is None:
                return _refuse_absent(start)
            if (free == "*" and before is not None) or (
                expected is not None and expected.strip('"') != before.etag.strip('"')
            ):
                return refuse(start, "412 Precondition Failed", "PreconditionFailed", "A precondition does not hold.")
            # An object appears as a whole. Moto adds its metadata later, and its ETag when it is first read
            written = FakeKey(key, body, account, region, etag=etag, bucket_name=bucket.name)
            written.set_metadata(metadata)
            written.set_acl(bucket.acl)
            bucket.keys.setlist(key, [written])
        headers = {name: value for name, value in written.response_dict.items() if name != "content-length"}
        start("200 OK", [*headers.items(), ("Content-Length", "0")])
        return []

    def _bucket_of(self, environ: dict[str, Any]) -> tuple[FakeBucket, str] | None:
        """Return the bucket and the key of a request; None if moto has to answer."""
        if not is_plain(environ) or any(name in environ for name in _OPTIONS) or has_unknown_headers(environ, _META):
            return None
        if environ["REQUEST_METHOD"] == "HEAD" and any(name.startswith("HTTP_IF_") for name in environ):
            return None
        path = unquote(environ["RAW_URI"]) if "//" not in environ["RAW_URI"] else ""
        name, _, key = path.removeprefix("/").partition("/")
        bucket: FakeBucket | None = self._backend.buckets.get(name)
        if not key or bucket is None or bucket.policy or bucket.is_versioned or bucket.encryption:
            return None
        return bucket, key


def _refuse_absent(start: Start) -> list[bytes]:
    return refuse(start, "404 Not Found", "NoSuchKey", "The specified key does not exist.")
