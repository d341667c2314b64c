"""Times in responses are parsed quickly, and as botocore parses them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from botocore.utils import parse_timestamp

from scoreline.storage.objects import r2
from scoreline.storage.objects.r2 import R2Store
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


def test_the_time_of_an_object_is_parsed_without_botocore(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(r2, "parse_timestamp", None)
    assert r2._parse_time("2026-11-29T06:04:20.000Z") == datetime(2026, 11, 29, 6, 4, 20, tzinfo=UTC)


@pytest.mark.parametrize("text", ["", "Z", "noonZ", "noon"])
def test_a_text_that_is_no_time_is_an_error_as_in_botocore(text: str) -> None:
    for parse in (parse_timestamp, r2._parse_time):
        with pytest.raises(ValueError, match="timestamp"):
            parse(text)


def test_a_listing_is_read_without_dateutil(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    parsed: list[str] = []

    def noted(text: str) -> datetime:
        parsed.append(text)
        return datetime.fromisoformat(text)

    monkeypatch.setattr(r2, "_parse_time", noted)
    store = R2Store(settings_of(stack), "scoreline")
    store.put("times/k", b"1")
    (found,) = store.list("times/")
    assert [datetime.fromisoformat(text).timestamp() for text in parsed] == [found.modified]
    assert abs(datetime.now(UTC) - datetime.fromtimestamp(found.modified, UTC)) < timedelta(hours=1)
