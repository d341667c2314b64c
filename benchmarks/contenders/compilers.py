"""Score a model with another compiler of trees: ``python -m benchmarks.contenders.compilers PEER FILE RUNS [missing]``.

It runs in the environment of the compilers. It prints CPU seconds, and whether results equal those of scikit-learn.
Each compiler gets the form of input that it prefers, made before the clock starts.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import joblib
import numpy as np
from sklearn.ensemble._forest import ForestClassifier

ROWS, COLUMNS = 65_536, 20


def onnx(model: Any, x: Any) -> Callable[[], Any]:
    """Return a call of ONNX Runtime."""
    import onnxruntime
    from skl2onnx import to_onnx

    rows = x.astype(np.float32)
    converted = to_onnx(model, rows[:1], options={"zipmap": False})
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(converted.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return lambda: session.run([session.get_outputs()[-1].name], {session.get_inputs()[0].name: rows})[0]


def treelite(model: Any, x: Any) -> Callable[[], Any]:
    """Return a call of a library that tl2cgen has compiled, with a C file for each tree.

    The time that gcc takes grows faster than a file: two trees of 5,000 nodes take 14 s in two files, and 18 s in one.
    """
    import tl2cgen
    from treelite.sklearn import import_model

    imported = import_model(model)
    folder = tempfile.mkdtemp(prefix="treelite-")
    library = f"{folder}/model.so"
    tl2cgen.export_lib(imported, toolchain="gcc", libpath=library, params={"parallel_comp": imported.num_tree})
    predictor = tl2cgen.Predictor(library, nthread=1)
    rows = tl2cgen.DMatrix(x.astype(np.float32))
    return lambda: predictor.predict(rows)


def intelex(model: Any, x: Any) -> Callable[[], Any]:
    """Return a call of oneDAL, which scikit-learn-intelex brings, on a model that treelite has imported."""
    from daal4py.mb import convert_model
    from treelite.sklearn import import_model

    if isinstance(model, ForestClassifier):
        raise SystemExit(f"oneDAL imports boosted trees only, not a {type(model).__name__}")
    rows = x.astype(np.float32)
    converted = convert_model(import_model(model))
    return lambda: converted.predict_proba(rows)


def lleaves(model: Any, x: Any) -> Callable[[], Any]:
    """Refuse: lleaves compiles models of LightGBM only."""
    raise SystemExit(f"lleaves compiles LightGBM's models only, not a {type(model).__name__}")


def main() -> None:
    """Measure, and print one line of JSON."""
    peer, path, runs, *missing = sys.argv[1:]
    model = joblib.load(path)
    x = np.random.default_rng(2).normal(size=(ROWS, COLUMNS))
    if missing:
        x = np.where(np.random.default_rng(1).random(x.shape) < 0.1, np.nan, x)
    expected = model.predict_proba(x)
    call = {"onnx": onnx, "treelite": treelite, "intelex": intelex, "lleaves": lleaves}[peer](model, x)
    seconds = []
    for _ in range(int(runs) + 1):
        begun = time.process_time()
        found = np.asarray(call())
        seconds.append(time.process_time() - begun)
    found = found.reshape(len(found), -1)
    if found.shape[1] == 1 and expected.shape[1] == 2:
        expected = expected[:, 1:]
    difference = float(np.max(np.abs(found - expected)))
    equal = bool(found.dtype == expected.dtype and np.array_equal(found, expected))
    answer = {"seconds": statistics.median(seconds[1:]), "equal": equal, "difference": difference}
    print(json.dumps(answer | {"type": str(found.dtype)}))


if __name__ == "__main__":
    main()
