"""Publish and load models: the public face of `scoreline.storage.models`."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping, Sequence
from typing import Any

from scoreline.storage import keys
from scoreline.storage.errors import BucketNotAllowed, ModelCorrupt
from scoreline.storage.models.aliases import Alias
from scoreline.storage.models.bundle import Bundle, ModelLoader, dump, unpickle
from scoreline.storage.models.local_cache import LocalCopies
from scoreline.storage.models.manifest import Manifest, PinnedModel, digest
from scoreline.storage.models.publisher import Publisher
from scoreline.storage.models.registry import ModelRegistry
from scoreline.storage.models.settings import ModelSettings
from scoreline.storage.models.trial_load import LooseArtifact
from scoreline.storage.objects.base import ObjectStore
from scoreline.storage.objects.buckets import Buckets
from scoreline.storage.settings import StorageSettings


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
    settings : ModelSettings, optional
        Keys, local copies, version skew.
    buckets : Buckets, optional
        Other buckets that loose objects may be adopted from.

    Examples
    --------
    ::

        models = ModelStorageManager.from_env()
        models.publish("churn", classifier, preprocessor=scaler, alias="champion")
        bundle = models.load("churn@champion")
    """

    def __init__(
        self,
        store: ObjectStore,
        *,
        cloud_only: bool,
        use_r2: bool,
        settings: ModelSettings | None = None,
        buckets: Buckets | None = None,
    ) -> None:
        settings = settings or ModelSettings()
        self.cloud_only = cloud_only
        self.use_r2 = use_r2
        self.bucket_name = store.bucket
        self.verify_keys = settings.verify_keys
        self._store = store
        self._buckets = buckets
        copies = LocalCopies(settings.cache_dir, settings.cache_dir_bytes) if use_r2 and not cloud_only else None
        skew = settings.allow_version_skew
        self.registry = ModelRegistry(store, verify_keys=settings.verify_keys, copies=copies)
        self._loader = ModelLoader(store=store, copies=copies, allow_version_skew=skew)
        self._publisher = Publisher(store, signing_key=settings.signing_key, allow_version_skew=skew)

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> ModelStorageManager:
        """Read the settings, by default of this process.

        Raises
        ------
        InvalidSettings
            Naming every fault at once.
        """
        environ = os.environ if environ is None else environ
        return cls.from_settings(StorageSettings.from_env(environ), ModelSettings.from_env(environ))

    @classmethod
    def from_settings(cls, storage: StorageSettings, models: ModelSettings) -> ModelStorageManager:
        """Open the bucket of the models as the settings say."""
        buckets = Buckets(storage)
        return cls(buckets.main, cloud_only=storage.cloud_only, use_r2=storage.use_r2, settings=models, buckets=buckets)

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

        Before that a fresh process loads it, so that what a worker could not load is not published.

        Parameters
        ----------
        name : str
            Name of the bundle.
        model : estimator or mapping of str to estimator
            One fitted model, or several by name, which score the same rows.
        preprocessor : transformer or sequence of transformer, optional
            Fitted; their ``transform`` stands before every model, in this order.
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
        ModelUnloadable
            A fresh process cannot load it.
        """
        models = dict(model) if isinstance(model, Mapping) else {"model": model}
        steps = [] if preprocessor is None else preprocessor
        steps = list(steps) if isinstance(steps, (list, tuple)) else [steps]
        loose = [LooseArtifact(role="model", name=key, data=dump(obj)) for key, obj in models.items()]
        for number, step in enumerate(steps, 1):
            loose.append(LooseArtifact(role="preprocessor", name=preprocessor_name(number), data=dump(step)))
        if label_encoder is not None:
            loose.append(LooseArtifact(role="label_encoder", name="label_encoder", data=dump(label_encoder)))
        return self.publish_files(name, loose, alias=alias, metadata=metadata)

    def publish_files(
        self,
        name: str,
        loose: Sequence[LooseArtifact],
        alias: str | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> Manifest:
        """Store joblib or pickle files as a new version (see `publish`); they are unpickled in another process."""
        if alias is not None:
            keys.alias(keys.check_name("model", name), alias)  # a name that is not valid is told before the upload
        manifest = self._publisher.publish(name, loose, metadata or {})
        if alias is not None:
            self.alias(name, alias, manifest.version)
        return manifest

    def fetch(self, key_or_uri: str) -> tuple[str, bytes]:
        """Read a loose object that is to be adopted, by key or ``s3://`` address; returns its address and its bytes.

        Where `save` recorded a digest beside it, the bytes have to agree.
        """
        store, key = self._store, key_or_uri
        if key_or_uri.startswith("s3://"):
            bucket, _, key = key_or_uri.removeprefix("s3://").partition("/")
            if bucket != store.bucket:
                if self._buckets is None:
                    raise BucketNotAllowed(f"bucket {bucket!r} is not the bucket of the models")
                store = self._buckets[bucket]
        stored = store.get(key)
        recorded = stored.info.metadata.get("sha256")
        if recorded not in (None, digest(stored.data)):
            raise ModelCorrupt(f"{store.uri(key)} differs from its recorded digest")
        return store.uri(key), stored.data

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
        return self.load_manifest(self.registry.manifest(pinned), pinned.manifest_sha256)

    def load_manifest(self, manifest: Manifest, manifest_sha256: str) -> Bundle:
        """Load what a manifest from the registry, which has checked it, lists (errors as `load`)."""
        return self._loader.load(manifest, manifest_sha256)

    def verify(self, ref: str) -> tuple[Manifest, str | None]:
        """Read every byte of a version and compare it with its manifest; nothing is unpickled.

        Returns
        -------
        manifest, signer : Manifest, str or None
            The id of the trusted key that signed, where verify keys are set.

        Raises
        ------
        ModelNotFound, ModelCorrupt, ModelUntrusted
            Naming the first thing that is wrong.
        """
        pinned = self.registry.resolve(ref)
        manifest = self.registry.manifest(pinned)
        for artifact in manifest.artifacts:
            self._loader.check(manifest, artifact)
        return manifest, self.registry.signer(pinned)

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
        return unpickle(io.BytesIO(stored.data), uri)[0]


def preprocessor_name(number: int) -> str:
    """Name of the `number`-th preprocessor of a bundle, from 1."""
    return "preprocessor" if number == 1 else f"preprocessor_{number}"
