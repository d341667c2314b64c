"""Compare compiled trees and scalers with scikit-learn, and with other compilers of trees.

Claims: scoring with compiled trees takes at most 0.22 of the CPU time of scikit-learn for forests to depth 10 and
boosting, 0.30 for unbounded forests, and 0.35 for each other ensemble. Compiled scalers take at most 0.35, too. No bit
of a result differs. No other compiler is faster than compiled trees. One thread scores 65,536 rows of 20 columns.

The figures are those of a warm process, as a worker's are after its first batch. Before the runs that count, both sides
score the rows once, and their results are compared and dropped. The results of each run are dropped as well: to hold
them would make the next run ask the system for new memory, and for a fast scaler this takes longer than scaling.

The other compilers run in their own environment, `.cache/bench/compilers`, which this script makes if it is asked for
peers. For each, it says whether it could be installed, and whether its results equal those of scikit-learn. A compiler
whose results differ by more than rounding is not compared.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import joblib
import numpy as np
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import (
    AdaBoostClassifier,
    AdaBoostRegressor,
    BaggingClassifier,
    ExtraTreesClassifier,
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    IsolationForest,
    RandomForestClassifier,
    StackingClassifier,
    VotingClassifier,
)
from sklearn.model_selection import GridSearchCV
from sklearn.multiclass import OneVsRestClassifier
from sklearn.multioutput import MultiOutputRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor
from threadpoolctl import threadpool_limits

from benchmarks import work
from benchmarks.measure import positive, record_figure
from benchmarks.turn import THREADS, run
from scoreline.storage.models.compiled.extension import compile_estimators
from scoreline.worker.dev.stack import ROOT

ROWS, COLUMNS, RUNS = 65_536, 20, 5
COMPILERS = work.DATA / "compilers"
PACKAGES = ("onnxruntime skl2onnx", "treelite tl2cgen", "scikit-learn-intelex", "lleaves")
"""What pip is asked for, each on its own, because some may not have a wheel for this machine."""
PEER_S = 1_800.0
"""Time limit of another compiler. For an unbounded forest of 100 trees, gcc takes 12 minutes of CPU."""
ROUNDING = 1e-3
"""Allowed difference of other compilers, some of which compute in float32. A larger difference is no rounding: ONNX
sends missing values of a forest the wrong way."""
BOOSTING, UNBOUNDED, OTHERS = 0.22, 0.30, 0.35
SEED = {"random_state": 0}


def data() -> tuple[Any, Any, Any]:
    """Return rows, a number to predict for each, and whether it is positive."""
    random = np.random.default_rng(0)
    x = random.normal(size=(20_000, COLUMNS))
    signal = x[:, 0] + x[:, 1] * x[:, 2] + random.normal(size=len(x))
    return x, signal, (signal > 0).astype(int)


def with_gaps(x: Any) -> Any:
    """Return the rows with a tenth of their values missing."""
    return np.where(np.random.default_rng(1).random(x.shape) < 0.1, np.nan, x)


def models() -> dict[str, tuple[Callable[[], Any], float]]:
    """Return a maker of each fitted model, and its limit. Rows for names with "missing" have missing values."""
    x, signal, y = data()
    gaps = with_gaps(x)
    three = np.digitize(signal, [-1, 1])

    def forest(depth: int | None = 10) -> Any:
        return RandomForestClassifier(100, max_depth=depth, **SEED)

    boosting = {"max_iter": 79, "early_stopping": False, **SEED}
    return {
        "forest, depth 10": (lambda: forest().fit(x, y), BOOSTING),
        "forest, unbounded": (lambda: forest(None).fit(x, y), UNBOUNDED),
        "HistGradientBoosting": (lambda: HistGradientBoostingClassifier(**boosting).fit(x, y), BOOSTING),
        "GradientBoosting": (lambda: GradientBoostingClassifier(**SEED).fit(x, y), BOOSTING),
        "GradientBoosting, three classes": (lambda: GradientBoostingClassifier(**SEED).fit(x, three), BOOSTING),
        "forest, depth 10, missing values": (lambda: forest().fit(gaps, y), BOOSTING),
        "forest, unbounded, missing values": (lambda: forest(None).fit(gaps, y), UNBOUNDED),
        "HistGradientBoosting, missing values": (
            lambda: HistGradientBoostingClassifier(**boosting).fit(gaps, y),
            BOOSTING,
        ),
        "extra trees, depth 10": (lambda: ExtraTreesClassifier(100, max_depth=10, **SEED).fit(x, y), BOOSTING),
        "isolation forest": (lambda: IsolationForest(**SEED).fit(x), OTHERS),
        "bagging": (lambda: BaggingClassifier(DecisionTreeClassifier(max_depth=10), 50, **SEED).fit(x, y), OTHERS),
        "AdaBoost": (lambda: AdaBoostClassifier(DecisionTreeClassifier(max_depth=3), **SEED).fit(x, y), OTHERS),
        "AdaBoost of numbers": (
            lambda: AdaBoostRegressor(DecisionTreeRegressor(max_depth=6), **SEED).fit(x, signal),
            OTHERS,
        ),
        "tree, depth 10": (lambda: DecisionTreeClassifier(max_depth=10, **SEED).fit(x, y), OTHERS),
        "tree, unbounded": (lambda: DecisionTreeClassifier(**SEED).fit(x, y), OTHERS),
        "tree, depth 10, missing values": (lambda: DecisionTreeClassifier(max_depth=10, **SEED).fit(gaps, y), OTHERS),
        "tree of numbers, depth 10": (lambda: DecisionTreeRegressor(max_depth=10, **SEED).fit(x, signal), OTHERS),
        "outputs": (
            lambda: MultiOutputRegressor(GradientBoostingRegressor(**SEED)).fit(x, np.stack([signal, -signal], 1)),
            OTHERS,
        ),
        "pipeline": (lambda: make_pipeline(StandardScaler(), forest()).fit(x, y), OTHERS),
        "calibrated": (lambda: CalibratedClassifierCV(forest(), cv=2).fit(x, y), OTHERS),
        "voting": (
            lambda: VotingClassifier([("a", forest()), ("b", GradientBoostingClassifier(**SEED))], voting="soft").fit(
                x, y
            ),
            OTHERS,
        ),
        "stacking": (
            lambda: StackingClassifier([("a", forest())], GradientBoostingClassifier(**SEED), cv=2).fit(x, y),
            OTHERS,
        ),
        "one against the rest": (lambda: OneVsRestClassifier(forest()).fit(x, three), OTHERS),
        "scaler": (lambda: StandardScaler().fit(x), OTHERS),
        "scaler, missing values": (lambda: StandardScaler().fit(gaps), OTHERS),
        "clipping scaler": (lambda: MinMaxScaler(clip=True).fit(x), OTHERS),
        "search": (lambda: GridSearchCV(forest(), {"max_depth": [10]}, cv=2).fit(x, y), OTHERS),
    }


def fitted(name: str, make: Callable[[], Any], folder: Path) -> Path:
    """Return the file of a fitted model, which is made once."""
    path = folder / f"{name.replace(' ', '-').replace(',', '')}.joblib"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        joblib.dump(make(), path)
    return path


def rows_for(name: str) -> Any:
    """Return the rows to be scored."""
    x = np.random.default_rng(2).normal(size=(ROWS, COLUMNS))
    return with_gaps(x) if "missing" in name else x


def method_of(model: Any) -> Callable[[Any], Any]:
    """Return the method whose results are compared."""
    for name in ("predict_proba", "score_samples", "predict", "transform"):
        if hasattr(model, name):
            method: Callable[[Any], Any] = getattr(model, name)
            return method
    raise TypeError(type(model).__name__)


def cpu(call: Callable[[], Any]) -> float:
    """Return the CPU seconds of a call, whose result is dropped, so that the next one finds its memory."""
    begun = time.process_time()
    call()
    return time.process_time() - begun


def measure(name: str, path: Path, limit: float, runs: int) -> float:
    """Measure a model with and without compiled trees in turn. Return the CPU seconds with them."""
    model, x = joblib.load(path), rows_for(name)
    compiled = compile_estimators([("model", model)])
    if not compiled:
        raise SystemExit(f"{name}: {compiled.summary()}")

    def score() -> Any:
        return method_of(model)(x)

    def score_compiled() -> Any:
        with compiled.in_use():
            return method_of(model)(x)

    if score().tobytes() != score_compiled().tobytes():
        raise SystemExit(f"{name}: results differ")
    own, ours = [], []
    for _ in range(runs):
        own.append(cpu(score))
        ours.append(cpu(score_compiled))
    about = f"CPU with compiled trees / of scikit-learn: {name} ({statistics.median(own) * 1e3:.0f} ms)"
    ratios = [mine / its for mine, its in zip(ours, own, strict=True)]
    record_figure(f"compiled_{path.stem}", about, ratios, limit)
    return statistics.median(ours)


def install() -> list[str]:
    """Make the environment of the other compilers. Return what could not be installed."""
    python = COMPILERS / "bin" / "python"
    if not (COMPILERS / ".installed").exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(COMPILERS)], check=True)
        names = ("numpy", "scipy", "scikit-learn", "joblib", "threadpoolctl")
        pins = [f"{name}=={__import__('importlib.metadata').metadata.version(name)}" for name in names]
        subprocess.run([str(python), "-m", "pip", "install", "-q", *pins], check=True)
        failed = [
            packages
            for packages in PACKAGES
            if subprocess.run([str(python), "-m", "pip", "install", "-q", *packages.split()], check=False).returncode
        ]
        (COMPILERS / ".installed").write_text(json.dumps(failed))
    found: list[str] = json.loads((COMPILERS / ".installed").read_text())
    return found


def peer(name: str, model: str, path: Path, runs: int) -> dict[str, Any]:
    """Run another compiler on a model, and return its answer. Raises `RuntimeError` if it has none."""
    python, missing = str(COMPILERS / "bin" / "python"), ["missing"] if "missing" in model else []
    command = [python, "-m", "benchmarks.contenders.compilers", name, str(path), str(runs), *missing]
    try:
        out, said, code = run(command, os.environ | dict.fromkeys(THREADS, "1") | {"PYTHONPATH": str(ROOT)}, PEER_S)
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"it took more than {PEER_S:g} s") from None
    if code:
        raise RuntimeError((said.strip().splitlines() or ["?"])[-1][:160])
    answer: dict[str, Any] = json.loads(out.splitlines()[-1])
    return answer


def compare_with_peers(model: str, path: Path, ours: float, runs: int) -> None:
    """Run each other compiler on a model, and record the ratio to the fastest that computes the same."""
    seconds = {}
    for name in ("onnx", "treelite", "intelex", "lleaves"):
        try:
            answer = peer(name, model, path, runs)
        except RuntimeError as error:
            print(f"| {model}: {name} | left out: {error} | | |", flush=True)
            continue
        said = "equal" if answer["equal"] else f"not equal: largest difference {answer['difference']:.1e}"
        if answer["difference"] <= ROUNDING:
            seconds[name] = answer["seconds"]
        else:
            said += ", therefore left out"
        took = f"{answer['seconds'] * 1e3:.1f} ms (compiled trees {ours * 1e3:.1f})"
        print(f"| {model}: {name} | {took}, {answer['type']}, {said} | | |", flush=True)
    if seconds:
        fastest = min(seconds, key=lambda name: seconds[name])
        about = f"CPU with compiled trees / of the fastest other compiler ({fastest}): {model}"
        record_figure(f"compiled_peers_{path.stem}", about, [ours / seconds[fastest]], 1.0)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=positive, default=RUNS, help=f"runs of each model (default: {RUNS})")
    parser.add_argument("--only", default="", help="only models with this in their names")
    parser.add_argument("--peers", action="store_true", help="also compare with other compilers")
    asked = parser.parse_args()
    warnings.simplefilter("ignore")
    for missing in install() if asked.peers else ():
        print(f"| {missing} could not be installed | | | |")
    with threadpool_limits(1):
        for name, (make, limit) in models().items():
            if asked.only in name:
                path = fitted(name, make, work.DATA / "compiled")
                ours = measure(name, path, limit, asked.runs)
                if asked.peers and limit != OTHERS:
                    compare_with_peers(name, path, ours, asked.runs)


if __name__ == "__main__":
    main()
