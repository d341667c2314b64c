"""A model in memory, with everything that has to be loaded beside it."""

from __future__ import annotations

import io
import platform
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import joblib
import numpy
import sklearn
from sklearn.exceptions import InconsistentVersionWarning

from storage import keys
from storage.errors import InvalidRequest, ModelCorrupt, ModelUnloadable, ScorelineError
from storage.models.manifest import METHODS, Artifact, Manifest, Outputs
from storage.models.stream import VerifiedReader
from storage.objects.base import ObjectStore

_BUFFER_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """One or several models, and whatever stands around them.

    Scoring runs ``preprocessor.transform``, then each model's method, then ``label_encoder.inverse_transform``.
    """

    models: Mapping[str, Any]
    preprocessor: Any = None
    label_encoder: Any = None
    manifest: Manifest
    manifest_sha256: str
    load_seconds: float = 0.0


def load_bundle(store: ObjectStore, manifest: Manifest, manifest_sha256: str) -> Bundle:
    """Stream every artifact of a version into memory, verified; whole or not at all.

    Raises
    ------
    ModelCorrupt
        Stored bytes differ from the manifest; nothing of them reached the unpickler.
    ModelUnloadable
        The bytes are right, but a module is missing, or scikit-learn is another version.
    """
    started = time.perf_counter()
    loaded = {
        (artifact.role, artifact.name): _load_artifact(store, manifest, artifact) for artifact in manifest.artifacts
    }
    return Bundle(
        models={name: one_thread(obj) for (role, name), obj in loaded.items() if role == "model"},
        preprocessor=one_thread(loaded.get(("preprocessor", "preprocessor"))),
        label_encoder=loaded.get(("label_encoder", "label_encoder")),
        manifest=manifest,
        manifest_sha256=manifest_sha256,
        load_seconds=time.perf_counter() - started,
    )


def _load_artifact(store: ObjectStore, manifest: Manifest, artifact: Artifact) -> Any:
    key = keys.artifact(manifest.name, manifest.version, artifact.file)
    with VerifiedReader(store, key, artifact) as raw:
        buffered = io.BufferedReader(raw, _BUFFER_BYTES)
        loaded = unpickle(buffered, f"{artifact.role} of {manifest.ref}", manifest.libraries)
        if buffered.read(1):
            raise ModelCorrupt(f"{store.uri(key)} has bytes after the end of its pickle")
        return loaded


def unpickle(file: io.BufferedIOBase, what: str, libraries: Mapping[str, str] | None = None) -> Any:
    """Load a joblib stream whose bytes were verified.

    Raises
    ------
    ModelUnloadable
        With the missing module, or both versions of scikit-learn, named.
    """
    saved_by = (libraries or {}).get("scikit-learn")
    if saved_by not in (None, sklearn.__version__):
        raise ModelUnloadable(
            f"{what} was saved by scikit-learn {saved_by}, here is {sklearn.__version__}: "
            f"install scikit-learn=={saved_by} or publish the model again"
        )
    try:
        return joblib.load(file)
    except ScorelineError:
        raise
    except ModuleNotFoundError as error:
        raise ModelUnloadable(f"{what} needs the module {error.name!r}, which is not installed") from error
    except InconsistentVersionWarning as error:
        raise ModelUnloadable(f"{what}: {error}") from error
    except Exception as error:  # a pickle may raise anything
        raise ModelUnloadable(f"{what} cannot be loaded: {type(error).__name__}: {error}") from error


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


def describe_features(first: Any) -> tuple[tuple[str, ...] | None, int | None]:
    """Names and number of the columns that the first step of a bundle was fitted on, where it says."""
    names = getattr(first, "feature_names_in_", None)
    return (
        None if names is None else tuple(str(name) for name in names),
        None if (count := getattr(first, "n_features_in_", None)) is None else int(count),
    )


def describe_outputs(model: Any, label_encoder: Any) -> Outputs:
    """Describe what a model can say, with its classes as users read them.

    Raises
    ------
    InvalidRequest
        It has no method to score with, or classes that the label encoder does not know.
    """
    methods = tuple(name for name in METHODS if callable(getattr(model, name, None)))
    if not methods:
        raise InvalidRequest(f"{type(model).__name__} has none of {', '.join(METHODS)}: it cannot score")
    classes = getattr(model, "classes_", None)
    if classes is not None and label_encoder is not None:
        try:
            classes = label_encoder.inverse_transform(classes)
        except ValueError as error:
            raise InvalidRequest(f"the label encoder does not know the model's classes: {error}") from error
    return Outputs(
        kind=str(getattr(model, "_estimator_type", None) or _estimator_type(model)),
        methods=methods,
        classes=None if classes is None else tuple(numpy.asarray(classes).tolist()),
    )


def _estimator_type(model: Any) -> str:
    try:
        return str(sklearn.utils.get_tags(model).estimator_type or "estimator")
    except (AttributeError, TypeError):
        return "estimator"


def libraries() -> dict[str, str]:
    """Versions of what a model depends on."""
    return {
        "python": platform.python_version(),
        "scikit-learn": sklearn.__version__,
        "numpy": numpy.__version__,
        "joblib": joblib.__version__,
    }
