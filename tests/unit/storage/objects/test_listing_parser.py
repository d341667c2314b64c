"""Tests for the parser of listings."""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

import botocore.session
import pytest
from botocore.parsers import ResponseParserFactory, RestXMLParser
from botocore.utils import parse_timestamp

from scoreline.storage.objects.listing_parser import ListingParserFactory
from scoreline.storage.objects.r2 import R2Store
from scoreline.storage.settings import R2Settings

_PAGE = """<?xml version="1.0" encoding="UTF-8"?>
<ListBucketResult{namespace}><Name>b</Name><Prefix>in/</Prefix><KeyCount>2</KeyCount><IsTruncated>true</IsTruncated>
<NextContinuationToken>n&amp;m</NextContinuationToken>
<Contents><Key>in/a%20b+&lt;</Key><LastModified>2026-01-02T03:04:05.678Z</LastModified><ETag>&quot;e&quot;</ETag>
<ChecksumAlgorithm>CRC32</ChecksumAlgorithm><ChecksumAlgorithm>CRC64NVME</ChecksumAlgorithm><Size>12</Size>
<Owner><ID>me</ID></Owner><StorageClass>STANDARD</StorageClass></Contents>
<Contents><Key></Key><LastModified>Fri, 02 Jan 2026 03:04:05 GMT</LastModified><ETag/><Size>0</Size></Contents>
<Contents/><CommonPrefixes><Prefix>in/c/</Prefix></CommonPrefixes></ListBucketResult>"""
_READ = ("Key", "Size", "ETag", "LastModified")
_SHAPE: Any = botocore.session.Session().get_service_model("s3").operation_model("ListObjectsV2").output_shape


def _parse(factory: ResponseParserFactory, text: str) -> dict[str, Any]:
    response = {"body": text.encode(), "headers": {}, "status_code": 200}
    parsed: dict[str, Any] = factory.create_parser("rest-xml").parse(response, _SHAPE)
    return parsed


@pytest.mark.parametrize("namespace", ["", ' xmlns="http://s3.amazonaws.com/doc/2006-03-01/"'])
def test_a_listing_is_parsed_as_botocore_parses_it(namespace: str) -> None:
    page = _PAGE.format(namespace=namespace)
    expected = _parse(ResponseParserFactory(), page)
    expected["Contents"] = [{name: item[name] for name in _READ if name in item} for item in expected["Contents"]]
    assert _parse(ListingParserFactory(parse_timestamp), page) == expected
    assert [item.get("Key") for item in expected["Contents"]] == ["in/a%20b+<", "", None]


def test_botocore_does_not_parse_the_objects_of_a_listing() -> None:
    parser: Any = RestXMLParser
    parse, shapes = parser._handle_structure, []

    def watched(self: Any, shape: Any, node: Any) -> Any:
        shapes.append(shape.name)
        return parse(self, shape, node)

    with patch.object(RestXMLParser, "_handle_structure", watched):
        _parse(ListingParserFactory(parse_timestamp), _PAGE.format(namespace=""))
    assert "Object" not in shapes
    assert "CommonPrefix" in shapes


def test_a_store_parses_its_listings_with_it() -> None:
    settings = R2Settings(endpoint_url="http://127.0.0.1:1", access_key_id="a", secret_access_key="b")
    client: Any = R2Store(settings, "b").client
    assert isinstance(client._endpoint._response_parser_factory, ListingParserFactory)
