"""Gives the commands of ``scoreline models`` access to the models in the bucket."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from scoreline.storage.errors import InvalidSettings, missing_package
from scoreline.storage.models.attachments import BASELINE
from scoreline.storage.models.manifest import Manifest
from scoreline.storage.models.registry import ModelRegistry
from scoreline.tasks.dispatch.connections import Connections
from scoreline.tasks.quality.profiles.baseline import Baseline

if TYPE_CHECKING:
    from scoreline.tasks.publishing import ModelStorageManager


def model_manager() -> ModelStorageManager:
    """Return the manager, which can load models.

    Raises `InvalidSettings` if packages that the manager needs are missing.
    """
    try:
        from scoreline.tasks.publishing import ModelStorageManager

        return ModelStorageManager.from_env()
    except ModuleNotFoundError as error:
        raise InvalidSettings(
            f"this command needs {missing_package(error)}: pip install -r ml-requirements.txt"
        ) from error


def model_registry() -> ModelRegistry:
    """Return the registry, which reads and writes manifests and aliases. It needs only requirements.txt."""
    return Connections(os.environ).registry


def read_baseline(registry: ModelRegistry, manifest: Manifest) -> Baseline | None:
    """Return the baseline of a version, or None if it has none (errors as in `ModelRegistry.attachment`)."""
    data = registry.attachment(manifest, BASELINE)
    return None if data is None else Baseline.decode(data, f"the baseline of {manifest.ref}")
