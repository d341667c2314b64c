"""Attachments of a model version: small files beside the manifest, such as the baseline and the checks of the version.

The manifest lists the attachments with their sizes and digests, so that its own digest and signature cover them. The
first releases refuse a manifest with fields that they do not know, but accept any metadata. Therefore, the list is an
entry of the metadata.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from scoreline.storage import keys
from scoreline.storage.errors import InvalidRequest, ModelCorrupt, ObjectNotFound, PreconditionFailed
from scoreline.storage.hashing import is_sha256_hex, sha256_hex
from scoreline.storage.objects.base import ObjectStore, create_once
from scoreline.storage.typed_json import build

BASELINE = "baseline.json.gz"
"""Name of the attachment with the profile of the training data."""
CHECKS = "checks.toml"
"""Name of the attachment with the checks of a job's results."""
MAX_ATTACHMENT_BYTES = 100_000
"""Maximum size of an attachment in bytes. A version may be read by every job, so its attachments must stay small."""
ENTRY = "_scoreline"
"""Name of the entry of the metadata that Scoreline writes itself."""
_RESERVED = frozenset({"manifest.json", "manifest.sig", "data.txt", "removed.json"})
"""The other objects in the folder of a version, besides its artifacts."""
_ARTIFACT = ".joblib"


@dataclass(frozen=True, kw_only=True)
class Attachment:
    """What a manifest says about an attachment."""

    size: int
    """Size in bytes."""
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What is found out about a version before its manifest is written, by loading it from the store."""

    attachments: Mapping[str, bytes] = field(default_factory=dict)
    """Attachments to store, by name."""
    metrics: Mapping[str, Any] = field(default_factory=dict)
    """Metrics to list in the manifest, by model name."""


@dataclass(frozen=True, kw_only=True)
class Additions:
    """The entry of the metadata of a manifest that Scoreline writes itself."""

    attachments: Mapping[str, Attachment] = field(default_factory=dict)
    """The attachments, by name."""
    metrics: Mapping[str, Any] = field(default_factory=dict)
    """Metrics of the models on the baseline, by model name."""

    @classmethod
    def of(cls, attachments: Mapping[str, bytes], metrics: Mapping[str, Any]) -> Additions:
        """Describe attachments, given by their content."""
        described = {
            name: Attachment(size=len(data), sha256=sha256_hex(data)) for name, data in sorted(attachments.items())
        }
        return cls(attachments=described, metrics=metrics)

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, Any]) -> Additions:
        """Read the entry of the metadata of a manifest. Without an entry, there are no attachments and no metrics.

        Raises `ValueError` or `TypeError` if the entry is malformed.
        """
        raw = metadata.get(ENTRY)
        if not isinstance(raw, Mapping):  # none, or a text that the publisher of an earlier release has chosen
            return cls()
        found = build(cls, raw, ENTRY)
        for name, item in found.attachments.items():
            if not _is_attachment_name(name):
                raise ValueError("the name of an attachment is not valid")
            if not 0 < item.size <= MAX_ATTACHMENT_BYTES:
                raise ValueError(f"the size of the attachment {name} is not valid")
            if not is_sha256_hex(item.sha256):
                raise ValueError(f"the digest of the attachment {name} is not a SHA-256")
        return found

    def to_metadata(self) -> dict[str, Any]:
        """Return the entry to add to the metadata of a manifest; empty without attachments and metrics."""
        entry = {name: value for name, value in asdict(self).items() if value}
        return {ENTRY: entry} if entry else {}


def check_new(attachments: Mapping[str, bytes], metadata: Mapping[str, Any]) -> None:
    """Raise `InvalidRequest` if a version with these attachments and this metadata of a user cannot be published."""
    if ENTRY in metadata:
        raise InvalidRequest(f"the metadata may not have an entry {ENTRY!r}, which Scoreline itself writes")
    for name, data in attachments.items():
        if not _is_attachment_name(name):
            raise InvalidRequest(
                f"an attachment cannot be named {name!r}: use letters, digits, '.', '-' and '_', and not the name of "
                "another file of a version"
            )
        if not data:
            raise InvalidRequest(f"the attachment {name} is empty")
        if len(data) > MAX_ATTACHMENT_BYTES:
            raise InvalidRequest(
                f"the attachment {name} has {len(data):,} bytes; it may have at most {MAX_ATTACHMENT_BYTES:,}"
            )


def write(store: ObjectStore, key: str, data: bytes) -> None:
    """Store an attachment, and read it back. Raises `ModelCorrupt` if it is not stored as it was sent."""
    create_once(store, key, data)
    if store.get(key).data != data:
        raise ModelCorrupt(f"{store.uri(key)} is not stored as it was sent: publish the model again")


def read(store: ObjectStore, name: str, version: str, file: str, expected: Attachment) -> bytes:
    """Read an attachment from the store.

    Raises
    ------
    ModelCorrupt
        The attachment is missing, or differs from the manifest.
    """
    key = keys.artifact(name, version, file)
    try:
        stored = store.get(key, byte_range=(0, expected.size))
    except ObjectNotFound:
        raise ModelCorrupt(f"{store.uri(key)} is missing, but its manifest names it: publish the model again") from None
    except PreconditionFailed:  # the range does not exist, because the object is empty
        raise ModelCorrupt(f"{store.uri(key)} is empty: publish the model again") from None
    return check_content(stored.data, stored.info.size, expected, store.uri(key))


def check_content(data: bytes, size: int, expected: Attachment, uri: str) -> bytes:
    """Return the content of an attachment if it is as the manifest says; otherwise raise `ModelCorrupt`."""
    if size != expected.size:
        raise ModelCorrupt(f"{uri} has {size:,} bytes, but its manifest says {expected.size:,}: publish it again")
    if sha256_hex(data) != expected.sha256:
        raise ModelCorrupt(f"{uri} differs from its manifest: publish the model again")
    return data


def _is_attachment_name(name: str) -> bool:
    return keys.is_name(name) and name not in _RESERVED and not name.endswith(_ARTIFACT)
