"""Hashes passwords with scrypt, and compares them."""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets

_N, _R, _P = 1 << 14, 8, 2
_BYTES = 32
_MAX_MEMORY = 64 << 20
_NAME = "scrypt"
LEAST_CHARS = 10


def hash_password(password: str) -> str:
    """Return the hash of a password, in a form without characters that a shell or a compose file would change."""
    salt = secrets.token_bytes(16)
    return ".".join((_NAME, str(_N), str(_R), str(_P), _text(salt), _text(_derive(password, salt, _N, _R, _P))))


def verify(password: str, known: str) -> bool:
    """Return whether a password has a hash. An empty or malformed hash takes as long, and no password has it.

    >>> verify("correct horse", hash_password("correct horse")), verify("wrong", hash_password("correct horse"))
    (True, False)
    >>> verify("", "")
    False
    """
    try:
        name, n, r, p, salt, digest = known.split(".")
        numbers = int(n), int(r), int(p)
        if name != _NAME or numbers[0] * numbers[1] > _N * _R * 8 or not 1 <= numbers[2] <= 8:
            raise ValueError("another kind of hash")
        return hmac.compare_digest(_derive(password, _bytes(salt), *numbers), _bytes(digest))
    except ValueError:
        _derive(password, b"\0" * 16, _N, _R, _P)  # so that the time does not tell which users there are
        return False


def _derive(password: str, salt: bytes, n: int, r: int, p: int) -> bytes:
    return hashlib.scrypt(
        password.encode(errors="replace"), salt=salt, n=n, r=r, p=p, maxmem=_MAX_MEMORY * 4, dklen=_BYTES
    )


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _bytes(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
