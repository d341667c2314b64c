"""Bundles of models in memory, and batches for them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pyarrow as pa

from scoreline.storage.models.bundle import Bundle
from scoreline.storage.models.introspection import describe_features, describe_outputs
from scoreline.tasks.scoring.score import Scored, score_batch


def bundle(model: Any) -> Bundle:
    """Return the bundle that publishing would make of a model."""
    names, count = describe_features({"model": model})
    manifest: Any = SimpleNamespace(
        ref="m", feature_names=names, n_features=count, outputs={"model": describe_outputs(model, None)}
    )
    return Bundle(models={"model": model}, manifest=manifest, manifest_sha256="")


def batch(**columns: Any) -> pa.RecordBatch:
    """Return a batch with these columns."""
    return pa.record_batch({name: pa.array(values) for name, values in columns.items()})


def scored(model: Any, method: str | None = None, **columns: Any) -> Scored:
    """Score a batch with these columns, all of them features."""
    return score_batch(bundle(model), batch(**columns), features=list(columns), keep=[], method=method)
