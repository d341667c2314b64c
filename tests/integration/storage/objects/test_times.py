"""Times in responses are parsed quickly, and as botocore parses them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from botocore.utils import parse_timestamp

from scoreline.storage.objects import r2
from scoreline.storage.objects.r2 import R2Store
from scoreline.storage.settings import R2Settings
from scoreline.worker.dev.stack import Stack
from tests.support.s3 import settings_of


@pytest.mark.parametrize(
    "text",
    [
        "2026-11-29T06:04:20.000Z",
        "2026-11-29T06:04:20.123Z",
        "2026-11-29T06:04:20.123456789Z",
        "2026-11-29T06:04:20Z",
        "20261129T060420Z",
        "2026-11-29T06:04:20+01:00",
        "Sun, 29 Nov 2026 06:04:20 GMT",
        "1795933338",
        1795933338,
        1795933338.5,
    ],
)
def test_a_time_is_the_one_that_botocore_finds(text: Any) -> None:
    found, expected = r2._parse_time(text), parse_timestamp(text)
    assert found == expected
    assert found.utcoffset() == expected.utcoffset()


@pytest.mark.parametrize("text", ["", "Z", "noonZ", "noon"])
def test_a_text_that_is_no_time_is_an_error_as_in_botocore(text: str) -> None:
    for parse in (parse_timestamp, r2._parse_time):
        with pytest.raises(ValueError, match="timestamp"):
            parse(text)


def test_a_listing_is_read_without_dateutil(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    settings: R2Settings = settings_of(stack)
    store = R2Store(settings, "scoreline")
    store.put("times/k", b"1")
    monkeypatch.setattr(r2, "parse_timestamp", None)
    (found,) = store.list("times/")
    assert abs(datetime.now(UTC) - datetime.fromtimestamp(found.modified, UTC)) < timedelta(hours=1)
