"""Publish and load models: the public interface of `scoreline.storage.models`."""

from __future__ import annotations

import io
import os
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

from scoreline.storage import keys
from scoreline.storage.errors import BucketNotAllowed, InvalidRequest, ModelCorrupt, ModelUntrusted, PromotionRefused
from scoreline.storage.hashing import sha256_hex
from scoreline.storage.models import attachments as attached
from scoreline.storage.models import roles, saved_objects, signatures
from scoreline.storage.models.aliases import Alias
from scoreline.storage.models.contents import Pickled, StoredFile
from scoreline.storage.models.local_cache import LocalCache
from scoreline.storage.models.manifest import Manifest, PinnedModel
from scoreline.storage.models.publisher import RANDOM_DIGITS, Measure, Progress, Publisher, new_version
from scoreline.storage.models.registry import ModelRegistry
from scoreline.storage.models.settings import ModelSettings
from scoreline.storage.models.stream import check_stored
from scoreline.storage.models.trial_load import NewArtifact, TrialLoad
from scoreline.storage.objects.base import ObjectStore
from scoreline.storage.objects.buckets import Buckets
from scoreline.storage.settings import StorageSettings

if TYPE_CHECKING:
    from scoreline.storage.models.bundle import Bundle, ModelLoader

_MOST_WAITS = 20_000
"""How often the next version is waited for, which takes at least two seconds."""


class ModelStorageManager:
    """Publishes models to object storage and loads them from there into memory.

    Parameters
    ----------
    store : ObjectStore
        The bucket that contains the models.
    cloud_only : bool
        Whether models must never be written to disk.
    use_r2 : bool
        Whether the store is R2 rather than a directory.
    settings : ModelSettings, optional
        Settings for signatures, the local cache and version skew.
    buckets : Buckets, optional
        Other buckets from which files to publish can be read.
    try_here : bool
        Whether the trial load before publishing runs in this process rather than in a fresh one. Only tests need this.

    Examples
    --------
    ::

        models = ModelStorageManager.from_env()
        models.publish("churn", classifier, preprocessor=scaler, alias="champion")
        bundle = models.load("churn@champion")
    """

    arguments: tuple[str, ...] = (
        "name",
        "model",
        "preprocessor",
        "label_encoder",
        "alias",
        "metadata",
        "attachments",
    )
    """The arguments of `publish` for users."""

    def __init__(
        self,
        store: ObjectStore,
        *,
        cloud_only: bool,
        use_r2: bool,
        settings: ModelSettings | None = None,
        buckets: Buckets | None = None,
        try_here: bool = False,
    ) -> None:
        settings = settings or ModelSettings()
        self.cloud_only = cloud_only
        self.use_r2 = use_r2
        self.bucket_name = store.bucket
        self.verify_keys = settings.verify_keys
        self._signing_key = settings.signing_key
        self._store = store
        self._buckets = buckets
        self._settings = settings
        use_disk = use_r2 and not cloud_only
        self._local_cache = LocalCache(settings.cache_dir, settings.cache_dir_bytes) if use_disk else None
        self.registry = ModelRegistry(
            store,
            verify_keys=settings.verify_keys,
            local_cache=self._local_cache,
            signing_key=settings.signing_key,
        )
        skew = settings.allow_version_skew
        self._try_here = try_here
        self._publisher = Publisher(store, signing_key=settings.signing_key, allow_version_skew=skew, try_here=try_here)

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> Self:
        """Open the bucket that is named in `environ`, by default the environment of this process.

        Raises
        ------
        InvalidSettings
            An environment variable is missing or invalid. The message lists all faults.
        """
        environ = os.environ if environ is None else environ
        return cls.from_settings(StorageSettings.from_env(environ), ModelSettings.from_env(environ))

    @classmethod
    def from_settings(cls, storage: StorageSettings, models: ModelSettings) -> Self:
        """Open the bucket that is named in the settings."""
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
        *,
        attachments: Mapping[str, bytes] | None = None,
        measure: Measure | None = None,
        **unknown: Any,
    ) -> Manifest:
        """Store a new version of a bundle and return its manifest.

        A fresh process loads the bundle before the version exists, so that no version is published that workers cannot
        load. Each object is encoded while it is uploaded, so its bytes are never in memory as a whole.

        Parameters
        ----------
        name : str
            Name of the bundle.
        model : estimator or mapping of str to estimator
            A fitted model, or several models that score the same rows, by name.
        preprocessor : transformer or sequence of transformer, optional
            Fitted preprocessors. The ``transform`` methods of the preprocessors run before every model, in the given
            order.
        label_encoder : LabelEncoder, optional
            A fitted encoder. The ``inverse_transform`` method of the encoder runs after every classifier.
        alias : str, optional
            Alias that will name the new version, such as ``champion``.
        metadata : mapping, optional
            Any values that JSON supports.
        attachments : mapping of str to bytes, optional
            Small files to store beside the manifest, by name, for example ``checks.toml``. Each may have 100,000 bytes.
        measure : callable, optional
            Returns further attachments and metrics of the version (see `Publisher.publish`).

        Raises
        ------
        InvalidRequest
            The bundle cannot score rows, its steps do not fit together, or a name is not valid. A keyword argument that
            does not exist, such as ``scaler=``, is refused with the one that was meant.
        ModelUnloadable
            A fresh process cannot load the bundle.
        """
        if unknown:
            roles.refuse_unknown(unknown, self.arguments)
        models = dict(model) if isinstance(model, Mapping) else {"model": model}
        steps = [] if preprocessor is None else preprocessor
        steps = list(steps) if isinstance(steps, (list, tuple)) else [steps]
        files = [NewArtifact(role="model", name=key, data=Pickled(obj)) for key, obj in models.items()]
        for number, step in enumerate(steps, 1):
            files.append(NewArtifact(role="preprocessor", name=preprocessor_name(number), data=Pickled(step)))
        if label_encoder is not None:
            files.append(NewArtifact(role="label_encoder", name="label_encoder", data=Pickled(label_encoder)))
        return self.publish_files(name, files, alias=alias, metadata=metadata, attachments=attachments, measure=measure)

    def publish_files(
        self,
        name: str,
        files: Sequence[NewArtifact],
        alias: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        progress: Progress | None = None,
        *,
        attachments: Mapping[str, bytes] | None = None,
        measure: Measure | None = None,
        on_loaded: Callable[[TrialLoad], None] | None = None,
    ) -> Manifest:
        """Store joblib or pickle files as a new version (see `publish`). The files are unpickled in another process.

        Parameters
        ----------
        progress : callable, optional
            ``progress(step, done, total)`` is called after each piece of the files, with numbers of bytes. The total is
            None if it is not known.
        on_loaded : callable, optional
            Receives the result of the trial load.
        """
        if alias is not None:
            keys.alias(keys.check_name("model", name), alias)  # raise the error for an invalid name before the upload
        if self._try_here:
            self._wait_for_next_version(name)
        manifest = self._publisher.publish(
            name, files, metadata or {}, progress, attachments=attachments, measure=measure, on_loaded=on_loaded
        )
        if alias is not None:
            try:
                self.alias(name, alias, manifest.version)
            except PromotionRefused as error:
                raise PromotionRefused(f"{manifest.ref} is published, but {error}") from None
        return manifest

    def _wait_for_next_version(self, name: str) -> None:
        """Wait until a new version sorts after the newest one: for a quarter of a millisecond, mostly."""
        newest = max(self.registry.versions(name), default="")
        for _ in range(_MOST_WAITS):
            if new_version()[:-RANDOM_DIGITS] > newest[:-RANDOM_DIGITS]:
                return
            time.sleep(0.0001)
        raise InvalidRequest(
            f"the model {name!r} has the version {newest}, and the clock of this machine has not passed that time: "
            "set the clock, or let it run if a test has stopped it"
        )

    @cached_property
    def _loader(self) -> ModelLoader:
        # Publishing needs no scikit-learn, whose import takes 150 MB.
        from scoreline.storage.models.bundle import ModelLoader

        return ModelLoader(
            store=self._store,
            local_cache=self._local_cache,
            allow_version_skew=self._settings.allow_version_skew,
            compile_trees=self._settings.compile_trees,
        )

    @property
    def signs(self) -> bool:
        """Whether there is a signing key. If so, published versions are signed."""
        return bool(self._signing_key)

    def find_file(self, key_or_uri: str) -> StoredFile:
        """Return a joblib or pickle file in a bucket, given by its key or as an ``s3://`` URI, for publishing.

        Raises
        ------
        ObjectNotFound
            There is no such object.
        BucketNotAllowed
            The bucket is neither that of the models nor an allowed one.
        """
        store, key = self._store, key_or_uri
        if key_or_uri.startswith("s3://"):
            bucket, _, key = key_or_uri.removeprefix("s3://").partition("/")
            if bucket != store.bucket:
                if self._buckets is None:
                    raise BucketNotAllowed(
                        f"bucket {bucket!r} is not the bucket of the models ({store.bucket}): copy the file there"
                    )
                store = self._buckets[bucket]
        return StoredFile(store, store.head(key))

    def load(self, ref: str) -> Bundle:
        """Load ``name``, ``name@alias`` or ``name@version`` from the store into memory.

        Raises
        ------
        ModelNotFound, ModelCorrupt, ModelUnloadable
            The bundle does not exist, is incomplete or altered, or cannot be loaded in this environment.
        """
        return self.load_pinned(self.registry.resolve(ref))

    def load_pinned(self, pinned: PinnedModel) -> Bundle:
        """Load the version that a job pinned (errors as in `load`)."""
        return self.load_manifest(self.registry.manifest(pinned), pinned.manifest_sha256)

    def load_manifest(self, manifest: Manifest, manifest_sha256: str) -> Bundle:
        """Load the version that a manifest describes.

        The registry must have verified the manifest (errors as in `load`).
        """
        return self._loader.load(manifest, manifest_sha256)

    def verify(self, ref: str) -> tuple[Manifest, str | None]:
        """Compare every byte of a version with its manifest, without unpickling anything.

        Returns
        -------
        manifest, signer : Manifest, str or None
            The manifest, and the id of the trusted key that signed it. The id is None if no verify keys are set.

        Raises
        ------
        ModelNotFound, ModelCorrupt, ModelUntrusted
            The version is missing, corrupt or not signed. The message names the first problem.
        """
        pinned = self.registry.resolve(ref)
        manifest = self.registry.manifest(pinned)
        for artifact in manifest.artifacts:
            check_stored(self._store, keys.artifact(manifest.name, manifest.version, artifact.file), artifact)
        for file, expected in manifest.attachments.items():
            attached.read(self._store, manifest.name, manifest.version, file, expected)
        return manifest, self.registry.signer(pinned)

    def list(self) -> dict[str, list[str]]:
        """Return a mapping from the name of each model to its versions, oldest first."""
        return {name: self.registry.versions(name) for name in self.registry.names()}

    def show(self, ref: str) -> Manifest:
        """Return the manifest of a version."""
        return self.registry.show(ref)

    def alias(self, name: str, alias: str, version: str) -> Alias:
        """Set `alias` to `version`."""
        return self.registry.alias(name, alias, version)

    def save(self, key: str, obj: Any) -> str:
        """Store a single object with joblib and return the SHA-256 of its bytes. The object belongs to no version.

        If there is a signing key, the digest is signed together with the key of the object.
        """
        return saved_objects.save(self._store, key, obj, self._signing_key)

    def load_object(self, key: str, *, sha256: str | None = None) -> Any:
        """Load an object that `save` stored. The bytes are verified before they are unpickled.

        Parameters
        ----------
        key : str
            Key of the object.
        sha256 : str, optional
            Digest that the bytes must match; by default the digest that `save` recorded next to the object. If verify
            keys are set, the recorded digest must be signed by a trusted key.

        Raises
        ------
        ObjectNotFound
            There is no such object.
        ModelUntrusted
            Verify keys are set, no trusted key signed the recorded digest, and `sha256` is not given.
        ModelCorrupt
            The digest of the bytes differs, or no digest was recorded. Only verified bytes are unpickled, because
            unpickling runs code.
        """
        stored = self._store.get(key)
        expected = stored.info.metadata.get("sha256") if sha256 is None else sha256
        uri = self._store.uri(key)
        if expected is None:
            raise ModelCorrupt(f"{uri} has no recorded digest: store it with save(), or pass sha256=")
        if sha256 is None and self.verify_keys:
            self._check_signature(key, expected, stored.info.metadata.get("signature"))
        if sha256_hex(stored.data) != expected:
            raise ModelCorrupt(f"{uri} differs from its recorded digest, so it was not unpickled: save it again")
        from scoreline.storage.models.bundle import unpickle

        return unpickle(io.BytesIO(stored.data), uri)[0]

    def _check_signature(self, key: str, sha256: str, signature: str | None) -> None:
        """Raise `ModelUntrusted` unless a trusted key signed the digest that is recorded beside an object."""
        uri = self._store.uri(key)
        try:
            lines = None if signature is None else signature.encode()
            signatures.verify(signatures.object_statement(key, sha256), lines, self.verify_keys, uri)
        except ModelUntrusted:
            raise ModelUntrusted(
                f"the digest that is recorded beside {uri} is not signed by any key in MODEL_VERIFY_KEYS, so it was "
                "not unpickled: store it again with save() where MODEL_SIGNING_KEY is set, or pass sha256="
            ) from None


def preprocessor_name(number: int) -> str:
    """Return the name of a preprocessor of a bundle. Preprocessors are numbered from 1."""
    return "preprocessor" if number == 1 else f"preprocessor_{number}"
