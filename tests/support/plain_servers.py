"""Moto's S3 server, and a layer of the embedded server in front of it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any
from urllib.parse import quote

import moto.s3.models
from moto.core.models import DEFAULT_ACCOUNT_ID
from moto.moto_server.werkzeug_app import create_backend_app
from werkzeug.test import EnvironBuilder, run_wsgi_app

_SIGNED = {
    "Authorization": "AWS4-HMAC-SHA256 Credential=k/20260101/auto/s3/aws4_request, SignedHeaders=host, Signature=0"
}
_OTHER = {"x-amzn-requestid", "x-amz-request-id", "x-amz-id-2", "date", "access-control-allow-origin"}
"""Headers that differ between two answers, or that only browsers read."""


class Servers:
    """Moto, and a layer such as `PlainReads` in front of it.

    Parameters
    ----------
    layer : callable
        Takes an application and the buckets of moto, and returns an application.
    bucket : str
        The bucket that is asked for.
    """

    def __init__(self, layer: Callable[..., Any], bucket: str) -> None:
        self.moto = create_backend_app("s3")
        self.passed: list[str] = []
        """Paths of the requests that the layer has passed on."""
        self.plain = layer(self._pass, moto.s3.models.s3_backends[DEFAULT_ACCOUNT_ID]["aws"])
        self._bucket = bucket

    def _pass(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        self.passed.append(environ["RAW_URI"])
        return self.moto(environ, start)

    def put(self, path: str, data: bytes = b"", headers: dict[str, str] | None = None) -> None:
        status, answer, _ = self.ask(self.moto, path, headers or {}, method="PUT", data=data)
        assert status == "200", answer

    def ask(
        self, app: Any, path: str, headers: Mapping[str, str | None], query: str = "", method: str = "GET", **more: Any
    ) -> tuple[str, bytes, dict[str, str]]:
        """Return status, body and headers of an answer. A header that is None is not sent."""
        raw = f"/{self._bucket}{quote(path)}" + (f"?{query}" if query else "")
        sent = {name: value for name, value in {**_SIGNED, **headers}.items() if value is not None}
        builder = EnvironBuilder(raw, "http://127.0.0.1:9000", method=method, headers=list(sent.items()), **more)
        environ = builder.get_environ() | {"RAW_URI": raw, "REQUEST_URI": raw}
        body, status, found = run_wsgi_app(app, environ, buffered=True)
        kept = {name.lower(): value for name, value in found.items() if name.lower() not in _OTHER}
        answer = re.sub(rb"<(RequestId|HostId)>[^<]+</", b"", b"".join(body))
        return status.partition(" ")[0], answer, kept
