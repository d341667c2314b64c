"""The label encoder of a bundle, and the classes of its models."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from scoreline.storage.errors import InvalidRequest
from scoreline.storage.models.manifest import Role


def decode_classes(model: Any, classes: Any, encoder: Any) -> Any:
    """Return the labels of a model's classes; raises `InvalidRequest` if the label encoder does not know them."""
    try:
        return encoder.inverse_transform(classes)
    except (ValueError, TypeError, IndexError) as error:
        own = getattr(encoder, "classes_", None)
        what = f"the label encoder does not fit the classes of this {type(model).__name__}, {_shown(classes)}"
        if own is not None and set(np.asarray(classes).tolist()) <= set(np.asarray(own).tolist()):
            raise InvalidRequest(
                f"{what}: the model predicts the labels themselves, so publish it without a label encoder"
            ) from error
        known = "" if own is None else f", because it encodes {_shown(own)} as numbers from 0"
        raise InvalidRequest(
            f"{what}{known}: give the encoder with which the labels were encoded for this model"
        ) from error


def check_encoder(steps: Mapping[Role, Mapping[str, Any]], classes: Mapping[str, Any]) -> list[str]:
    """Check a label encoder against the models, and return what the publisher should know about it.

    Parameters
    ----------
    classes : mapping of str to sequence or None
        The decoded classes of each model.

    Raises
    ------
    InvalidRequest
        No model is a classifier, so the encoder would have no effect.
    """
    notes = []
    for encoder in steps["label_encoder"].values():
        own = getattr(encoder, "classes_", None)
        if not any(one is not None for one in classes.values()):
            kinds = ", ".join(f"{name!r} is a {type(model).__name__}" for name, model in steps["model"].items())
            raise InvalidRequest(
                f"a label encoder decodes the predictions of classifiers, but no model is one ({kinds}): publish "
                "without it"
            )
        for name, one in classes.items():
            if one is not None and own is not None and len(one) < len(own):
                unknown = [label for label in np.asarray(own).tolist() if label not in one]
                notes.append(f"model {name!r} never predicts {_shown(unknown)}, which the label encoder knows")
    return notes


def _shown(labels: Any) -> str:
    texts = [repr(label) for label in np.asarray(labels).tolist()]
    return ", ".join(texts[:5]) + (f" and {len(texts) - 5} more" if len(texts) > 5 else "")
