"""Reads the models, their versions and their aliases."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from scoreline.storage import keys
from scoreline.storage.errors import ModelError, ModelNotFound
from scoreline.storage.models.aliases import Alias
from scoreline.storage.models.catalog import ListedModel
from scoreline.storage.models.manifest import Manifest
from scoreline.storage.models.registry import ModelRegistry
from scoreline.storage.objects.base import ObjectStore

SHOWN = 20
"""Number of versions whose manifests are read for a page."""
_THREADS = 8
_HEADLINES = {"roc_auc": "AUC", "accuracy": "accuracy", "f1": "F1", "r2": "R²", "rmse": "RMSE", "mae": "MAE"}

type ReadManifest = Callable[[str, str], Manifest]
"""``read(name, version)`` returns a manifest. Manifests do not change, so each is read once."""


@dataclass(frozen=True, kw_only=True)
class VersionFacts:
    """A version of a model."""

    version: str
    manifest: Manifest | None
    """None if the manifest cannot be read."""
    is_signed: bool
    aliases: tuple[str, ...]

    @property
    def metrics(self) -> tuple[tuple[str, str], ...]:
        """The names and values of the metrics of its models."""
        return metrics_of(self.manifest)


@dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """A model with its newest versions."""

    name: str
    versions: tuple[VersionFacts, ...]
    """The versions whose manifests were read, the newest first."""
    older: int
    """Number of versions that are not listed."""
    aliases: tuple[Alias, ...]


def metrics_of(manifest: Manifest | None) -> tuple[tuple[str, str], ...]:
    """Return the names and values of the metrics in a manifest."""
    found = []
    for model, metrics in (manifest.metrics if manifest is not None else {}).items():
        prefix = "" if manifest is not None and len(manifest.metrics) == 1 else f"{model} "
        for name, label in _HEADLINES.items():
            if isinstance(value := metrics.get(name), int | float):
                found.append((f"{prefix}{label}", f"{value:.4g}"))
    return tuple(found)


def read_model(store: ObjectStore, registry: ModelRegistry, read: ReadManifest, name: str) -> ModelFacts:
    """Return a model with its newest versions.

    This takes one listing, one request for each alias, and one for each manifest that was not read before.

    Raises
    ------
    ModelNotFound
        The model has no version.
    """
    folder = keys.model_folder(name)
    versions: list[str] = []
    signed: set[str] = set()
    for info in store.list(folder):
        match info.key.removeprefix(folder).split("/"):
            case [version, "manifest.json"] if keys.is_version(version):
                versions.append(version)
            case [version, "manifest.sig"]:
                signed.add(version)
    if not versions:
        raise ModelNotFound(f"model {name!r} has no version")
    aliases = tuple(registry.aliases(name))
    shown = sorted(versions, reverse=True)[:SHOWN]

    def one(version: str) -> VersionFacts:
        try:
            manifest = read(name, version)
        except (ModelError, ModelNotFound):
            manifest = None
        named = tuple(alias.name for alias in aliases if alias.version == version)
        return VersionFacts(version=version, manifest=manifest, is_signed=version in signed, aliases=named)

    with ThreadPoolExecutor(_THREADS, thread_name_prefix="models") as pool:
        found = tuple(pool.map(one, shown))
    return ModelFacts(name=name, versions=found, older=len(versions) - len(shown), aliases=aliases)


def newest_manifests(models: Sequence[ListedModel], read: ReadManifest) -> dict[str, Manifest | None]:
    """Return the manifest of the newest version of each model, by name."""

    def one(model: ListedModel) -> tuple[str, Manifest | None]:
        try:
            return model.name, read(model.name, model.versions[-1])
        except (ModelError, ModelNotFound):
            return model.name, None

    with ThreadPoolExecutor(_THREADS, thread_name_prefix="models") as pool:
        return dict(pool.map(one, models))
