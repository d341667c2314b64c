"""What a model version is made of, as JSON beside its artifacts."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from scoreline.storage.errors import InvalidRequest, ModelCorrupt
from scoreline.storage.keys import check_name, is_version

FORMAT = 1
CHUNK_BYTES = 4 << 20
"""Bytes verified at a time: large enough that requests to object storage are few, small enough that several
chunks in memory do not matter beside a model."""

METHODS = ("predict", "predict_proba", "predict_log_proba", "decision_function", "score_samples", "transform")
"""Methods of an estimator that score rows it was not fitted on."""

_DEFAULTS = {
    "classifier": ("predict", "predict_proba"),
    "regressor": ("predict",),
    "clusterer": ("predict",),
    "outlier_detector": ("predict", "decision_function"),
    "density_estimator": ("predict",),
    "transformer": ("transform",),
}
"""By kind: what is scored where no method is named."""
_ELSE = ("transform", "score_samples", "decision_function")

Role = Literal["model", "preprocessor", "label_encoder"]

_REF = re.compile(r"(?P<name>[^@]+)(?:@(?P<which>[^@]+))?")


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """One joblib file of a version."""

    role: Role
    name: str
    """Name of the model within the bundle; the role's own name for the others."""
    file: str
    size: int
    """Bytes."""
    sha256: str
    chunk_bytes: int
    chunks: tuple[str, ...]
    """SHA-256 of each chunk, in order; the last chunk may be shorter."""

    @classmethod
    def of(cls, role: Role, name: str, data: bytes) -> Artifact:
        """Describe the bytes of an artifact."""
        pieces = (data[start : start + CHUNK_BYTES] for start in range(0, len(data), CHUNK_BYTES))
        return cls(
            role=role,
            name=name,
            file=f"{name}.joblib",
            size=len(data),
            sha256=hashlib.sha256(data).hexdigest(),
            chunk_bytes=CHUNK_BYTES,
            chunks=tuple(hashlib.sha256(piece).hexdigest() for piece in pieces),
        )


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """What one model of a bundle can say."""

    kind: str
    """``classifier``, ``regressor``, ``clusterer``, ``outlier_detector``, ``density_estimator``, ``transformer``, or
    ``estimator`` where it does not say."""
    methods: tuple[str, ...]
    """Of `METHODS`, those it has for rows that it was not fitted on."""
    classes: tuple[Any, ...] | None
    """Labels as users read them, in the order of the probability columns; a tuple for each target where it predicts
    several."""

    @property
    def default(self) -> tuple[str, ...]:
        """Methods to score with where none is named: what one expects of its kind.

        >>> Outputs(kind="outlier_detector", methods=("predict", "decision_function"), classes=None).default
        ('predict', 'decision_function')
        """
        usual = tuple(method for method in _DEFAULTS.get(self.kind, _DEFAULTS["classifier"]) if method in self.methods)
        return usual or tuple(method for method in _ELSE if method in self.methods)[:1] or self.methods[:1]

    @classmethod
    def from_raw(cls, raw: Mapping[str, Any]) -> Outputs:
        """Decode what JSON made of it."""
        classes = raw["classes"]
        return cls(
            kind=raw["kind"],
            methods=tuple(raw["methods"]),
            classes=None if classes is None else tuple(tuple(c) if isinstance(c, list) else c for c in classes),
        )


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """A model version."""

    name: str
    version: str
    created: str
    """UTC, ISO 8601."""
    artifacts: tuple[Artifact, ...]
    feature_names: tuple[str, ...] | None
    n_features: int | None
    outputs: Mapping[str, Outputs]
    """By name of the model."""
    libraries: Mapping[str, str]
    """Versions that the version was made with: python, scikit-learn, numpy, joblib."""
    memory_bytes: int
    """Of a process, for the loaded bundle: measured when it was published, in a process of its own."""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    format: int = FORMAT

    @property
    def ref(self) -> str:
        """``name@version``."""
        return f"{self.name}@{self.version}"

    @property
    def size(self) -> int:
        """Bytes of all artifacts."""
        return sum(artifact.size for artifact in self.artifacts)

    @property
    def content_sha256(self) -> str:
        """SHA-256 of what the version is made of: artifacts in their roles, and metadata."""
        return content_sha256(self.artifacts, self.metadata)

    def to_json(self) -> bytes:
        """Encode; the same manifest gives the same bytes."""
        return json.dumps(asdict(self), indent=1, sort_keys=True, ensure_ascii=False).encode()

    @classmethod
    def from_json(cls, data: bytes, ref: str) -> Manifest:
        """Decode.

        Raises
        ------
        ModelCorrupt
            The bytes are no manifest of a format known here, or another version's manifest.
        """
        try:
            raw = json.loads(data)
            if raw["format"] != FORMAT:
                raise ModelCorrupt(f"manifest of {ref} has format {raw['format']}, known here is {FORMAT}")
            manifest = cls(
                **raw
                | {
                    "artifacts": tuple(
                        Artifact(**item | {"chunks": tuple(item["chunks"])}) for item in raw["artifacts"]
                    ),
                    "feature_names": tuple(raw["feature_names"]) if raw["feature_names"] else None,
                    "outputs": {name: Outputs.from_raw(item) for name, item in raw["outputs"].items()},
                }
            )
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ModelCorrupt(f"manifest of {ref} cannot be read: {error!r}") from error
        if manifest.ref != ref:
            raise ModelCorrupt(f"manifest of {ref} says that it is {manifest.ref}: was it copied?")
        return manifest


@dataclass(frozen=True, kw_only=True)
class PinnedModel:
    """One version, named so that nothing else can answer to it."""

    name: str
    version: str
    manifest_sha256: str

    @property
    def ref(self) -> str:
        """``name@version``."""
        return f"{self.name}@{self.version}"


def content_sha256(artifacts: Iterable[Artifact], metadata: Mapping[str, Any]) -> str:
    """SHA-256 of what a version is made of; two versions of the same content differ in their time alone."""
    content = [[[item.role, item.name, item.sha256] for item in artifacts], dict(metadata)]
    return digest(json.dumps(content, sort_keys=True).encode())


def digest(data: bytes) -> str:
    """SHA-256 in hex."""
    return hashlib.sha256(data).hexdigest()


def parse_ref(ref: str) -> tuple[str, str | None]:
    """Split ``name``, ``name@alias`` or ``name@version``.

    Raises
    ------
    InvalidRequest
        It is none of these.

    Examples
    --------
    >>> parse_ref("churn@champion"), parse_ref("churn")
    (('churn', 'champion'), ('churn', None))
    """
    match = _REF.fullmatch(ref)
    if match is None:
        raise InvalidRequest(f"model {ref!r} is none of name, name@alias, name@version")
    which = match["which"]
    if which is not None and not is_version(which):
        check_name("alias", which)
    return check_name("model", match["name"]), which
