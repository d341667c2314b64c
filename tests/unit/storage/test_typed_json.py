"""Values of documents have the types of their fields, or the error names the field and no value."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from scoreline.storage.typed_json import MALFORMED, build, decode_object, moment


@dataclass(frozen=True, kw_only=True)
class Piece:
    number: int


@dataclass(frozen=True, kw_only=True)
class Document:
    state: Literal["running", "done"]
    rows: int = 0
    seconds: float = 0.0
    gather: bool = False
    error: str | None = None
    pieces: tuple[Piece, ...] = ()
    failures: Mapping[str, str] = field(default_factory=dict)
    metadata: Any = None


def test_a_document_is_built_from_what_it_contains_and_unknown_fields_are_ignored() -> None:
    raw = {"state": "done", "rows": 5, "seconds": 1, "pieces": [{"number": 1, "later": 2}], "failures": {"1": "no"}}
    assert build(Document, raw | {"of_a_later_release": []}) == Document(
        state="done", rows=5, seconds=1.0, pieces=(Piece(number=1),), failures={"1": "no"}
    )


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"state": "[/red]"}, "state"),
        ({"state": ["done"]}, "state"),
        ({"rows": "5"}, "rows"),
        ({"rows": True}, "rows"),
        ({"rows": 5.0}, "rows"),
        ({"rows": None}, "rows"),
        ({"seconds": "1"}, "seconds"),
        ({"seconds": 10**400}, "seconds"),
        ({"seconds": math.nan}, "seconds"),
        ({"seconds": math.inf}, "seconds"),
        ({"rows": math.inf}, "rows"),
        ({"gather": 1}, "gather"),
        ({"error": 5}, "error"),
        ({"pieces": "abc"}, "pieces"),
        ({"pieces": {"number": 1}}, "pieces"),
        ({"pieces": [{"number": "hush"}]}, r"pieces\[0\].number"),
        ({"pieces": [{}]}, r"pieces\[0\].number is missing"),
        ({"pieces": [5]}, r"pieces\[0\]"),
        ({"failures": {"1": ["hush"]}}, "failures"),
        ({"failures": []}, "failures"),
    ],
)
def test_a_value_of_another_type_is_refused_with_the_name_of_its_field(change: dict[str, Any], named: str) -> None:
    with pytest.raises(MALFORMED, match=named) as caught:
        build(Document, {"state": "done"} | change)
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b"[]", b"5", b'"text"', b"null", b"\xff", b"[" * 100_000, b"1" * 9_999],
)
def test_content_that_is_not_a_json_object_is_malformed(data: bytes) -> None:
    with pytest.raises(MALFORMED):
        decode_object(data)


@pytest.mark.parametrize("text", ["yesterday", "", 5, None, "2026-11-25T02:00:00", "0001-01-01T00:00:00+14:00"])
def test_a_moment_is_a_time_with_a_zone(text: Any) -> None:
    with pytest.raises(MALFORMED, match="through"):
        moment(text, "through")
