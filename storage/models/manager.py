"""Publish and load models: the public face of `storage.models`."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from storage import keys
from storage.errors import InvalidRequest, ModelCorrupt
from storage.models.bundle import (
    Bundle,
    describe_features,
    describe_outputs,
    dump,
    libraries,
    load_bundle,
    unpickle,
)
from storage.models.manifest import Artifact, Manifest, PinnedModel, Role, digest
from storage.models.registry import Alias, ModelRegistry
from storage.objects.base import ObjectStore, create_once
from storage.objects.buckets import Buckets
from storage.settings import StorageSettings


class ModelStorageManager:
    """Models in object storage, and from there straight into memory.

    Parameters
    ----------
    store : ObjectStore
        The bucket of the models.
    cloud_only : bool
        Whether no byte of a model may touch the disk.
    use_r2 : bool
        Whether the store is R2 rather than a directory.

    Examples
    --------
    ::

        models = ModelStorageManager.from_env()
        models.publish("churn", classifier, preprocessor=scaler, alias="champion")
        bundle = models.load("churn@champion")
    """

    def __init__(self, store: ObjectStore, *, cloud_only: bool, use_r2: bool) -> None:
        self.cloud_only = cloud_only
        self.use_r2 = use_r2
        self.bucket_name = store.bucket
        self.registry = ModelRegistry(store)
        self._store = store

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> ModelStorageManager:
        """Read the settings, by default of this process.

        Raises
        ------
        InvalidSettings
            Naming every fault at once.
        """
        settings = StorageSettings.from_env(os.environ if environ is None else environ)
        return cls(Buckets(settings).main, cloud_only=settings.cloud_only, use_r2=settings.use_r2)

    def publish(
        self,
        name: str,
        model: Any,
        preprocessor: Any = None,
        label_encoder: Any = None,
        alias: str | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> Manifest:
        """Store a new version of a bundle; it exists once all of it is there.

        Parameters
        ----------
        name : str
            Name of the bundle.
        model : estimator or mapping of str to estimator
            One fitted model, or several by name.
        preprocessor : transformer, optional
            Fitted; its ``transform`` stands before every model.
        label_encoder : LabelEncoder, optional
            Fitted; its ``inverse_transform`` stands behind every classifier.
        alias : str, optional
            Name to give the new version, ``champion`` say.
        metadata : mapping, optional
            Whatever JSON can hold.

        Raises
        ------
        InvalidRequest
            An object cannot score, or a name is not valid.
        """
        models = dict(model) if isinstance(model, Mapping) else {"model": model}
        parts: list[tuple[Role, str, Any]] = [("model", keys.check_name("model", key), models[key]) for key in models]
        if preprocessor is not None:
            parts.append(("preprocessor", "preprocessor", preprocessor))
        if label_encoder is not None:
            parts.append(("label_encoder", "label_encoder", label_encoder))
        if not models or {"preprocessor", "label_encoder"} & models.keys():
            raise InvalidRequest("a bundle needs a model, named neither 'preprocessor' nor 'label_encoder'")
        if preprocessor is not None and not callable(getattr(preprocessor, "transform", None)):
            raise InvalidRequest(f"preprocessor {type(preprocessor).__name__} has no transform()")
        outputs = {key: describe_outputs(obj, label_encoder) for key, obj in models.items()}
        first = preprocessor if preprocessor is not None else next(iter(models.values()))
        feature_names, n_features = describe_features(first)
        data = [(role, key, dump(obj)) for role, key, obj in parts]
        artifacts = tuple(Artifact.of(role, key, blob) for role, key, blob in data)
        now = datetime.now(UTC)
        content = hashlib.sha256("".join(artifact.sha256 for artifact in artifacts).encode()).hexdigest()
        manifest = Manifest(
            name=keys.check_name("model", name),
            version=f"{now:%Y%m%dT%H%M%SZ}-{content[:5]}",
            created=now.isoformat(timespec="seconds"),
            artifacts=artifacts,
            feature_names=feature_names,
            n_features=n_features,
            outputs=outputs,
            libraries=libraries(),
            metadata=dict(metadata or {}),
        )
        self._write(manifest, [blob for _, _, blob in data])
        if alias is not None:
            self.alias(name, alias, manifest.version)
        return manifest

    def load(self, ref: str) -> Bundle:
        """Load ``name``, ``name@alias`` or ``name@version`` from the store into memory.

        Raises
        ------
        ModelNotFound, ModelCorrupt, ModelUnloadable
            Nothing of a bundle is returned unless all of it is there and verified.
        """
        return self.load_pinned(self.registry.resolve(ref))

    def load_pinned(self, pinned: PinnedModel) -> Bundle:
        """Load the version that a job pinned (errors as `load`)."""
        return load_bundle(self._store, self.registry.manifest(pinned), pinned.manifest_sha256)

    def list(self) -> dict[str, list[str]]:
        """Return the versions of every model, oldest first, by name."""
        return {name: self.registry.versions(name) for name in self.registry.names()}

    def show(self, ref: str) -> Manifest:
        """Return what a version is made of."""
        return self.registry.show(ref)

    def alias(self, name: str, alias: str, version: str) -> Alias:
        """Let `alias` name `version`."""
        return self.registry.alias(name, alias, version)

    def save(self, key: str, obj: Any) -> str:
        """Store a loose joblib object at `key`, with its digest; returns the SHA-256."""
        data = dump(obj)
        sha256 = digest(data)
        self._store.put(key, data, metadata={"sha256": sha256})
        return sha256

    def load_object(self, key: str, *, sha256: str | None = None) -> Any:
        """Load a loose joblib object, verified before it is unpickled.

        Parameters
        ----------
        key : str
            Where it lies in the bucket.
        sha256 : str, optional
            What its bytes have to be; by default what `save` recorded beside them.

        Raises
        ------
        ObjectNotFound
            There is no such object.
        ModelCorrupt
            Its digest differs, or none is known: unpickling runs code, so nothing is unpickled on trust.
        """
        stored = self._store.get(key)
        expected = sha256 or stored.info.metadata.get("sha256")
        uri = self._store.uri(key)
        if expected is None:
            raise ModelCorrupt(f"{uri} has no recorded digest: save it with save(), or give sha256=")
        if digest(stored.data) != expected:
            raise ModelCorrupt(f"{uri} differs from its recorded digest: refused before unpickling")
        return unpickle(io.BytesIO(stored.data), uri)

    def _write(self, manifest: Manifest, blobs: Sequence[bytes]) -> None:
        for artifact, blob in zip(manifest.artifacts, blobs, strict=True):
            create_once(self._store, keys.artifact(manifest.name, manifest.version, artifact.file), blob)
        create_once(self._store, keys.manifest(manifest.name, manifest.version), manifest.to_json())
