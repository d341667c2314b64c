"""A new version of a model: proven, uploaded, checked, and only then there."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from scoreline.storage import keys
from scoreline.storage.errors import InvalidRequest, ObjectNotFound, PreconditionFailed
from scoreline.storage.models import pins, signatures
from scoreline.storage.models.bundle import ModelLoader
from scoreline.storage.models.manifest import Artifact, Manifest, content_sha256
from scoreline.storage.models.trial_load import LooseArtifact, prove
from scoreline.storage.objects.base import ObjectStore, create_once

_TRIES = 10


class Publisher:
    """Makes versions.

    Parameters
    ----------
    store : ObjectStore
        The bucket of the models.
    signing_key : str
        Signs every version; empty: none is signed.
    allow_version_skew : bool
        Whether what another scikit-learn saved may be published; the manifest then names that one.
    """

    def __init__(self, store: ObjectStore, *, signing_key: str = "", allow_version_skew: bool = False) -> None:
        self._store = store
        self._signing_key = signing_key
        self._allow_version_skew = allow_version_skew

    def publish(self, name: str, loose: Sequence[LooseArtifact], metadata: Mapping[str, Any]) -> Manifest:
        """Store a new version; it exists once all of it is there.

        The bundle is loaded in a fresh process, then uploaded, then read back and compared. The manifest comes last.

        Raises
        ------
        InvalidRequest
            A name is not valid, an object cannot score, or the metadata is not JSON.
        ModelUnloadable
            A fresh process cannot load it. Nothing was stored.
        """
        keys.check_name("model", name)
        _check_names(loose)
        artifacts = tuple(Artifact.of(item.role, item.name, item.data) for item in loose)
        try:
            content = content_sha256(artifacts, metadata)
        except TypeError as error:
            raise InvalidRequest(f"metadata of {name!r} is not JSON: {error}") from None
        proof = prove(name, loose, allow_version_skew=self._allow_version_skew)
        for _ in range(_TRIES):
            now = datetime.now(UTC)
            manifest = Manifest(
                name=name,
                version=f"{now:%Y%m%dT%H%M%SZ}-{content[:5]}",
                created=now.isoformat(timespec="seconds"),
                artifacts=artifacts,
                feature_names=proof.feature_names,
                n_features=proof.n_features,
                outputs=proof.outputs,
                libraries=proof.libraries,
                memory_bytes=proof.memory_bytes,
                metadata=dict(metadata),
            )
            try:
                self._write(manifest, loose)
            except PreconditionFailed:  # somebody published in this very second
                twin = self._same_content(manifest)
                if twin is not None:
                    return twin
                time.sleep(1 - datetime.now(UTC).microsecond / 1e6)
            else:
                return manifest
        raise InvalidRequest(f"others published {name!r} at the same second {_TRIES} times: try again")

    def _write(self, manifest: Manifest, loose: Sequence[LooseArtifact]) -> None:
        name, version = manifest.name, manifest.version
        for artifact, item in zip(manifest.artifacts, loose, strict=True):
            create_once(self._store, keys.artifact(name, version, artifact.file), item.data)
        loader = ModelLoader(store=self._store)
        for artifact in manifest.artifacts:
            loader.check(manifest, artifact)
        data = manifest.to_json()
        create_once(self._store, keys.pins_entry(name, version), pins.data_txt(manifest))
        if self._signing_key:
            line = signatures.sign(data, self._signing_key)
            create_once(self._store, keys.signature(name, version), line.encode())
        create_once(self._store, keys.manifest(name, version), data)

    def _same_content(self, manifest: Manifest) -> Manifest | None:
        try:
            data = self._store.get(keys.manifest(manifest.name, manifest.version)).data
        except ObjectNotFound:
            return None
        there = Manifest.from_json(data, manifest.ref)
        return there if there.content_sha256 == manifest.content_sha256 else None


def _check_names(loose: Sequence[LooseArtifact]) -> None:
    """Every artifact is a file of its own, every model a prefix of output columns."""
    seen = set()
    for item in loose:
        keys.check_name(item.role.replace("_", " "), item.name)
        if item.name in seen:
            raise InvalidRequest(f"two artifacts of the bundle are named {item.name!r}: give each its own name")
        if item.role == "model" and item.name in ("preprocessor", "label_encoder"):
            raise InvalidRequest(f"a model cannot be named {item.name!r}: that is a role")
        if not item.data:
            raise InvalidRequest(f"{item.role} {item.name!r} is empty")
        seen.add(item.name)
    if not any(item.role == "model" for item in loose):
        raise InvalidRequest("a bundle needs a model")
    if sum(item.role == "label_encoder" for item in loose) > 1:
        raise InvalidRequest("a bundle has at most one label encoder")
