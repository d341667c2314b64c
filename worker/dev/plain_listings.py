"""Answers ListObjectsV2 of the embedded S3 server without moto, in less than a twentieth of its time.

A job lists its input before it does anything else. Moto takes 0.2 ms for each listed object, which is as long as a job
of many small objects takes to fetch one of them. Most of this time passes in a serializer for the answers of all
services, which parses the time of each object again.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import parse_qs, quote
from xml.sax.saxutils import escape

from moto.s3.models import FakeBucket, FakeKey
from moto.utilities.utils import md5_hash

from scoreline.worker.dev.plain_reads import Plain, has_unknown_headers, is_signed
from scoreline.worker.dev.strict import Start

_BUCKET = re.compile(r"/([a-z0-9.-]+)/?", re.ASCII)
_OPTIONS = frozenset(
    ("list-type", "prefix", "delimiter", "continuation-token", "max-keys", "start-after", "encoding-type")
)
_MAX_KEYS = re.compile(r"[1-9][0-9]{0,8}", re.ASCII)
_PAGE_KEYS = "1000"
"""Number of keys of a page if a request does not say how many."""
_BEGIN = '<?xml version="1.0" encoding="utf-8"?>\n<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'


class PlainListings(Plain):
    """Lists objects. Requests that would fail are passed on, too."""

    def __call__(self, environ: dict[str, Any], start: Start) -> Iterable[bytes]:
        """Answer one request."""
        answer = self._list(environ)
        if answer is None:
            return self._app(environ, start)
        start("200 OK", [("Content-Type", "application/xml"), ("Content-Length", str(len(answer)))])
        return [answer]

    def _list(self, environ: dict[str, Any]) -> bytes | None:
        """Return the answer to a request; None if moto has to answer."""
        bucket, options = self._bucket_of(environ), _options(environ)
        if bucket is None or options is None:
            return None
        after = options.get("start-after", "")
        if token := options.get("continuation-token"):
            after = self._backend._pagination_tokens.get(token, "")
            if not after:
                return None
        prefix, delimiter = options.get("prefix", ""), options.get("delimiter", "")
        stored: dict[str, Any] = dict(bucket.keys)  # because other requests write and delete objects meanwhile
        names: Iterable[str] = [name for name in stored if name.startswith(prefix)]
        if delimiter:
            names = {_grouped(name, len(prefix), delimiter) for name in names}
        count = int(options.get("max-keys", _PAGE_KEYS))
        left = sorted(name for name in names if name > after)
        page = left[:count]
        objects, folders = [], []
        for name in page:
            if delimiter and delimiter in name[len(prefix) :]:
                folders.append(name)
            else:
                found = stored[name][-1]  # the latest version
                if not isinstance(found, FakeKey) or found.checksum_algorithm:
                    return None
                objects.append(found)
        following = None
        if len(left) > count:
            following = md5_hash(page[-1].encode()).hexdigest()
            self._backend._pagination_tokens[following] = page[-1]
        return _answer(bucket.name, options, objects, folders, following)

    def _bucket_of(self, environ: dict[str, Any]) -> FakeBucket | None:
        if environ["REQUEST_METHOD"] != "GET" or not is_signed(environ) or has_unknown_headers(environ):
            return None
        path = _BUCKET.fullmatch(environ["RAW_URI"].partition("?")[0])
        bucket = self._backend.buckets.get(path[1]) if path else None
        is_plain = type(bucket) is FakeBucket and not bucket.policy and not bucket.is_versioned
        return bucket if is_plain else None


def _options(environ: Mapping[str, Any]) -> dict[str, str] | None:
    """Return the options of a listing; None if moto has to read them."""
    query = environ.get("QUERY_STRING", "")
    if "+" in query:  # which moto does not read as a space everywhere
        return None
    found = parse_qs(query, keep_blank_values=True)
    options = {name: values[0] for name, values in found.items() if len(values) == 1}
    if len(options) < len(found) or not options.keys() <= _OPTIONS or options.get("list-type") != "2":
        return None
    if options.get("encoding-type", "url") != "url" or not _MAX_KEYS.fullmatch(options.get("max-keys", _PAGE_KEYS)):
        return None
    # A replaced character was not UTF-8, and moto refuses an empty token
    return options if "\ufffd" not in "".join(options.values()) and options.get("continuation-token") != "" else None


def _grouped(name: str, start: int, delimiter: str) -> str:
    """Return the folder of an object, which ends with the first delimiter after `start`, or the object itself.

    >>> _grouped("in/2026/a.parquet", 3, "/"), _grouped("in/a.parquet", 3, "/")
    ('in/2026/', 'in/a.parquet')
    """
    at = name.find(delimiter, start)
    return name if at < 0 else name[: at + len(delimiter)]


def _answer(
    bucket: str, options: Mapping[str, str], objects: Iterable[FakeKey], folders: Iterable[str], following: str | None
) -> bytes:
    """Format a page as moto does."""
    is_url = "encoding-type" in options
    encode = quote if is_url else escape
    contents = [
        f"<Contents><Key>{encode(item.name)}</Key>"
        f"<LastModified>{item.last_modified:%Y-%m-%dT%H:%M:%S}.000Z</LastModified>"
        f"<ETag>{item.etag}</ETag><Size>{item.size}</Size><StorageClass>{item.storage_class}</StorageClass></Contents>"
        for item in objects
    ]
    groups = [f"<CommonPrefixes>{_element('Prefix', encode(folder))}</CommonPrefixes>" for folder in folders]
    tail = [
        _element("Name", bucket),
        _element("Prefix", encode(options.get("prefix", ""))),
        _element("Delimiter", escape(options["delimiter"])) if options.get("delimiter") else "",
        _element("MaxKeys", options.get("max-keys", _PAGE_KEYS)),
        *groups,
        _element("EncodingType", "url") if is_url else "",
        _element("KeyCount", str(len(contents) + len(groups))),
        _element("NextContinuationToken", following) if following else "",
    ]
    if "continuation-token" not in options and options.get("start-after"):
        tail.append(_element("StartAfter", escape(options["start-after"])))
    truncated = _element("IsTruncated", "true" if following else "false")
    return "".join((_BEGIN, truncated, *contents, *tail, "</ListBucketResult>")).encode()


def _element(name: str, text: str) -> str:
    return f"<{name}>{text}</{name}>" if text else f"<{name}/>"
