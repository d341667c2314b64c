"""A model that was saved by other library versions is refused with an error that names the versions and a remedy."""

from __future__ import annotations

import io
import pickle
import sys
import zlib
from types import ModuleType
from typing import Any

import joblib
import numpy as np
import pytest
import sklearn
from sklearn.linear_model import LinearRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from scoreline.storage.errors import ModelUnloadable
from scoreline.storage.models.bundle import dump, unpickle
from scoreline.storage.models.skew_advice import advise, supported_pythons
from scoreline.storage.models.version_skew import check_version

INSTALLED = sklearn.__version__


def text(words: str) -> bytes:
    return b"X" + len(words).to_bytes(4, "little") + words.encode()


def short_text(words: str) -> bytes:
    return b"\x8c" + bytes([len(words)]) + words.encode()


def estimator(module: str, name: str, version: str = "1.5.2", more: bytes = b"", write: Any = text) -> bytes:
    """Return a pickle like scikit-learn's: an estimator with an object as attribute, and the version at the end."""
    gone = f"c{module}\n{name}\n".encode() + b")\x81"
    state = b"}(" + write("_held") + gone + more + write("_sklearn_version") + write(version) + b"u"
    return b"\x80\x04csklearn.linear_model._base\nLinearRegression\n)\x81" + state + b"b."


def refusal(data: bytes, **options: Any) -> str:
    with pytest.raises(ModelUnloadable) as refused:
        unpickle(io.BytesIO(data), "model 'm' of old", **options)
    return str(refused.value)


@pytest.mark.parametrize("allow_version_skew", [False, True])
@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("_loss", "CyHalfSquaredError"),
        ("sklearn.compose._column_transformer", "_RemainderColsList"),
        ("sklearn.linear_model.base", "LinearRegression"),
        ("sklearn.externals.joblib", "x"),
    ],
)
def test_a_module_that_a_newer_scikit_learn_lacks_is_not_reported_as_a_missing_package(
    module: str, name: str, allow_version_skew: bool
) -> None:
    said = refusal(estimator(module, name), allow_version_skew=allow_version_skew)
    assert (
        f"model 'm' of old was saved by scikit-learn 1.5.2, but {INSTALLED} is installed, which cannot load it" in said
    )
    assert said.endswith(f": fit the model again with scikit-learn {INSTALLED}, or try `scoreline models convert`")


class Refusing:
    """An object that cannot be unpickled, like a tree whose nodes had other fields."""

    def __reduce__(self) -> Any:
        return _refuse, ()


def _refuse() -> None:
    raise ValueError("node array from the pickle has an incompatible dtype")


@pytest.mark.parametrize("compress", [0, 3, ("xz", 1)])
@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize("rows", [1, 400_000])
def test_the_version_is_found_behind_what_cannot_be_loaded(
    monkeypatch: pytest.MonkeyPatch, compress: Any, protocol: int, rows: int
) -> None:
    monkeypatch.setattr("sklearn.base.__version__", "1.2.2")
    model = make_pipeline(StandardScaler(), LinearRegression().fit([[0.0], [1.0]], [0.0, 1.0]))
    model.steps[0][1].tree_ = Refusing()
    model.steps[0][1].values_ = np.zeros(rows)
    file = io.BytesIO()
    joblib.dump(model, file, compress=compress, protocol=protocol)
    for data in (file.getvalue(), pickle.dumps(model, protocol)):
        said = refusal(data)
        assert "was saved by scikit-learn 1.2.2" in said
        assert "(ValueError: node array from the pickle has an incompatible dtype)" in said


def test_a_damaged_stream_has_no_version() -> None:
    for data in (zlib.compress(estimator("_loss", "x"))[:-20], estimator("_loss", "x")[:-12], b"\x80\x04"):
        assert "1.5.2" not in refusal(data)


def test_an_object_of_an_earlier_format_of_another_library_names_that_library() -> None:
    said = refusal(estimator("pandas.core.indexes.numeric", "Int64Index", INSTALLED))
    assert "saved with another version of pandas than 3." in said
    assert "which has no 'pandas.core.indexes.numeric': install that version where workers run, or save the" in said
    said = refusal(estimator("numpy.random", "Generator_of_old", INSTALLED))
    assert "another version of numpy than" in said
    assert "which has no 'numpy.random.Generator_of_old'" in said


def test_a_module_that_is_not_installed_is_named() -> None:
    assert refusal(estimator("not_here.at_all", "Model", INSTALLED)) == (
        "model 'm' of old needs the module 'not_here': install it where workers run"
    )


def test_an_own_module_that_has_changed_is_not_taken_for_a_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "our_models", ModuleType("our_models"))
    said = refusal(estimator("our_models", "Churn", INSTALLED))
    assert said.startswith("model 'm' of old cannot be loaded: the module 'our_models' here has no 'Churn': ")


class Coded:
    """An object that is unpickled like a function saved by another version of Python."""

    def __reduce__(self) -> Any:
        return _new_code, ()


def _new_code() -> None:
    raise TypeError("code() argument 13 must be str, not int")


def test_functions_of_another_python_are_recognized() -> None:
    said = refusal(dump(Coded()))
    assert "another version of Python has saved its functions, and this is 3." in said


@pytest.mark.parametrize("version", ["1.0.2", "1.5.2", "0.24.1", "1.8.0", "7.7.7"])
def test_the_advice_names_something_that_can_be_done(version: str) -> None:
    advice = advise(version, INSTALLED)
    assert advice.startswith(f"fit the model again with scikit-learn {INSTALLED}")
    assert ("scoreline models convert" in advice) == (supported_pythons(version) is not None)
    assert "install" not in advice  # that version cannot be installed together with Scoreline


def test_a_patch_release_can_be_installed() -> None:
    other = f"{INSTALLED.rpartition('.')[0]}.99"
    with pytest.raises(
        ModelUnloadable, match=rf"install scikit-learn=={other} where workers run, or fit .* or set ML_A"
    ):
        check_version("m@v", {"scikit-learn": other}, allow_skew=False)
