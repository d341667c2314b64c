"""A model in memory, for an engine that reads no model from a bucket."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pandas as pd
from sklearn.linear_model import LinearRegression

from scoreline.storage.models.bundle import Bundle
from scoreline.storage.models.introspection import describe_outputs
from scoreline.storage.models.manifest import PinnedModel

LINE = LinearRegression().fit(pd.DataFrame({"x": [0.0, 1.0]}), [1.0, 3.0])


class Models:
    """A source of models that returns the same model for every name. By default, the only feature is x."""

    def __init__(self, model: Any = LINE, features: Sequence[str] = ("x",)) -> None:
        self.model = model
        self.features = tuple(features)
        self.outputs = {"model": describe_outputs(LINE, None)}

    def manifest(self, pinned: PinnedModel) -> Any:
        return SimpleNamespace(
            ref="m@1",
            feature_names=self.features,
            n_features=len(self.features),
            outputs=self.outputs,
            attachments={},
        )

    def get(self, pinned: PinnedModel) -> Bundle:
        return Bundle(models={"model": self.model}, manifest=self.manifest(pinned), manifest_sha256="")
