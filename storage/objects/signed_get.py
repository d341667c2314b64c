"""Sends a GetObject request in a fifth of the CPU time that the client of boto3 takes.

For each request, the client resolves the endpoint again, converts the arguments as the model of the service says, calls
dozens of event handlers, and parses all headers of the response. This takes longer than reading a small object. This
module signs a request as the client does (AWS Signature Version 4), sends it over a connection of its own
(`connections`), and leaves out all the rest.
"""

from __future__ import annotations

import functools
import hashlib
import hmac
import logging
import os
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote, urlsplit

from botocore.httpsession import where
from botocore.utils import get_environ_proxies

from scoreline.storage.objects.connections import Connections
from scoreline.storage.settings import R2Settings

log = logging.getLogger(__name__)

_HEADERS = {"Range": "range", "IfMatch": "if-match"}
"""The header for each argument of the client's `get_object` that a request may have."""
_METADATA = "x-amz-meta-"
_OFF_S = 600.0
"""Number of seconds for which only the client sends requests after `_MOST_USELESS` failures."""
_MOST_USELESS = 3
"""Number of requests in a row that fail here, although the same request of the client succeeds. After these, only the
client sends requests, because the store or a proxy seems to refuse all others."""
_NO_BODY_SHA256 = hashlib.sha256(b"").hexdigest()


class SignedGet:
    """Reads objects of a bucket. It is thread-safe but not fork-safe.

    Parameters
    ----------
    settings : R2Settings
        Endpoint and credentials.
    bucket : str
        Name of the bucket.
    connections : Connections, optional
        Sends the requests (see `open_connections`). By default, the client sends all requests.
    user_agent : str
        The user agent of the client.
    """

    def __init__(self, settings: R2Settings, bucket: str, connections: Connections | None, user_agent: str) -> None:
        self._url = f"{settings.endpoint_url.rstrip('/')}/{quote(bucket)}/"
        self._path = urlsplit(self._url).path
        self._settings = settings
        self._connections = connections
        self._user_agent = user_agent
        self._useless = 0
        self._off_until_s = float("-inf") if connections is not None else float("inf")

    def get(
        self, key: str, conditions: Mapping[str, str], by_client: Callable[[], Mapping[str, Any]]
    ) -> Mapping[str, Any]:
        """Request an object. If the request fails, let the client send it.

        The request is sent once. The client repeats it as often as necessary, and can explain errors.

        Parameters
        ----------
        conditions : mapping of str to str
            The arguments `Range` and `IfMatch` of the client's `get_object`, if they are needed.
        by_client : callable
            Sends the same request with the client, and returns the answer or raises an error.

        Returns
        -------
        mapping
            Those fields of the client's answer that `R2Store` reads.
        """
        if self._connections is None or time.monotonic() < self._off_until_s:
            return by_client()
        path = self._path + quote(key)
        headers = {_HEADERS[name]: value for name, value in conditions.items()}
        headers = sign(path, headers | {"host": self._connections.host}, self._settings, datetime.now(UTC))
        try:
            response = self._connections.get(path, headers | {"User-Agent": self._user_agent})
        except OSError:
            return self._count(by_client())
        found, status = response.headers, response.status
        if status not in (200, 206) or "etag" not in found:
            response.body.close()
            busy = status == 429 or (status >= 500 and status != 501)
            return by_client() if busy else self._count(by_client())
        self._useless = 0
        answer = {
            "ETag": found["etag"],
            "ContentLength": int(found["content-length"]),
            "Metadata": {name[len(_METADATA) :]: value for name, value in found.items() if name.startswith(_METADATA)},
            "Body": response.body,
        }
        return answer | ({"ContentRange": found["content-range"]} if "content-range" in found else {})

    def _count(self, answer: Mapping[str, Any]) -> Mapping[str, Any]:
        """Count a request that was refused here, but succeeded when the client sent it. Give up after a few.

        The answers of a busy server are not counted, because they do not depend on the form of the request.
        """
        self._useless += 1
        if self._useless >= _MOST_USELESS:
            self._useless, self._off_until_s = 0, time.monotonic() + _OFF_S
            log.warning("store.signed_get_refused", extra={"url": self._url})
        return answer


def sign(path: str, headers: dict[str, str], settings: R2Settings, now: datetime) -> dict[str, str]:
    """Return the headers of a signed GET request without a query, except for ``Host``.

    Parameters
    ----------
    path : str
        The path of the URL, quoted.
    headers : dict of str to str
        The headers to sign besides those that the signature needs, with their names in lower case. One of them must be
        ``host``.
    """
    stamp = now.strftime("%Y%m%dT%H%M%SZ")
    scope = f"{stamp[:8]}/{settings.region}/s3/aws4_request"
    signed = dict(sorted((headers | {"x-amz-content-sha256": _NO_BODY_SHA256, "x-amz-date": stamp}).items()))
    names = ";".join(signed)
    lines = "".join(f"{name}:{text}\n" for name, text in signed.items())
    request = hashlib.sha256(f"GET\n{path}\n\n{lines}\n{names}\n{_NO_BODY_SHA256}".encode()).hexdigest()
    key = _signing_key(settings.secret_access_key, stamp[:8], settings.region)
    signature = hmac.digest(key, f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{request}".encode(), "sha256").hex()
    del signed["host"]
    signed["authorization"] = (
        f"AWS4-HMAC-SHA256 Credential={settings.access_key_id}/{scope}, SignedHeaders={names}, Signature={signature}"
    )
    return signed


@functools.lru_cache(maxsize=4)
def _signing_key(secret: str, day: str, region: str) -> bytes:
    key = f"AWS4{secret}".encode()
    for text in (day, region, "s3", "aws4_request"):
        key = hmac.digest(key, text.encode(), "sha256")
    return key


def open_connections(
    endpoint_url: str, *, ca_bundle: str | None, timeouts_s: tuple[float, float], most_idle: int
) -> Connections | None:
    """Return connections that trust the same certificates as the client; None if the client uses a proxy.

    Parameters
    ----------
    ca_bundle : str, optional
        Path of the certificates that the settings of AWS name, such as ``AWS_CA_BUNDLE``.
    timeouts_s : tuple of float
        Seconds to wait for a connection, and for the next bytes of a response.
    most_idle : int
        Number of idle connections to keep open.
    """
    if get_environ_proxies(endpoint_url):
        return None
    ca_file = ca_bundle if ca_bundle is not None else os.environ.get("REQUESTS_CA_BUNDLE") or where()
    return Connections(endpoint_url, ca_file=ca_file, timeouts_s=timeouts_s, most_idle=most_idle)
