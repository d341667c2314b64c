"""Ed25519 signatures of manifests: a worker loads only what a holder of the signing key has published.

``manifest.sig`` holds a line a signature, ``<key id> <signature in base64>``, over the bytes of ``manifest.json``,
which name the model, the version and the digest of every chunk. Several lines let two keys sign while one replaces
the other. A worker knows verify keys alone: it can refuse, and cannot forge.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from scoreline.storage.errors import InvalidRequest, ModelUntrusted, ScorelineError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

_PREFIX = {"signing": "scoreline-signing-", "verify": "scoreline-verify-"}
_KEY_BYTES = 32


def generate() -> tuple[str, str]:
    """Make a pair: the signing key, which is a secret, and the verify key that workers get."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    private = Ed25519PrivateKey.generate()
    return _encode("signing", private.private_bytes_raw()), _encode("verify", private.public_key().public_bytes_raw())


def check_key(kind: str, key: str) -> bytes:
    """Return the 32 bytes of a ``signing`` or ``verify`` key; raises `InvalidRequest`, which never shows the key."""
    other = "verify" if kind == "signing" else "signing"
    if key.startswith(_PREFIX[other]):
        raise InvalidRequest(f"a {other} key where a {kind} key belongs")
    text = key.removeprefix(_PREFIX[kind])
    try:
        raw = base64.b64decode(text + "=", altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raw = b""
    if text == key or len(raw) != _KEY_BYTES:
        raise InvalidRequest(
            f"not a {kind} key ({_PREFIX[kind]} and 43 characters): make a pair with `scoreline models keygen`"
        )
    return raw


def sign(manifest: bytes, signing_key: str) -> str:
    """Return the line of ``manifest.sig`` for these bytes."""
    private = _private(signing_key)
    signature = base64.b64encode(private.sign(manifest)).decode()
    return f"{key_id(private.public_key().public_bytes_raw())} {signature}\n"


def verify(manifest: bytes, signatures: bytes | None, verify_keys: Sequence[str], ref: str) -> str:
    """Return the id of the trusted key that signed these bytes.

    Parameters
    ----------
    manifest : bytes
        As stored.
    signatures : bytes or None
        Content of ``manifest.sig``; None where there is none.
    verify_keys : sequence of str
        At least one.
    ref : str
        For messages.

    Raises
    ------
    ModelUntrusted
        It is not signed, signed by no trusted key, or the signature does not fit.
    """
    from cryptography.exceptions import InvalidSignature

    if signatures is None:
        raise ModelUntrusted(f"{ref} is not signed, and MODEL_VERIFY_KEYS is set: refused before unpickling")
    trusted = {key_id(raw): _public(raw) for raw in (check_key("verify", key) for key in verify_keys)}
    signers = []
    for line in signatures.decode(errors="replace").splitlines():
        signer, _, text = line.strip().partition(" ")
        signers.append(signer)
        if signer not in trusted:
            continue
        try:
            trusted[signer].verify(base64.b64decode(text, validate=True), manifest)
        except (InvalidSignature, binascii.Error, ValueError):
            raise ModelUntrusted(
                f"the signature of {ref} by key {signer} does not fit its manifest: refused before unpickling"
            ) from None
        return signer
    raise ModelUntrusted(
        f"{ref} is signed by {', '.join(signers) or 'nobody'}, which is none of MODEL_VERIFY_KEYS "
        f"({', '.join(trusted)}): refused before unpickling"
    )


def key_id(public: bytes) -> str:
    """Return what a verify key is called in messages and signatures: eight hex digits of its SHA-256."""
    return hashlib.sha256(public).hexdigest()[:8]


def _encode(kind: str, raw: bytes) -> str:
    return _PREFIX[kind] + base64.urlsafe_b64encode(raw).decode().rstrip("=")


def _private(signing_key: str) -> Ed25519PrivateKey:
    raw = check_key("signing", signing_key)
    try:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    except ModuleNotFoundError as error:
        raise ScorelineError("signing needs cryptography: pip install -r ml-requirements.txt") from error
    return Ed25519PrivateKey.from_private_bytes(raw)


def _public(raw: bytes) -> Ed25519PublicKey:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    return Ed25519PublicKey.from_public_bytes(raw)
