"""Sends a GetObject request in half of the CPU time that the client of boto3 takes.

For each request, the client resolves the endpoint again, converts the arguments as the model of the service says, calls
dozens of event handlers, and parses all headers of the response. This takes longer than reading a small object. This
module signs and sends a request with botocore's own signature and HTTP session, and leaves out all the rest.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import quote

from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from botocore.exceptions import BotoCoreError
from botocore.httpsession import URLLib3Session
from botocore.response import StreamingBody
from botocore.utils import get_environ_proxies

from scoreline.storage.settings import R2Settings

log = logging.getLogger(__name__)

_HEADERS = {"Range": "Range", "IfMatch": "If-Match"}
"""The header for each argument of the client's `get_object` that a request may have."""
_METADATA = "x-amz-meta-"
_OFF_S = 600.0
"""Number of seconds for which only the client sends requests after `_MOST_USELESS` failures."""
_MOST_USELESS = 3
"""Number of requests in a row that fail here, although the same request of the client succeeds. After these, only the
client sends requests, because the store or a proxy seems to refuse all others."""


class SignedGet:
    """Reads objects of a bucket. It is thread-safe but not fork-safe.

    Parameters
    ----------
    settings : R2Settings
        Endpoint and credentials.
    bucket : str
        Name of the bucket.
    session : URLLib3Session
        Sends the requests (see `http_session`).
    user_agent : str
        The user agent of the client.
    """

    def __init__(self, settings: R2Settings, bucket: str, session: URLLib3Session, user_agent: str) -> None:
        self._url = f"{settings.endpoint_url.rstrip('/')}/{quote(bucket)}/"
        self._signer = S3SigV4Auth(
            Credentials(settings.access_key_id, settings.secret_access_key), "s3", settings.region
        )
        self._session = session
        self._user_agent = user_agent
        self._useless = 0
        self._off_until_s = float("-inf")

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
        if time.monotonic() < self._off_until_s:
            return by_client()
        headers = {"User-Agent": self._user_agent} | {_HEADERS[name]: value for name, value in conditions.items()}
        request = AWSRequest(method="GET", url=self._url + quote(key), headers=headers, stream_output=True)
        try:
            self._signer.add_auth(request)
            response = self._session.send(request.prepare())
        except BotoCoreError:
            return self._count(by_client())
        found = {name.lower(): value for name, value in response.headers.items()}
        length = found.get("content-length", "")
        if response.status_code not in (200, 206) or "etag" not in found or not length.isdigit():
            response.raw.close()
            busy = response.status_code == 429 or (response.status_code >= 500 and response.status_code != 501)
            return by_client() if busy else self._count(by_client())
        self._useless = 0
        answer = {
            "ETag": found["etag"],
            "ContentLength": int(length),
            "Metadata": {
                name[len(_METADATA) :]: value
                for name, value in response.headers.items()
                if name.lower().startswith(_METADATA)
            },
            "Body": StreamingBody(response.raw, int(length)),
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


def http_session(
    endpoint_url: str, *, ca_bundle: str | None, timeouts_s: tuple[float, float], connections: int
) -> URLLib3Session:
    """Return a session with the same proxies and certificates as that of the client.

    Parameters
    ----------
    ca_bundle : str, optional
        Path of the certificates that the settings of AWS name, such as ``AWS_CA_BUNDLE``.
    timeouts_s : tuple of float
        Seconds to wait for a connection, and for the next bytes of a response.
    connections : int
        Size of the connection pool.
    """
    options: dict[str, Any] = {  # the stubs of botocore have wrong types
        "verify": ca_bundle if ca_bundle is not None else os.environ.get("REQUESTS_CA_BUNDLE", True),
        "proxies": get_environ_proxies(endpoint_url),
        "timeout": timeouts_s,
        "max_pool_connections": connections,
        "socket_options": [(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1), (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)],
    }
    return URLLib3Session(**options)
