"""Bundles: models in memory, with their preprocessors and label encoder."""

from __future__ import annotations

import io
import logging
import os
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import joblib
from sklearn.exceptions import InconsistentVersionWarning

from scoreline.storage import keys
from scoreline.storage.errors import ModelCorrupt
from scoreline.storage.models.categories import Categories, known_categories
from scoreline.storage.models.compiled.compiled_estimators import CompiledEstimators
from scoreline.storage.models.compiled.extension import compile_estimators
from scoreline.storage.models.introspection import replaces_blanks
from scoreline.storage.models.local_cache import LocalCache
from scoreline.storage.models.manifest import Artifact, Manifest, Role
from scoreline.storage.models.row_order import calls_own_code, keeps_rows_apart, may_be_tried
from scoreline.storage.models.stream import FileSource, ObjectSource, Source, VerifiedReader
from scoreline.storage.models.thread_limits import limit_to_one_thread
from scoreline.storage.models.unpickler import LoadFailed, load
from scoreline.storage.models.version_skew import check_version, explain, refuse_skew
from scoreline.storage.objects.base import ObjectStore

log = logging.getLogger(__name__)

_BUFFER_BYTES = 1 << 16
"""Size of the buffer for the small objects of a pickle. Arrays that are larger do not pass through it."""


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """One or more models, with their preprocessors and label encoder.

    Scoring runs each preprocessor's ``transform`` in order, then each model's method, then
    ``label_encoder.inverse_transform``.
    """

    models: Mapping[str, Any]
    preprocessors: tuple[Any, ...] = ()
    label_encoder: Any = None
    manifest: Manifest
    manifest_sha256: str
    load_seconds: float = 0.0
    compiled: CompiledEstimators = field(default_factory=CompiledEstimators, repr=False)
    """The ensembles of trees, text vectorizers and scalers in the bundle, which are faster in a compiled form."""
    warnings: tuple[str, ...] = ()
    """Problems that were found while loading and that the settings allow."""
    _categories: dict[tuple[str, ...], Mapping[str, Categories]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    @property
    def memory_bytes(self) -> int:
        """Memory of the bundle in bytes: the estimators, as measured when they were published, and what is compiled."""
        return self.manifest.memory_bytes + self.compiled.nbytes

    @property
    def first_step(self) -> Any:
        """The estimator that receives the features: the first preprocessor, or the first model if there is none."""
        return self.preprocessors[0] if self.preprocessors else next(iter(self.models.values()))

    def categories(self, features: Sequence[str]) -> Mapping[str, Categories]:
        """Return the categories that the encoders of the first step know, by feature name."""
        names = tuple(features)
        if names not in self._categories:
            self._categories[names] = known_categories(self.first_step, names)
        return self._categories[names]

    @property
    def replaces_blanks(self) -> bool:
        """Whether an underscore in a feature name may match a blank in a column name."""
        return any(replaces_blanks(step) for step in self.preprocessors[:1] or tuple(self.models.values()))

    @cached_property
    def keeps_rows_apart(self) -> bool:
        """Whether every step before the last is known to process rows independently, and to keep their order."""
        return keeps_rows_apart(self.preprocessors, self.models.values(), self.label_encoder)

    @cached_property
    def may_be_tried(self) -> bool:
        """Whether an additional call leaves later results unchanged, as far as the classes of the steps are known."""
        return may_be_tried(self.preprocessors, self.models.values())

    @cached_property
    def calls_own_code(self) -> bool:
        """Whether scoring may call a function that is not of a known library, such as the user's tokenizer."""
        return calls_own_code(self.preprocessors, self.models.values())

    def prepare(self, x: Any) -> Any:
        """Run the preprocessors on features of shape (n_rows, n_features), and return the input for the models."""
        for preprocessor in self.preprocessors:
            x = preprocessor.transform(x)
        return x


@dataclass(frozen=True, kw_only=True)
class ModelLoader:
    """Loads versions from a store, using the local cache if there is one.

    Parameters
    ----------
    store : ObjectStore
        The bucket that contains the models.
    local_cache : LocalCache, optional
        Copies on disk. Each copy is verified like an object in the store. A corrupt copy is replaced from the store.
    allow_version_skew : bool
        Whether to load models that were saved with another version of scikit-learn. The bundle of such a model has a
        warning.
    compile_trees : bool
        Whether to compile ensembles of trees, text vectorizers and scalers.
    """

    store: ObjectStore
    local_cache: LocalCache | None = None
    allow_version_skew: bool = False
    compile_trees: bool = True

    def load(self, manifest: Manifest, manifest_sha256: str) -> Bundle:
        """Stream all artifacts of a version into memory and verify them. The bundle loads completely or not at all.

        Raises
        ------
        ModelCorrupt
            Stored bytes differ from the manifest. The unpickler has received no wrong bytes.
        ModelUnloadable
            The bytes are intact, but a module is missing or another version of scikit-learn is installed.
        """
        started = time.perf_counter()
        skew = check_version(manifest.ref, manifest.libraries, self.allow_version_skew)
        steps: dict[Role, dict[str, Any]] = {"model": {}, "preprocessor": {}, "label_encoder": {}}
        for artifact in manifest.artifacts:
            steps[artifact.role][artifact.name] = limit_to_one_thread(self._load_artifact(manifest, artifact))
        searched = [*steps["preprocessor"].items(), *steps["model"].items()]
        compiled = compile_estimators(searched) if self.compile_trees else CompiledEstimators()
        return Bundle(
            models=steps["model"],
            preprocessors=tuple(steps["preprocessor"].values()),
            label_encoder=next(iter(steps["label_encoder"].values()), None),
            manifest=manifest,
            manifest_sha256=manifest_sha256,
            load_seconds=time.perf_counter() - started,
            compiled=compiled,
            warnings=(skew,) if skew else (),
        )

    def _load_artifact(self, manifest: Manifest, artifact: Artifact) -> Any:
        what = f"{artifact.role} of {manifest.ref}"
        if self.local_cache is None:
            return self._read(self._stored(manifest, artifact), artifact, what)
        descriptor = self.local_cache.open(artifact)
        if descriptor is not None:
            try:
                source = FileSource(str(self.local_cache.path(artifact)), descriptor)
                return self._read(source, artifact, what)
            except ModelCorrupt as error:
                log.warning("models.copy_corrupt", extra={"error": str(error)})
                self.local_cache.drop(artifact)
            finally:
                os.close(descriptor)
        with self.local_cache.writer(artifact) as writer:
            return self._read(self._stored(manifest, artifact), artifact, what, writer)

    def _stored(self, manifest: Manifest, artifact: Artifact) -> Source:
        key = keys.artifact(manifest.name, manifest.version, artifact.file)
        return ObjectSource(self.store, key, artifact.size)

    def _read(self, source: Source, artifact: Artifact, what: str, tee: Callable[[bytes], None] | None = None) -> Any:
        with VerifiedReader(source, artifact, tee) as raw:
            buffered = io.BufferedReader(raw, _BUFFER_BYTES)
            loaded, _ = unpickle(buffered, what, allow_version_skew=self.allow_version_skew)
            if buffered.read(1):
                raise ModelCorrupt(f"{source.uri} has bytes after the end of its pickle: publish the model again")
            return loaded


def unpickle(file: io.BufferedIOBase, what: str, *, allow_version_skew: bool = False) -> tuple[Any, str | None]:
    """Load a joblib stream whose bytes have been verified.

    Parameters
    ----------
    file : buffered reader
        The stream.
    what : str
        Description of the stream, for error messages.
    allow_version_skew : bool
        Whether to load objects that were saved with another version of scikit-learn.

    Returns
    -------
    obj, saved_by : Any, str or None
        The stored object, and the version of scikit-learn that saved the object. The version is None if the installed
        version saved the object.

    Raises
    ------
    ModelUnloadable
        The object cannot be loaded. The message names the missing module, or both versions of scikit-learn.
    """
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always" if allow_version_skew else "error", InconsistentVersionWarning)
            loaded = load(file)
    except LoadFailed as failed:
        error = failed.error
        if isinstance(error, InconsistentVersionWarning):
            raise refuse_skew(what, str(error.original_sklearn_version)) from error
        raise explain(what, error, _saved_by(caught) or failed.saved_by) from error
    saved_by = _saved_by(caught)
    for warning in caught:
        if not isinstance(warning.message, InconsistentVersionWarning):
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    return loaded, saved_by


def _saved_by(caught: Iterable[warnings.WarningMessage]) -> str | None:
    """Return the version of scikit-learn in the last warning about inconsistent versions."""
    return next(
        (
            str(warning.message.original_sklearn_version)
            for warning in reversed(list(caught))
            if isinstance(warning.message, InconsistentVersionWarning)
        ),
        None,
    )


def dump(obj: Any) -> bytes:
    """Encode an estimator with joblib.

    The bytes are not compressed, so that only the network limits the speed of loading.
    """
    buffer = io.BytesIO()
    joblib.dump(obj, buffer)
    return buffer.getvalue()
