"""Plain listings of the embedded S3 server have the same answers as those of moto."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from urllib.parse import quote

import moto.s3.models
import pytest
from moto.core.models import DEFAULT_ACCOUNT_ID

from scoreline.worker.dev.plain_listings import PlainListings
from tests.support.moto_bucket import moto_bucket
from tests.support.plain_servers import Servers

BUCKET = "plain-listings"
KEYS = ("a/1", "a/2.csv", "a/b c/é+&<\">'.txt", "a/b c/z", "a/b/a/b/deep", "a-b", "a", "b/%2F", "z/", "é")
_ODD = "a/b c/é+&<"


@pytest.fixture(scope="module")
def servers() -> Iterator[Servers]:
    made = Servers(PlainListings, BUCKET)
    with moto_bucket(BUCKET) as bucket:
        for number, key in enumerate(KEYS):
            made.put(f"/{key}", bytes(number))
            bucket.keys[key].last_modified = datetime(2026, 1, 2, 3, 4, number, 500_000, tzinfo=UTC)
        yield made


def listed(servers: Servers, query: str, path: str = "") -> bytes:
    """Return the answer of the layer, after comparing it with that of moto."""
    servers.passed.clear()
    expected = servers.ask(servers.moto, path, {}, query)
    status, answer, headers = servers.ask(servers.plain, path, {}, query)
    assert (status, answer, headers | {"server": "amazon.com"}) == expected
    assert status == "200"
    assert not servers.passed
    return answer


@pytest.mark.parametrize("encoding", ["", "&encoding-type=url"])
@pytest.mark.parametrize("after", ["", "&start-after=a%2F2.csv", f"&start-after={quote(_ODD)}", "&start-after="])
@pytest.mark.parametrize("delimiter", ["", "&delimiter=%2F", "&delimiter=b%2F", "&delimiter="])
@pytest.mark.parametrize("prefix", ["", "&prefix=", "&prefix=a%2F", "&prefix=a", f"&prefix={quote(_ODD)}", "&prefix=q"])
def test_a_plain_listing_has_the_answer_of_moto(
    servers: Servers, prefix: str, delimiter: str, after: str, encoding: str
) -> None:
    listed(servers, f"list-type=2{prefix}{delimiter}{after}{encoding}", "/" if encoding else "")


@pytest.mark.parametrize("options", ["", "&delimiter=%2F", "&prefix=a&encoding-type=url", "&start-after=a"])
@pytest.mark.parametrize("count", [1, 3, len(KEYS) - 1, len(KEYS)])
def test_the_pages_of_a_listing_are_those_of_moto(servers: Servers, options: str, count: int) -> None:
    answer, token, pages = b"", "", 0
    while not pages or b"<IsTruncated>true" in answer:
        answer = listed(servers, f"list-type=2&max-keys={count}{options}{token}")
        found = re.search(rb"<NextContinuationToken>(\w+)<", answer)
        token, pages = f"&continuation-token={found[1].decode()}" if found else "", pages + 1
    assert not token
    assert pages > 1 or count >= len(KEYS) - 1


@pytest.mark.parametrize(
    ("path", "query", "headers"),
    [
        ("", "", {}),
        ("", "prefix=a", {}),
        ("", "list-type=1", {}),
        ("", "list-type=2&list-type=2", {}),
        ("", "list-type=2&prefix=a+b", {}),
        ("", "list-type=2&prefix=%FF", {}),
        ("", "list-type=2&max-keys=0", {}),
        ("", "list-type=2&encoding-type=other", {}),
        ("", "list-type=2&fetch-owner=true", {}),
        ("", "list-type=2&continuation-token=", {}),
        ("", "uploads", {}),
        ("", "list-type=2", {"Authorization": None}),
        ("", "list-type=2", {"Host": f"{BUCKET}.s3.amazonaws.com"}),
        ("", "list-type=2", {"x-amz-request-payer": "requester"}),
        ("-absent", "list-type=2", {}),
        ("/a/1", "list-type=2", {}),
    ],
)
def test_every_other_request_is_left_to_moto(
    servers: Servers, path: str, query: str, headers: dict[str, str | None]
) -> None:
    servers.passed.clear()
    assert servers.ask(servers.plain, path, headers, query) == servers.ask(servers.moto, path, headers, query)
    assert len(servers.passed) == 1


def test_an_unknown_token_is_left_to_moto(servers: Servers) -> None:
    servers.passed.clear()
    with pytest.raises(TypeError):  # of moto, which the embedded server answers with 500
        servers.ask(servers.plain, "", {}, "list-type=2&continuation-token=unknown")
    assert len(servers.passed) == 1


def test_objects_with_a_checksum_and_buckets_with_versions_or_a_policy_are_left_to_moto(servers: Servers) -> None:
    bucket = moto.s3.models.s3_backends[DEFAULT_ACCOUNT_ID]["aws"].buckets[BUCKET]
    for item, name, value, before in (
        (bucket, "versioning_status", "Enabled", None),
        (bucket, "policy", b'{"Statement": []}', None),
        (bucket.keys["a/1"], "checksum_algorithm", "CRC32", None),
    ):
        servers.passed.clear()
        setattr(item, name, value)
        try:
            assert servers.ask(servers.plain, "", {}, "list-type=2")[0] == "200"
            assert len(servers.passed) == 1
        finally:
            setattr(item, name, before)
