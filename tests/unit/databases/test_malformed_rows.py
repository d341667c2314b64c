"""Bytes that are no rows of COPY's binary format are refused before anything is written."""

from __future__ import annotations

import struct

import pytest

from scoreline.tasks.databases.source import decoding


@pytest.mark.parametrize(
    ("row", "kind"),
    [
        (struct.pack(">hi", 1, -2), b"s"),
        (struct.pack(">hi", 1, 5) + b"four", b"s"),
        (struct.pack(">hi", 1, 2**31 - 1), b"y"),
        (struct.pack(">hi", 2, 0), b"s"),
        (struct.pack(">h", 1) + b"\0", b"q"),
    ],
)
def test_malformed_rows_are_refused(row: bytes, kind: bytes) -> None:
    if decoding.binary_rows is None:
        pytest.skip("the extension was not compiled")
    sound = struct.pack(">hi", 1, 3) + b"\1{}"
    assert decoding.binary_rows.decode(sound, 0, b"j", [0], [0])[0] == 1
    with pytest.raises(ValueError, match="-1"):
        decoding.binary_rows.decode(row, 0, kind, [0], [0])
