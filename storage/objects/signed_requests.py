"""Sends the requests for one object in a fifth of the CPU time that the client of boto3 takes.

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
import re
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Literal
from urllib.parse import quote, urlsplit

from botocore.exceptions import ClientError
from botocore.httpsession import where
from botocore.utils import get_environ_proxies

from scoreline.storage.objects.connections import Connections, Response
from scoreline.storage.settings import R2Settings

log = logging.getLogger(__name__)

MAX_BODY_BYTES = 256 << 10
"""Maximum size of an object that is written here. Before it sends a body, the client asks whether the store accepts the
write (``Expect: 100-continue``). This takes as long as another request, and is worth it only for large bodies."""
type _Method = Literal["GET", "HEAD", "PUT", "DELETE"]
_HEADERS = {"Range": "range", "IfMatch": "if-match", "IfNoneMatch": "if-none-match"}
"""The header for each argument of the client's methods that makes a request conditional."""
_METADATA = "x-amz-meta-"
_NAME = re.compile(r"[a-z0-9_-]+")
_OFF_S = 600.0
"""Number of seconds for which only the client sends requests of a method after `_MOST_USELESS` failures."""
_MOST_USELESS = 3
"""Number of requests of a method in a row that fail here, although the same request of the client succeeds. After
these, only the client sends requests of this method, because the store or a proxy seems to refuse all others."""
_BUSY = frozenset({409, 429})
"""Statuses, besides those from 500 on, that do not depend on the form of the request."""
_MAX_ERROR_BYTES = 64 << 10


class SignedRequests:
    """Reads, writes and deletes objects of a bucket. It is thread-safe but not fork-safe.

    Each request is sent once. If it fails, the client sends it again, as often as necessary, and explains the error.
    Therefore, errors and retries are those of the client. If a write fails because the connection was lost, the store
    may have written the object, and the client finds it, as if the client had lost the connection (see
    `ObjectStore.put`). Only answers that the client would not handle differently are final: that an object does not
    exist, and that a condition is not fulfilled.

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
        self._useless: dict[_Method, int] = {}
        self._off_until_s: dict[_Method, float] = {}

    def get(
        self, key: str, conditions: Mapping[str, str], by_client: Callable[[], Mapping[str, Any]]
    ) -> Mapping[str, Any]:
        """Request an object.

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

        Raises
        ------
        ClientError
            The object does not exist, or has another ETag. Other errors are those of `by_client`.
        """
        response = self._send("GET", key, conditions)
        if response is None:
            return self._count("GET", by_client())
        found, status = response.headers, response.status
        if status not in (200, 206) or "etag" not in found or response.length is None:
            if status == 412 and "IfMatch" in conditions:
                _finish(response)
                raise _error("GetObject", "PreconditionFailed", response)
            if status == 404 and b"<Code>NoSuchKey</Code>" in _finish(response):  # otherwise the bucket may be missing
                raise _error("GetObject", "NoSuchKey", response)
            return self._leave("GET", response, by_client)
        self._useless["GET"] = 0
        answer = _properties(response) | {"ContentLength": response.length, "Body": response.body}
        return answer | ({"ContentRange": found["content-range"]} if "content-range" in found else {})

    def head(self, key: str, by_client: Callable[[], Mapping[str, Any]]) -> Mapping[str, Any]:
        """Request the properties of an object. Parameters, result and errors are like those of `get`."""
        response = self._send("HEAD", key, {})
        if response is None:
            return self._count("HEAD", by_client())
        size = response.headers.get("content-length", "")
        if response.status == 200 and "etag" in response.headers and size.isascii() and size.isdecimal():
            self._useless["HEAD"] = 0
            return _properties(response) | {"ContentLength": int(size)}
        if response.status == 404:
            response.body.close()
            raise _error("HeadObject", "404", response)
        return self._leave("HEAD", response, by_client)

    def put(
        self,
        key: str,
        data: bytes,
        conditions: Mapping[str, str],
        metadata: Mapping[str, str],
        by_client: Callable[[], Mapping[str, Any]],
    ) -> Mapping[str, Any]:
        """Write an object. Large objects are left to the client, and so is metadata that it would change or refuse.

        Parameters
        ----------
        conditions : mapping of str to str
            The argument `IfMatch` or `IfNoneMatch` of the client's `put_object`, if the write is conditional.
        metadata : mapping of str to str
            The user metadata of the object.
        by_client : callable
            Sends the same request with the client, and returns the answer or raises an error.

        Returns
        -------
        mapping
            The ETag of the new object, as in the client's answer.

        Raises
        ------
        ClientError
            The condition is not fulfilled. Other errors are those of `by_client`.
        """
        if len(data) > MAX_BODY_BYTES or not all(_is_plain(*item) for item in metadata.items()):
            return by_client()
        response = self._send("PUT", key, conditions, data, metadata)
        if response is None:
            return self._count("PUT", by_client())
        if response.status == 200 and "etag" in response.headers:
            self._useless["PUT"] = 0
            _finish(response)
            return {"ETag": response.headers["etag"]}
        if response.status == 412 and conditions:
            _finish(response)
            raise _error("PutObject", "PreconditionFailed", response)
        return self._leave("PUT", response, by_client)

    def delete(self, key: str, by_client: Callable[[], Any]) -> None:
        """Delete an object. Parameters and errors are like those of `get`."""
        response = self._send("DELETE", key, {})
        if response is None:
            self._count("DELETE", by_client())
        elif response.status == 204:
            self._useless["DELETE"] = 0
            response.body.close()
        else:
            self._leave("DELETE", response, by_client)

    def _send(
        self,
        method: _Method,
        key: str,
        conditions: Mapping[str, str],
        data: bytes | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> Response | None:
        """Send a request. Return None if it cannot be sent, or is not answered."""
        if self._connections is None or time.monotonic() < self._off_until_s.get(method, 0.0):
            return None
        path = self._path + quote(key)
        headers = {_HEADERS[name]: value for name, value in conditions.items()}
        headers |= {_METADATA + name: value for name, value in (metadata or {}).items()}
        headers["host"] = self._connections.host
        headers = sign(path, headers, self._settings, datetime.now(UTC), method=method, body=data or b"")
        try:
            return self._connections.send(method, path, headers | {"User-Agent": self._user_agent}, data)
        except OSError:
            return None

    def _leave[Answer](self, method: _Method, response: Response, by_client: Callable[[], Answer]) -> Answer:
        """Let the client send a request again. Count it as useless, unless the answer is that of a busy server."""
        response.body.close()
        status = response.status
        busy = status in _BUSY or (status >= 500 and status != 501)
        return by_client() if busy else self._count(method, by_client())

    def _count[Answer](self, method: _Method, answer: Answer) -> Answer:
        """Count a request that failed here, but succeeded when the client sent it. Give up after a few."""
        if self._connections is None or time.monotonic() < self._off_until_s.get(method, 0.0):
            return answer
        self._useless[method] = self._useless.get(method, 0) + 1
        if self._useless[method] >= _MOST_USELESS:
            self._useless[method], self._off_until_s[method] = 0, time.monotonic() + _OFF_S
            log.warning("store.signed_request_refused", extra={"url": self._url, "method": method})
        return answer


def _properties(response: Response) -> dict[str, Any]:
    """Return the ETag and the user metadata of an object, as in the answers of the client."""
    found = response.headers
    metadata = {name[len(_METADATA) :]: value for name, value in found.items() if name.startswith(_METADATA)}
    return {"ETag": found["etag"], "Metadata": metadata}


def _finish(response: Response) -> bytes:
    """Read a short body, so that the connection can be used again, and return it; otherwise return no bytes."""
    try:
        if response.length is not None and response.length <= _MAX_ERROR_BYTES:
            return response.body.read(response.length)
    except OSError:
        pass  # the status is known
    response.body.close()
    return b""


def _error(operation: str, code: str, response: Response) -> ClientError:
    """Return the error that the client would raise for a response."""
    answered: Any = {
        "Error": {"Code": code, "Message": ""},
        "ResponseMetadata": {"HTTPStatusCode": response.status, "HTTPHeaders": dict(response.headers)},
    }
    return ClientError(answered, operation)


def _is_plain(name: str, value: str) -> bool:
    """Return whether the client would send a field of metadata unchanged, so that it is signed unchanged."""
    return bool(_NAME.fullmatch(name)) and value.isascii() and value.isprintable() and value == " ".join(value.split())


def sign(
    path: str, headers: dict[str, str], settings: R2Settings, now: datetime, *, method: str = "GET", body: bytes = b""
) -> dict[str, str]:
    """Return the headers of a signed request without a query, except for ``Host``.

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
    digest = hashlib.sha256(body).hexdigest()
    signed = dict(sorted((headers | {"x-amz-content-sha256": digest, "x-amz-date": stamp}).items()))
    names = ";".join(signed)
    lines = "".join(f"{name}:{text}\n" for name, text in signed.items())
    request = hashlib.sha256(f"{method}\n{path}\n\n{lines}\n{names}\n{digest}".encode()).hexdigest()
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
