"""Scores a sample with a model.

The module also runs as a script in an environment with the libraries that saved the model.

The script needs only Python 3.8 or newer, joblib and pandas: ``reference_scores.py MODEL SAMPLE RESULTS``.
"""

from __future__ import annotations

import json
import sys
from typing import Any

METHODS = ("predict", "predict_proba", "predict_log_proba", "decision_function", "score_samples", "transform")


def score(model: Any, columns: Any) -> Any:
    """Return the result or the error of each method of a model.

    Parameters
    ----------
    model : estimator
        The fitted model.
    columns : dict of str to list
        The rows, by column.

    Returns
    -------
    dict of str to dict
        For each method, a dict with either ``values`` as lists or ``error``.
    """
    import pandas

    frame = pandas.DataFrame(columns)
    x: Any
    names = getattr(model, "feature_names_in_", None)
    if names is not None:
        x = frame[[str(name) for name in names]]
    elif frame.shape[1] == 1 and frame.dtypes.iloc[0].kind not in "biuf":
        x = frame.iloc[:, 0].to_numpy(dtype=object)
    else:
        x = frame.to_numpy()
    found = {}
    for method in METHODS:
        if callable(getattr(model, method, None)):
            try:
                found[method] = {"values": _to_lists(getattr(model, method)(x))}
            except Exception as error:  # noqa: BLE001  # the error may depend on the version
                found[method] = {"error": "%s: %s" % (type(error).__name__, str(error)[:300])}  # noqa: UP031
    return found


def _to_lists(result: Any) -> Any:
    import numpy

    if isinstance(result, list):
        return [_to_lists(item) for item in result]
    result = result.toarray() if hasattr(result, "toarray") else numpy.asarray(result)
    return result.tolist() if result.dtype.kind in "biuf" else result.astype(str).tolist()


def main() -> None:
    """Score the sample that is named on the command line."""
    import joblib

    model, sample, results = sys.argv[1:]
    with open(sample) as file:
        columns = json.load(file)
    found = score(joblib.load(model), columns)
    with open(results, "w") as file:
        json.dump(found, file)


if __name__ == "__main__":
    main()
