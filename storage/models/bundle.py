"""A model in memory, with everything that has to be loaded beside it."""

from __future__ import annotations

import io
import logging
import os
import re
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import joblib
import sklearn
from sklearn.exceptions import InconsistentVersionWarning

from scoreline.storage import keys
from scoreline.storage.errors import ModelCorrupt, ModelUnloadable, ScorelineError
from scoreline.storage.models.local_cache import LocalCopies
from scoreline.storage.models.manifest import Artifact, Manifest, Role
from scoreline.storage.models.stream import FileSource, Source, StoredSource, VerifiedReader
from scoreline.storage.models.unpickler import load
from scoreline.storage.objects.base import ObjectStore

log = logging.getLogger(__name__)

_MAIN = r"'(?:__main__|__mp_main__|storage\.models\.proof)'"
_NOT_THERE = re.compile(
    rf"attribute '(?P<name>[^']+)' (?:of|on|from)? ?<module {_MAIN}|module {_MAIN} has no attribute '(?P<old>[^']+)'"
)
"""What a pickle says of what was in the main module of whoever saved it, which is another one here."""

_BUFFER_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """One or several models, and whatever stands around them.

    Scoring runs each preprocessor's ``transform`` in order, then each model's method, then
    ``label_encoder.inverse_transform``.
    """

    models: Mapping[str, Any]
    preprocessors: tuple[Any, ...] = ()
    label_encoder: Any = None
    manifest: Manifest
    manifest_sha256: str
    load_seconds: float = 0.0
    warnings: tuple[str, ...] = ()
    """What was overlooked at the loading because the settings allow it."""
    refused: dict[str | None, dict[Any, str]] = field(default_factory=dict, repr=False, compare=False)
    """Values that the models were found not to take, by method and column; kept as long as they are in memory."""

    def prepare(self, x: Any) -> Any:
        """Run the preprocessors: features of shape (n_rows, n_features) in, what the models take out."""
        for preprocessor in self.preprocessors:
            x = preprocessor.transform(x)
        return x


@dataclass(frozen=True, kw_only=True)
class ModelLoader:
    """Loads versions from a store, through local copies where there are any.

    Parameters
    ----------
    store : ObjectStore
        The bucket of the models.
    copies : LocalCopies, optional
        Verified like the store itself, and healed from it.
    allow_version_skew : bool
        Whether a model saved by another scikit-learn is loaded, with a warning.
    """

    store: ObjectStore
    copies: LocalCopies | None = None
    allow_version_skew: bool = False

    def load(self, manifest: Manifest, manifest_sha256: str) -> Bundle:
        """Stream every artifact of a version into memory, verified; whole or not at all.

        Raises
        ------
        ModelCorrupt
            Stored bytes differ from the manifest; nothing of them reached the unpickler.
        ModelUnloadable
            The bytes are right, but a module is missing, or scikit-learn is another version.
        """
        started = time.perf_counter()
        skew = check_version(manifest.ref, manifest.libraries, self.allow_version_skew)
        steps: dict[Role, dict[str, Any]] = {"model": {}, "preprocessor": {}, "label_encoder": {}}
        for artifact in manifest.artifacts:
            steps[artifact.role][artifact.name] = one_thread(self._load_artifact(manifest, artifact))
        return Bundle(
            models=steps["model"],
            preprocessors=tuple(steps["preprocessor"].values()),
            label_encoder=next(iter(steps["label_encoder"].values()), None),
            manifest=manifest,
            manifest_sha256=manifest_sha256,
            load_seconds=time.perf_counter() - started,
            warnings=(skew,) if skew else (),
        )

    def check(self, manifest: Manifest, artifact: Artifact) -> int:
        """Read an artifact from the store and compare it with the manifest; returns its bytes (errors as `load`)."""
        with VerifiedReader(self._stored(manifest, artifact), artifact) as raw:
            return raw.drain()

    def _load_artifact(self, manifest: Manifest, artifact: Artifact) -> Any:
        what = f"{artifact.role} of {manifest.ref}"
        if self.copies is None:
            return self._read(self._stored(manifest, artifact), artifact, what)
        descriptor = self.copies.open(artifact)
        if descriptor is not None:
            try:
                source = FileSource(str(self.copies.path(artifact)), descriptor)
                return self._read(source, artifact, what)
            except ModelCorrupt as error:
                log.warning("models.copy_corrupt", extra={"error": str(error)})
                self.copies.drop(artifact)
            finally:
                os.close(descriptor)
        with self.copies.writer(artifact) as copy:
            return self._read(self._stored(manifest, artifact), artifact, what, copy)

    def _stored(self, manifest: Manifest, artifact: Artifact) -> Source:
        key = keys.artifact(manifest.name, manifest.version, artifact.file)
        return StoredSource(self.store, key, artifact.size)

    def _read(self, source: Source, artifact: Artifact, what: str, tee: Callable[[bytes], None] | None = None) -> Any:
        with VerifiedReader(source, artifact, tee) as raw:
            buffered = io.BufferedReader(raw, _BUFFER_BYTES)
            loaded, _ = unpickle(buffered, what, allow_version_skew=self.allow_version_skew)
            if buffered.read(1):
                raise ModelCorrupt(f"{source.uri} has bytes after the end of its pickle")
            return loaded


def check_version(ref: str, saved_with: Mapping[str, str], allow_skew: bool) -> str | None:
    """Compare scikit-learn's version before anything is unpickled; returns the warning where skew is allowed.

    Raises
    ------
    ModelUnloadable
        Naming both versions and the ways out.
    """
    saved_by = saved_with.get("scikit-learn")
    if saved_by in (None, sklearn.__version__):
        return None
    skew = f"{ref} was saved by scikit-learn {saved_by}, here is {sklearn.__version__}"
    if not allow_skew:
        raise ModelUnloadable(
            f"{skew}: install scikit-learn=={saved_by}, publish the model again, "
            "or set ML_ALLOW_VERSION_SKEW=true to go on at your own risk"
        )
    log.warning("models.version_skew", extra={"warning": skew})
    return skew


def unpickle(file: io.BufferedIOBase, what: str, *, allow_version_skew: bool = False) -> tuple[Any, str | None]:
    """Load a joblib stream whose bytes were verified.

    Returns
    -------
    obj, saved_by : Any, str or None
        What was stored, and the version of scikit-learn that saved it where that is another than this one.

    Raises
    ------
    ModelUnloadable
        With the missing module, or both versions of scikit-learn, named.
    """
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always" if allow_version_skew else "error", InconsistentVersionWarning)
            loaded = load(file)
    except ScorelineError:
        raise
    except ModuleNotFoundError as error:
        raise ModelUnloadable(f"{what} needs the module {error.name!r}, which is not installed") from error
    except InconsistentVersionWarning as error:
        raise ModelUnloadable(
            f"{what} was saved by scikit-learn {error.original_sklearn_version}, here is {sklearn.__version__}: "
            f"install scikit-learn=={error.original_sklearn_version}, or set ML_ALLOW_VERSION_SKEW=true to go on "
            "at your own risk"
        ) from error
    except AttributeError as error:
        if found := _NOT_THERE.search(str(error)):
            name = found["name"] or found["old"]
            raise ModelUnloadable(
                f"{what} cannot be loaded: it uses {name!r}, which was defined in a notebook or a script: define it in "
                "a module that workers can import, and save the model again"
            ) from error
        raise ModelUnloadable(f"{what} cannot be loaded: {error}") from error
    except Exception as error:  # a pickle may raise anything
        raise ModelUnloadable(f"{what} cannot be loaded: {type(error).__name__}: {error}") from error
    saved_by = None
    for warning in caught:
        if isinstance(warning.message, InconsistentVersionWarning):
            saved_by = str(warning.message.original_sklearn_version)
        else:
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    return loaded, saved_by


def one_thread(estimator: Any) -> Any:
    """Set every ``n_jobs`` of an estimator to 1: the processes of a worker are its parallelism."""
    if hasattr(estimator, "get_params"):
        threads = {name: 1 for name in estimator.get_params() if name.rpartition("__")[2] == "n_jobs"}
        if threads:
            estimator.set_params(**threads)
    return estimator


def dump(obj: Any) -> bytes:
    """Encode an estimator as joblib does, uncompressed: loading it is then bound by the network."""
    buffer = io.BytesIO()
    joblib.dump(obj, buffer)
    return buffer.getvalue()
