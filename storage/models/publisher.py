"""Publish a new version of a model: run a trial load, upload the files, verify the upload, then write the manifest."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from scoreline.storage import keys
from scoreline.storage.errors import InvalidRequest, ObjectNotFound, PreconditionFailed
from scoreline.storage.models import pins, roles, signatures
from scoreline.storage.models.bundle import ModelLoader
from scoreline.storage.models.manifest import Artifact, Manifest, content_sha256
from scoreline.storage.models.trial_load import NewArtifact, try_loading, try_loading_here
from scoreline.storage.objects.base import ObjectStore, create_once

_ATTEMPTS = 10


class Publisher:
    """Publishes versions.

    Parameters
    ----------
    store : ObjectStore
        The bucket that contains the models.
    signing_key : str
        Key that signs every version; if empty, versions are not signed.
    allow_version_skew : bool
        Whether models that were saved with another version of scikit-learn may be published. The manifest records the
        version.
    try_here : bool
        Whether the trial load runs in this process rather than in a fresh one. Only tests set this, to save seconds.
    """

    def __init__(
        self, store: ObjectStore, *, signing_key: str = "", allow_version_skew: bool = False, try_here: bool = False
    ) -> None:
        self._store = store
        self._signing_key = signing_key
        self._allow_version_skew = allow_version_skew
        self._try_here = try_here

    def publish(self, name: str, files: Sequence[NewArtifact], metadata: Mapping[str, Any]) -> Manifest:
        """Store a new version and return its manifest.

        First, a fresh process loads the bundle. Then the files are uploaded, read back and compared. The manifest is
        written last, so that the version exists only once it is complete.

        Raises
        ------
        InvalidRequest
            A name is not valid, the bundle cannot score rows, or the metadata cannot be encoded as JSON.
        ModelUnloadable
            A fresh process cannot load the bundle. Nothing has been stored.
        """
        keys.check_name("model", name)
        _check_files(files)
        artifacts = tuple(Artifact.of(item.role, item.name, item.data) for item in files)
        try:
            content = content_sha256(artifacts, metadata)
        except TypeError as error:
            raise InvalidRequest(f"the metadata of {name!r} cannot be encoded as JSON: {error}") from None
        if self._try_here:
            trial = try_loading_here(name, files, allow_version_skew=self._allow_version_skew)
        else:
            trial = try_loading(name, files, allow_version_skew=self._allow_version_skew)
        for _ in range(_ATTEMPTS):
            now = datetime.now(UTC)
            manifest = Manifest(
                name=name,
                version=f"{now:%Y%m%dT%H%M%SZ}-{content[:5]}",
                created=now.isoformat(timespec="seconds"),
                artifacts=artifacts,
                feature_names=trial.feature_names,
                n_features=trial.n_features,
                outputs=trial.outputs,
                libraries=trial.libraries,
                memory_bytes=trial.memory_bytes,
                metadata=dict(metadata),
            )
            try:
                self._write(manifest, files)
            except PreconditionFailed:  # another publisher created the same version in this second
                existing = self._find_same_content(manifest)
                if existing is not None:
                    return existing
                time.sleep(1 - datetime.now(UTC).microsecond / 1e6)
            else:
                return manifest
        raise InvalidRequest(f"{name!r} was published by others in the same second {_ATTEMPTS} times: try again")

    def _write(self, manifest: Manifest, files: Sequence[NewArtifact]) -> None:
        name, version = manifest.name, manifest.version
        for artifact, item in zip(manifest.artifacts, files, strict=True):
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

    def _find_same_content(self, manifest: Manifest) -> Manifest | None:
        try:
            data = self._store.get(keys.manifest(manifest.name, manifest.version)).data
        except ObjectNotFound:
            return None
        existing = Manifest.from_json(data, manifest.ref)
        return existing if existing.content_sha256 == manifest.content_sha256 else None


def _check_files(files: Sequence[NewArtifact]) -> None:
    """Raise `InvalidRequest` unless the files form a bundle and have valid, distinct names."""
    roles.check_names([(item.role, item.name) for item in files])
    names = set()
    for item in files:
        keys.check_name(item.role.replace("_", " "), item.name)
        if item.name in names:
            raise InvalidRequest(f"two files of the bundle are named {item.name!r}: give each its own name")
        if not item.data:
            raise InvalidRequest(f"the file of {item.role} {item.name!r} is empty")
        names.add(item.name)
    if not any(item.role == "model" for item in files):
        raise InvalidRequest("a bundle needs at least one model")
    if sum(item.role == "label_encoder" for item in files) > 1:
        raise InvalidRequest("a bundle can have only one label encoder")
