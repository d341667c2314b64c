"""Find artifacts with a wrong role: the role is misspelt, or the object fits another role."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from typing import Any, NoReturn, get_args

from scoreline.storage.errors import InvalidRequest
from scoreline.storage.models.manifest import Role

ROLES: tuple[Role, ...] = get_args(Role)
_SIMILAR = 0.84
"""Minimum similarity to a role, from 0 to 1, of a name that counts as its misspelling. Names with one or two wrong
letters reach this similarity."""
_ABBREVIATED: Mapping[str, Role] = {"preproc": "preprocessor", "labelenc": "label_encoder"}
_OTHER_WORDS: Mapping[Role, tuple[str, ...]] = {
    "preprocessor": ("scal", "standardscal", "minmaxscal", "transform", "columntransform", "vector", "imput"),
    "label_encoder": ("label", "encoder", "targetencoder", "classes"),
    "model": ("model", "estimator", "classifier", "regressor", "clf", "pipeline"),
}
"""Beginnings of other words for a role, which are understood where only a role can be meant."""


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


def meant_role(name: str) -> Role | None:
    """Return the role that a word means in a place where only a role can be meant.

    >>> meant_role("scaler"), meant_role("encoder"), meant_role("preprocesor"), meant_role("colour")
    ('preprocessor', 'label_encoder', 'preprocessor', None)
    """
    if (similar := similar_role(name)) is not None:
        return similar
    letters = re.sub(r"[^a-z]", "", name.lower())
    return next((role for role, words in _OTHER_WORDS.items() if letters.startswith(words)), None)


def refuse_unknown(names: Iterable[str], known: Iterable[str]) -> NoReturn:
    """Raise `InvalidRequest` for keyword arguments of `publish` that do not exist. The message names what was meant.

    Parameters
    ----------
    names : iterable of str
        The unknown arguments, at least one.
    known : iterable of str
        The arguments that exist.
    """
    name, *_ = sorted(names)
    meant: str | None = meant_role(name)
    if meant is None:
        meant = next(iter(difflib.get_close_matches(name, list(known), n=1)), None)
    hint = f"did you mean {meant}=?" if meant else f"it takes {', '.join(known)}"
    raise InvalidRequest(f"publish() takes no {name}=: {hint}")


def check_names(artifacts: Iterable[tuple[str, str]]) -> None:
    """Check the role and the name of each artifact. Raise `InvalidRequest` for a misspelt role.

    The names of models are checked, too. Otherwise, a misspelt role would become the name of a model.
    """
    for role, name in artifacts:
        if role not in ROLES:
            raise InvalidRequest(f"{role!r} is no role: use {_listed()}{_hint(role)}")
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
    for name, model in models.items():
        if _is_label_encoder(model) and len(models) == 1:
            raise InvalidRequest(
                f"model {name!r} is a {type(model).__name__}, which encodes labels and scores no rows: "
                f"{_remedy('label_encoder')}, and name the model"
            )
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


def _hint(text: str) -> str:
    meant = meant_role(text)
    return f" (did you mean {meant!r}?)" if meant else ""


def _listed() -> str:
    return f"{', '.join(ROLES[:-1])} or {ROLES[-1]}"


def _has(step: Any, method: str) -> bool:
    return callable(getattr(step, method, None))


def _is_label_encoder(step: Any) -> bool:
    """Return whether a fitted object encodes labels, as LabelEncoder and LabelBinarizer do."""
    encodes = _has(step, "inverse_transform") and not _has(step, "predict")
    return encodes and hasattr(step, "classes_") and not hasattr(step, "n_features_in_")
