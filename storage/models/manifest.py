"""The manifest of a model version: a JSON document that is stored next to the artifacts and describes them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from scoreline.storage.errors import InvalidRequest, ModelCorrupt
from scoreline.storage.hashing import is_sha256_hex, sha256_hex
from scoreline.storage.keys import check_name, is_name, is_version
from scoreline.storage.models.attachments import Additions, Attachment
from scoreline.storage.typed_json import MALFORMED, build, convert, decode_object

FORMAT = 1
CHUNK_BYTES = 4 << 20
"""Size in bytes of a chunk, which is verified as a whole. A chunk is large enough that few requests are needed, and
small enough that several chunks use little memory compared with a model."""
_MAX_CHUNK_BYTES = 1 << 30
"""Maximum size of a chunk that a manifest may give. The limit bounds memory, because several chunks are in memory at a
time."""

METHODS = ("predict", "predict_proba", "predict_log_proba", "decision_function", "score_samples", "transform")
"""Methods with which an estimator can score new rows."""

_DEFAULTS = {
    "classifier": ("predict", "predict_proba"),
    "regressor": ("predict",),
    "clusterer": ("predict",),
    "outlier_detector": ("predict", "decision_function"),
    "density_estimator": ("predict",),
    "transformer": ("transform",),
}
"""Default methods for scoring, by kind of estimator."""
_FALLBACKS = ("transform", "score_samples", "decision_function")

_MOST_BYTES = 1 << 50
"""Maximum memory of a model that a manifest may give, which is more than any machine has. Workers divide their memory
by the sizes of models."""

Role = Literal["model", "preprocessor", "label_encoder"]

_REF = re.compile(r"(?P<name>[^@]+)(?:@(?P<which>[^@]+))?")


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """A joblib file of a version."""

    role: Role
    name: str
    """For a model, its name within the bundle; for any other role, the name of the role."""
    file: str
    size: int
    """Size in bytes."""
    sha256: str
    chunk_bytes: int
    chunks: tuple[str, ...]
    """SHA-256 of each chunk, in order. The last chunk may be shorter than the others."""

    @classmethod
    def of(cls, role: Role, name: str, data: bytes) -> Artifact:
        """Describe the bytes of an artifact."""
        pieces = (data[start : start + CHUNK_BYTES] for start in range(0, len(data), CHUNK_BYTES))
        return cls(
            role=role,
            name=name,
            file=f"{name}.joblib",
            size=len(data),
            sha256=sha256_hex(data),
            chunk_bytes=CHUNK_BYTES,
            chunks=tuple(sha256_hex(piece) for piece in pieces),
        )

    def check(self) -> None:
        """Raise `ValueError` if a name or digest is invalid, or if the number of chunks does not match the size.

        The check matters because digests become paths in the local cache, and file names become object keys.
        """
        if not (is_name(self.name) and is_name(self.file)):
            raise ValueError("the name of an artifact is not valid")
        if not all(map(is_sha256_hex, (self.sha256, *self.chunks))):
            raise ValueError(f"a digest of {self.file} is not a SHA-256")
        if not 0 < self.chunk_bytes <= _MAX_CHUNK_BYTES or self.size < 0:
            raise ValueError(f"the sizes of {self.file} are not valid")
        if len(self.chunks) != -(-self.size // self.chunk_bytes):
            raise ValueError(f"the chunks of {self.file} do not make up its size")


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """The possible outputs of one model of a bundle."""

    kind: str
    """``classifier``, ``regressor``, ``clusterer``, ``outlier_detector``, ``density_estimator``, ``transformer``, or
    ``estimator`` if the model does not declare its kind."""
    methods: tuple[str, ...]
    """The methods in `METHODS` that the model supports."""
    classes: tuple[Any, ...] | None
    """The original labels, before encoding, in the order of the probability columns. A model with several targets has
    one tuple of labels per target."""

    @property
    def default_methods(self) -> tuple[str, ...]:
        """The methods that a job uses by default. They depend on the kind of the model.

        >>> Outputs(kind="outlier_detector", methods=("predict", "decision_function"), classes=None).default_methods
        ('predict', 'decision_function')
        """
        usual = tuple(method for method in _DEFAULTS.get(self.kind, _DEFAULTS["classifier"]) if method in self.methods)
        return usual or tuple(method for method in _FALLBACKS if method in self.methods)[:1] or self.methods[:1]

    def with_tuples(self) -> Outputs:
        """Return the outputs with tuples of labels. JSON decodes labels as lists."""
        if self.classes is None:
            return self
        return replace(self, classes=tuple(tuple(c) if isinstance(c, list) else c for c in self.classes))


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The description of a model version."""

    name: str
    version: str
    created: str
    """Time of publishing in UTC, as ISO 8601."""
    artifacts: tuple[Artifact, ...]
    feature_names: tuple[str, ...] | None
    n_features: int | None
    outputs: Mapping[str, Outputs]
    """Outputs of each model, by model name."""
    libraries: Mapping[str, str]
    """Versions of ``python``, ``numpy`` and ``joblib`` at the time of publishing, and the version of ``scikit-learn``
    that saved the model."""
    memory_bytes: int
    """Memory in bytes that the loaded bundle uses. It was measured in a fresh process before publishing."""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    format: int = FORMAT

    @property
    def ref(self) -> str:
        """``name@version``."""
        return f"{self.name}@{self.version}"

    @property
    def size(self) -> int:
        """Total size of the artifacts in bytes."""
        return sum(artifact.size for artifact in self.artifacts)

    @property
    def content_sha256(self) -> str:
        """SHA-256 of the artifacts, their roles and the metadata (see `content_sha256`)."""
        return content_sha256(self.artifacts, self.metadata)

    @property
    def attachments(self) -> Mapping[str, Attachment]:
        """The attachments of the version, by name. The metadata lists them."""
        return Additions.from_metadata(self.metadata).attachments

    @property
    def metrics(self) -> Mapping[str, Any]:
        """Metrics of the models on the baseline, by model name; empty if none were computed."""
        return Additions.from_metadata(self.metadata).metrics

    def to_json(self) -> bytes:
        """Encode the manifest. Equal manifests give the same bytes."""
        return json.dumps(asdict(self), indent=1, sort_keys=True, ensure_ascii=False).encode()

    @classmethod
    def from_json(cls, data: bytes, ref: str) -> Manifest:
        """Decode a manifest.

        Parameters
        ----------
        data : bytes
            The manifest as stored.
        ref : str
            The ``name@version`` that the manifest must describe.

        Raises
        ------
        ModelCorrupt
            The bytes are not a manifest in a known format, or they are the manifest of another version.
        """
        try:
            raw = decode_object(data)
            if convert(raw["format"], int, "format") != FORMAT:
                raise ModelCorrupt(
                    f"the manifest of {ref} has format {raw['format']}, but this release reads format {FORMAT}: upgrade"
                )
            raw["feature_names"] = raw["feature_names"] or None
            raw["n_features"] = raw["n_features"] or None  # earlier releases stored 0 for CatBoost models
            manifest = build(cls, raw)
            outputs = {name: item.with_tuples() for name, item in manifest.outputs.items()}
            manifest = replace(manifest, outputs=outputs)
            for artifact in manifest.artifacts:
                artifact.check()
            if not 0 <= manifest.memory_bytes <= _MOST_BYTES:
                raise ValueError("memory_bytes is not a number of bytes")
            Additions.from_metadata(manifest.metadata)
        except MALFORMED as error:
            raise ModelCorrupt(f"the manifest of {ref} cannot be read: {type(error).__name__}: {error}") from error
        if manifest.ref != ref:
            raise ModelCorrupt(f"the manifest of {ref} names {manifest.ref}: was it copied?")
        return manifest


@dataclass(frozen=True, kw_only=True)
class PinnedModel:
    """A version and the digest of its manifest. The digest ensures that no other version is loaded in its place."""

    name: str
    version: str
    manifest_sha256: str

    @property
    def ref(self) -> str:
        """``name@version``."""
        return f"{self.name}@{self.version}"

    def check(self) -> PinnedModel:
        """Return the pinned model unchanged if its name, version and digest are valid; otherwise raise `ValueError`."""
        if not (is_name(self.name) and is_version(self.version) and is_sha256_hex(self.manifest_sha256)):
            raise ValueError("the model is not pinned by a name, a version and the SHA-256 of its manifest")
        return self


def content_sha256(artifacts: Iterable[Artifact], metadata: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a version's artifacts, their roles and its metadata.

    Two versions with the same content differ only in their time of publishing.
    """
    content = [[[item.role, item.name, item.sha256] for item in artifacts], dict(metadata)]
    return sha256_hex(json.dumps(content, sort_keys=True).encode())


def parse_ref(ref: str) -> tuple[str, str | None]:
    """Split ``name``, ``name@alias`` or ``name@version`` at the ``@``. The second part is None if there is no ``@``.

    Raises
    ------
    InvalidRequest
        The reference is malformed.

    Examples
    --------
    >>> parse_ref("churn@champion"), parse_ref("churn")
    (('churn', 'champion'), ('churn', None))
    """
    match = _REF.fullmatch(ref)
    if match is None:
        raise InvalidRequest(f"model {ref!r} is not of the form name, name@alias or name@version")
    which = match["which"]
    if which is not None and not is_version(which):
        check_name("alias", which)
    return check_name("model", match["name"]), which
