"""Find artifacts with a wrong role: the role is misspelt, or the object fits another role."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from typing import Any, get_args

from scoreline.storage.errors import InvalidRequest
from scoreline.storage.models.manifest import Role

ROLES: tuple[Role, ...] = get_args(Role)
_SIMILAR = 0.84
"""Minimum similarity to a role, from 0 to 1, of a name that counts as its misspelling. Names with one or two wrong
letters reach this similarity."""
_ABBREVIATED: Mapping[str, Role] = {"preproc": "preprocessor", "labelenc": "label_encoder"}


def similar_role(name: str) -> Role | None:
    """Return the role that `name` misspells or abbreviates, or None if `name` resembles no role.

    Models may have almost any name, so a name that resembles the role ``model`` is not reported.

    >>> similar_role("preprocesor"), similar_role("label-encoder"), similar_role("forest")
    ('preprocessor', 'label_encoder', None)
    """
    letters = re.sub(r"[^a-z]", "", name.lower())
    for start, role in _ABBREVIATED.items():
        if letters.startswith(start):
            return role
    words: dict[str, Role] = {role.replace("_", ""): role for role in ROLES if role != "model"}
    found = difflib.get_close_matches(letters, words, n=1, cutoff=_SIMILAR)
    return words[found[0]] if found else None


def check_names(artifacts: Iterable[tuple[str, str]]) -> None:
    """Check the role and the name of each artifact. Raise `InvalidRequest` for a misspelt role.

    The names of models are checked, too. Otherwise, a misspelt role would become the name of a model.
    """
    for role, name in artifacts:
        if role not in ROLES:
            raise InvalidRequest(f"{role!r} is no role: use {_listed()}{_meant(role)}")
        if role == "model" and (meant := similar_role(name)):
            raise InvalidRequest(
                f"a model cannot be named {name!r}, which reads as the role {meant!r}: {_remedy(meant)}, or choose "
                "another name"
            )


def check_objects(steps: Mapping[Role, Mapping[str, Any]]) -> None:
    """Raise `InvalidRequest` for the first loaded artifact of a bundle that does not fit its role.

    A transformer may be published as a model, but not together with models that predict. Such a transformer was
    probably meant as a preprocessor. If it were a model, the other models would score raw values.
    """
    for name, step in steps["preprocessor"].items():
        what = f"preprocessor {name!r} is a {type(step).__name__}"
        if _is_label_encoder(step):
            raise InvalidRequest(f"{what}, which encodes labels, not rows: {_remedy('label_encoder')}")
        if not _has(step, "transform"):
            instead = f": {_remedy('model')}" if _has(step, "predict") else ""
            raise InvalidRequest(f"{what}, which has no transform(){instead}")
    for encoder in steps["label_encoder"].values():
        what = f"the label encoder is a {type(encoder).__name__}"
        if not _has(encoder, "inverse_transform"):
            meant: Role | None = next((r for m, r in _BY_METHOD.items() if _has(encoder, m)), None)
            raise InvalidRequest(f"{what}, which has no inverse_transform()" + (f": {_remedy(meant)}" if meant else ""))
        if _has(encoder, "transform") and hasattr(encoder, "n_features_in_"):
            raise InvalidRequest(f"{what}, which transforms rows, not labels: {_remedy('preprocessor')}")
    models = steps["model"]
    predicting = [name for name, model in models.items() if _has(model, "predict")]
    for name, model in models.items() if predicting else ():
        if _has(model, "predict") or not _has(model, "transform"):
            continue
        role: Role = "label_encoder" if _is_label_encoder(model) else "preprocessor"
        raise InvalidRequest(
            f"model {name!r} is a {type(model).__name__}, which transforms and does not predict, beside the model "
            f"{predicting[0]!r}, which would score without it: {_remedy(role)}, or publish it separately"
        )


_BY_METHOD: Mapping[str, Role] = {"predict": "model", "transform": "preprocessor"}
_REMEDIES: Mapping[Role, str] = {
    "model": "give it the role model (--model PATH, --from-bucket model=KEY)",
    "preprocessor": "give it the role preprocessor (--preprocessor PATH, --from-bucket preprocessor=KEY)",
    "label_encoder": "give it the role label_encoder (--label-encoder PATH, --from-bucket label_encoder=KEY)",
}


def _remedy(role: Role) -> str:
    return _REMEDIES[role]


def _meant(text: str) -> str:
    meant = similar_role(text)
    return f" (did you mean {meant!r}?)" if meant else ""


def _listed() -> str:
    return f"{', '.join(ROLES[:-1])} or {ROLES[-1]}"


def _has(step: Any, method: str) -> bool:
    return callable(getattr(step, method, None))


def _is_label_encoder(step: Any) -> bool:
    """Return whether a fitted object encodes labels, as LabelEncoder and LabelBinarizer do."""
    encodes = _has(step, "inverse_transform") and not _has(step, "predict")
    return encodes and hasattr(step, "classes_") and not hasattr(step, "n_features_in_")
