"""Gives the commands of ``scoreline models`` access to the models in the bucket."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from scoreline.storage.errors import InvalidSettings, missing_package
from scoreline.storage.models.registry import ModelRegistry
from scoreline.tasks.dispatch.connections import Connections

if TYPE_CHECKING:
    from scoreline.storage.models.manager import ModelStorageManager


def model_manager() -> ModelStorageManager:
    """Return the manager, which can load models.

    Raises `InvalidSettings` if packages that the manager needs are missing.
    """
    try:
        from scoreline.storage.models.manager import ModelStorageManager

        return ModelStorageManager.from_env()
    except ModuleNotFoundError as error:
        raise InvalidSettings(
            f"this command needs {missing_package(error)}: pip install -r ml-requirements.txt"
        ) from error


def model_registry() -> ModelRegistry:
    """Return the registry, which reads and writes manifests and aliases. It needs only requirements.txt."""
    return Connections(os.environ).registry
