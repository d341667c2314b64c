"""Ed25519 signatures of manifests, so that workers load only models that were published with the signing key.

Each line of ``manifest.sig`` has the form ``<key id> <signature in base64>``. A signature covers the bytes of
``manifest.json``, which contain the name of the model, the version and the digest of every chunk. While a new key
replaces an old key, both keys can sign a manifest. Workers have only verify keys, so they can check signatures but not
forge them.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from typing import TYPE_CHECKING

from scoreline.storage.errors import InvalidRequest, ModelUntrusted, ScorelineError
from scoreline.storage.hashing import sha256_hex

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

_PREFIX = {"signing": "scoreline-signing-", "verify": "scoreline-verify-"}
_KEY_BYTES = 32


def generate_keys() -> tuple[str, str]:
    """Return a new key pair: the signing key, which is secret, and the verify key for the workers."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    private = Ed25519PrivateKey.generate()
    return _encode("signing", private.private_bytes_raw()), _encode("verify", private.public_key().public_bytes_raw())


def check_key(kind: str, key: str) -> bytes:
    """Decode a key of the kind ``signing`` or ``verify`` and return its 32 bytes.

    Raises
    ------
    InvalidRequest
        The text is not a key of this kind. The message does not contain the text, which may be secret.
    """
    other = "verify" if kind == "signing" else "signing"
    if key.startswith(_PREFIX[other]):
        raise InvalidRequest(f"this is a {other} key, but a {kind} key is needed")
    text = key.removeprefix(_PREFIX[kind])
    try:
        raw = base64.b64decode(text + "=", altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raw = b""
    if text == key or len(raw) != _KEY_BYTES:
        raise InvalidRequest(
            f"this is not a {kind} key ({_PREFIX[kind]} and 43 characters): create keys with `scoreline models keygen`"
        )
    return raw


def verify_key_of(signing_key: str) -> str:
    """Return the verify key that belongs to a signing key."""
    return _encode("verify", _private(signing_key).public_key().public_bytes_raw())


def object_statement(key: str, sha256: str) -> bytes:
    """Return the bytes to sign for a single object.

    These bytes are not JSON, so that they cannot pass as a manifest.
    """
    return f"scoreline object\n{key}\n{sha256}\n".encode()


def sign(manifest: bytes, signing_key: str) -> str:
    """Sign the bytes of a manifest and return the line for ``manifest.sig``."""
    private = _private(signing_key)
    signature = base64.b64encode(private.sign(manifest)).decode()
    return f"{key_id(private.public_key().public_bytes_raw())} {signature}\n"


def verify(manifest: bytes, signatures: bytes | None, verify_keys: Sequence[str], ref: str) -> str:
    """Return the id of the trusted key that signed a manifest.

    Parameters
    ----------
    manifest : bytes
        The bytes of the manifest as stored.
    signatures : bytes or None
        Content of ``manifest.sig``, or None if there is no such object.
    verify_keys : sequence of str
        The trusted keys, at least one.
    ref : str
        ``name@version``, for error messages.

    Raises
    ------
    ModelUntrusted
        The manifest is not signed by a trusted key, or the signature does not match it.
    """
    from cryptography.exceptions import InvalidSignature

    if signatures is None:
        raise ModelUntrusted(
            f"{ref} is not signed, but MODEL_VERIFY_KEYS is set: if you trust it, sign it with `scoreline models sign`"
        )
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
                f"the signature of {ref} by key {signer} does not match its manifest: do not trust this version"
            ) from None
        return signer
    raise ModelUntrusted(
        f"{ref} is signed by {', '.join(signers) or 'no key'}, but not by any key in MODEL_VERIFY_KEYS "
        f"({', '.join(trusted)}): if you trust it, sign it again or add its key there"
    )


def key_id(public: bytes) -> str:
    """Return the id by which messages and signatures name a verify key.

    The id is the first 8 hexadecimal digits of the SHA-256 of the key.
    """
    return sha256_hex(public)[:8]


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
