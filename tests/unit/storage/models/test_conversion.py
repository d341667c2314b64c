"""A model of another scikit-learn version is converted only if both versions give a sample the same scores."""

from __future__ import annotations

import io
import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import sklearn
from click.testing import CliRunner
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline

from scoreline.storage.errors import InvalidRequest, ModelUnloadable, PackageMissing, ScorelineError
from scoreline.storage.models import conversion, reference_scores
from scoreline.storage.models.bundle import dump, unpickle
from scoreline.worker.cli.convert import convert as command

FRAME = pd.DataFrame({"a": [0.0, 1.0, 2.0, 5.0], "b": [1.0, 0.0, 1.0, 3.0]})
SAMPLE: dict[str, list[Any]] = {"b": [1.0, 2.0, None], "a": [0.5, None, 2.5]}


@pytest.fixture
def old(monkeypatch: pytest.MonkeyPatch) -> bytes:
    """Return a pipeline as if saved by scikit-learn 1.5.2, whose LinearRegression lacks a parameter of today."""
    model = make_pipeline(SimpleImputer(), LinearRegression()).fit(FRAME, [1.0, 2.0, 3.0, 4.0])
    del model.steps[1][1].tol
    with monkeypatch.context() as patched:
        patched.setattr("sklearn.base.__version__", "1.5.2")
        return dump(model)


@pytest.fixture
def uv(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Put a fake `uv` on the path. The fake runs the script with this Python and records its arguments."""
    folder = tmp_path / "bin"
    folder.mkdir()
    program = folder / "uv"
    program.write_text(f'#!/bin/sh\necho "$@" > {folder}/args\nwhile [ "$1" != python ]; do shift; done; shift\n'
                       f'exec {sys.executable} "$@"\n')  # fmt: skip
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    return folder


def test_a_converted_model_is_one_of_the_installed_version_and_scores_the_same(
    old: bytes, uv: Path, tmp_path: Path
) -> None:
    (tmp_path / "old.joblib").write_bytes(old)
    pd.DataFrame(SAMPLE).to_parquet(tmp_path / "rows.parquet")
    arguments = [str(tmp_path / "old.joblib"), "--sample", str(tmp_path / "rows.parquet"), "--output"]
    done = CliRunner().invoke(command, [*arguments, str(tmp_path / "new.joblib"), "--with", "lightgbm==4.3.0"])
    assert done.exit_code == 0, done.exception
    assert " ".join(done.output.split()).endswith("new.joblib: predict as scikit-learn 1.5.2 on all of 3 rows")
    # The environment of the old scikit-learn contains packages of compatible versions
    asked = (uv / "args").read_text()
    assert "--with scikit-learn==1.5.2 --with numpy<2.3 --with pandas<3 --with lightgbm==4.3.0" in asked
    # The new file is loaded without `allow_version_skew`, and has all parameters
    model, saved_by = unpickle(io.BytesIO((tmp_path / "new.joblib").read_bytes()), "new")
    assert saved_by is None
    assert model.get_params()["linearregression__tol"] == LinearRegression().tol
    before, _ = unpickle(io.BytesIO(old), "old", allow_version_skew=True)
    assert np.array_equal(model.predict(FRAME), before.predict(FRAME))
    # The command does not overwrite an existing file
    again = CliRunner().invoke(command, [*arguments, str(tmp_path / "new.joblib")])
    assert isinstance(again.exception, InvalidRequest)


@pytest.mark.parametrize(
    ("results", "said"),
    [
        (
            {"predict": {"values": [1.0, 2.0, 3.0]}},
            "because predict gives other results now for 3 of 3 values: fit",
        ),
        ({"predict": {"values": [[1.0], [2.0], [3.0]]}}, r"because predict gives results of shape \(3,\) rather than"),
        ({"transform": {"values": [1.0]}}, "because transform fails now: it has no such method any more"),
        (
            {"predict": {"error": "ValueError: columns are missing"}},
            "1.5.2 itself cannot score the sample with m",
        ),
    ],
)
def test_a_model_that_would_give_other_scores_is_not_converted(
    old: bytes, monkeypatch: pytest.MonkeyPatch, results: Any, said: str
) -> None:
    monkeypatch.setattr(conversion, "score_with_old_version", lambda *_: results)
    with pytest.raises(ScorelineError, match=said):
        conversion.convert(old, "m", SAMPLE)


def test_a_model_without_a_version_or_of_the_installed_one_needs_no_conversion() -> None:
    with pytest.raises(InvalidRequest, match="does not say which version of scikit-learn saved it"):
        conversion.convert(pickle.dumps({"a": 1}), "m", SAMPLE)
    with pytest.raises(InvalidRequest, match=f"saved by scikit-learn {sklearn.__version__}, which is installed"):
        conversion.convert(dump(LinearRegression()), "m", SAMPLE)


def test_an_environment_that_cannot_be_made_is_explained(old: bytes, uv: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (uv / "uv").write_text("#!/bin/sh\necho 'no solution found' >&2\nexit 1\n")
    with pytest.raises(ModelUnloadable, match=r"in an environment of its own: no solution found\. Name other packages"):
        conversion.convert(old, "m", SAMPLE)
    monkeypatch.setattr("shutil.which", lambda *_, **__: None)
    with pytest.raises(PackageMissing, match="pip install uv"):
        conversion.convert(old, "m", SAMPLE)


def test_names_that_the_installed_version_lacks_are_provided_or_reported(
    old: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    with conversion._old_names():
        assert type(pickle.loads(b"c_loss\nCyHalfSquaredError\n)R.")).__name__ == "CyHalfSquaredError"
        found = pickle.loads(b"csklearn.compose._column_transformer\n_RemainderColsList\n(]\x8c\x01aatR.")
        assert list(found) == ["a"]
    assert "_loss" not in sys.modules
    monkeypatch.setattr(conversion, "score_with_old_version", lambda *_: {"predict": {"values": [1.0]}})
    gone = b"\x80\x04csklearn.gone\nModel\n)\x81}(X\x10\x00\x00\x00_sklearn_versionX\x05\x00\x00\x001.5.2ub."
    with pytest.raises(ModelUnloadable, match=r"lacks what it is made of \(No module named 'sklearn.gone'\): fit the"):
        conversion.convert(gone, "m", SAMPLE)


def test_texts_and_several_targets_are_compared() -> None:
    texts = LogisticRegression().fit(FRAME, ["x", "x", "y", "y"])
    found = reference_scores.score(texts, {"a": [0.0, 5.0], "b": [1.0, 3.0]})
    assert found["predict"] == {"values": ["x", "y"]}
    assert conversion._compare(found["predict"], {"values": ["x", "x"]}) == "gives other results now for 1 of 2 values"
    assert conversion._compare({"values": [[[1.0]], [[1.0, 2.0]]]}, {"values": [[[1.0]], [[1.0, 2.0]]]}) == ""
    assert conversion._compare({"values": [1.0, float("nan")]}, {"values": [1.0 + 1e-13, float("nan")]}) == ""
