"""Another compiler of trees that fails, takes too long, or computes something else is left out of the comparison."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from benchmarks import bench_compiled

Answer = tuple[str, str, int] | subprocess.TimeoutExpired


def answer(seconds: float, difference: float, equal: bool = False) -> Answer:
    found = {"seconds": seconds, "equal": equal, "difference": difference, "type": "float64"}
    return f"noise\n{json.dumps(found)}\n", "", 0


def compared(monkeypatch: pytest.MonkeyPatch, **answers: Answer) -> list[tuple[str, list[float]]]:
    """Compare compiled trees, which take 0.1 s, with compilers that give these answers. Return what is recorded."""
    recorded: list[tuple[str, list[float]]] = []

    def run(command: list[str], environ: Mapping[str, str], limit_s: float) -> tuple[str, str, int]:
        found = answers.get(command[3], ("", "Traceback\nValueError: no such model\n", 1))
        if isinstance(found, subprocess.TimeoutExpired):
            raise found
        return found

    def record(name: str, what: str, values: list[float], limit: float) -> None:
        recorded.append((what, values))

    monkeypatch.setattr(bench_compiled, "run", run)
    monkeypatch.setattr(bench_compiled, "record_figure", record)
    bench_compiled.compare_with_peers("forest", Path("forest.joblib"), 0.1, 1)
    return recorded


def test_the_fastest_compiler_that_computes_the_same_is_recorded(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = compared(monkeypatch, onnx=answer(0.2, 1e-7), treelite=answer(0.4, 0.0, equal=True))
    assert found == [("CPU with compiled trees / of the fastest other compiler (onnx): forest", [0.5])]
    said = capsys.readouterr().out
    assert "| forest: treelite | 400.0 ms (compiled trees 100.0), float64, equal |" in said
    assert "| forest: intelex | left out: ValueError: no such model |" in said


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        (answer(0.2, 0.84), "largest difference 8.4e-01, therefore left out"),
        (answer(0.2, float("nan")), "largest difference nan, therefore left out"),
        (subprocess.TimeoutExpired("gcc", 1_800), "left out: it took more than 1800 s"),
    ],
)
def test_a_compiler_without_the_same_results_is_left_out_and_the_others_are_not(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], wrong: Any, reason: str
) -> None:
    ((what, values),) = compared(monkeypatch, onnx=wrong, treelite=answer(0.4, 0.0, equal=True))
    assert ("(treelite)" in what, values) == (True, [0.25])
    assert reason in capsys.readouterr().out
