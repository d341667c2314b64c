"""The hash function for manifests, plans and receipts."""

from __future__ import annotations

import hashlib
import re

_SHA256_HEX = re.compile(r"[0-9a-f]{64}")


def sha256_hex(data: bytes) -> str:
    """Return the SHA-256 of `data` as 64 hexadecimal digits.

    >>> sha256_hex(b"")[:8]
    'e3b0c442'
    """
    return hashlib.sha256(data).hexdigest()


def is_sha256_hex(text: str) -> bool:
    """Return whether a text has the form that `sha256_hex` returns, so that it can be a part of a path.

    >>> is_sha256_hex(sha256_hex(b"")), is_sha256_hex("../../etc/passwd")
    (True, False)
    """
    return bool(_SHA256_HEX.fullmatch(text))
