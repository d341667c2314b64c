"""Requests are signed exactly as botocore signs them."""

from __future__ import annotations

from datetime import UTC, datetime
from hashlib import sha256
from urllib.parse import quote, urlsplit

import pytest
from botocore import auth
from botocore.awsrequest import AWSRequest
from botocore.compat import HTTPHeaders
from botocore.credentials import Credentials

from scoreline.storage.objects.signed_requests import sign
from scoreline.storage.settings import R2Settings

META = {"if-none-match": "*", "x-amz-meta-rows": 'a "b"; c=d'}
NOW = datetime(2026, 11, 29, 23, 59, 58, tzinfo=UTC)


@pytest.mark.parametrize("endpoint", ["https://account.r2.cloudflarestorage.com", "http://127.0.0.1:9000/s3"])
@pytest.mark.parametrize("region", ["auto", "eu-central-1"])
@pytest.mark.parametrize("conditions", [{}, {"if-match": '"e7"'}, {"range": "bytes=5-10", "if-match": '"e7"'}, META])
@pytest.mark.parametrize(("method", "body"), [("GET", b""), ("HEAD", b""), ("DELETE", b""), ("PUT", b"\0\xff")])
@pytest.mark.parametrize("key", ["in/0.parquet", "a b/é+%2F=~(1)'!*.csv", "day=2026-01-01//x"])
def test_a_signature_equals_that_of_botocore(
    endpoint: str,
    region: str,
    conditions: dict[str, str],
    key: str,
    method: str,
    body: bytes,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = R2Settings(endpoint_url=endpoint, access_key_id="AKID", secret_access_key="s/+=ecret", region=region)
    url = f"{endpoint}/data/{quote(key)}"
    # Given the request as botocore signs it
    monkeypatch.setattr(auth, "get_current_datetime", lambda: NOW.replace(tzinfo=None))
    request = AWSRequest(method=method, url=url, headers=dict(conditions), data=body)
    signer = auth.S3SigV4Auth(Credentials("AKID", "s/+=ecret"), "s3", region)
    monkeypatch.setattr(signer, "payload", lambda _: sha256(body).hexdigest())
    signer.add_auth(request)
    expected: HTTPHeaders = request.headers
    # Then each header is the same
    signed = sign(
        urlsplit(url).path, conditions | {"host": urlsplit(url).netloc}, settings, NOW, method=method, body=body
    )
    assert {name.lower(): text for name, text in signed.items()} == {
        name.lower(): text for name, text in expected.items()
    }
