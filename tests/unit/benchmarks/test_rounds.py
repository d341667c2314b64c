"""A run of the throughput benchmark that is stopped keeps its turns, and the next run adds those that are missing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import bench_throughput, measure, report, rounds
from benchmarks.measure import verdict
from benchmarks.rounds import Rounds

NAMES, MODELS = ["limit", "scoreline", "spark"], ["logistic", "text"]
STAGES = dict.fromkeys(("decode", "align", "predict", "encode", "upload", "queue"), 0.1) | {"parts": 8}


@pytest.fixture(autouse=True)
def _machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounds, "hardware", lambda: "2 cores")
    monkeypatch.setattr(rounds, "commit", lambda: "abc")


def begun(file: Path | None, number: int = 2, models: list[str] = MODELS, names: list[str] = NAMES, **same: Any) -> Any:
    """Return the rounds of a run, and the turns that it takes."""
    found = Rounds(file, {"rows": 400_000} | same)
    found.ask(models, names, number)
    return found, found.missing(models, names, number)


def score(monkeypatch: pytest.MonkeyPatch, turns_until_it_is_stopped: int = 1_000, fails: str = "") -> list[str]:
    """Let turns of contenders take a second, and return a list that fills with them."""
    done: list[str] = []

    def turn(name: str, folder: Path, model: str) -> dict[str, Any]:
        if len(done) == turns_until_it_is_stopped:
            raise KeyboardInterrupt
        if f"{model} {name}" == fails:
            raise RuntimeError("no memory")
        done.append(f"{model} {name}")
        return {"work": 1.0, "whole": 2.0, "server_cpu": 0.0, "job_seconds": 1.0, "stages": STAGES}

    monkeypatch.setattr(bench_throughput, "turn", turn)
    return done


def test_a_round_is_of_one_model_and_begins_with_another_contender_each_time() -> None:
    _, turns = begun(None, names=["limit", "scoreline"])
    assert [f"{number} {model} {name}" for number, model, name in turns] == [
        *("0 logistic limit", "0 logistic scoreline", "0 text limit", "0 text scoreline"),
        *("1 logistic scoreline", "1 logistic limit", "1 text scoreline", "1 text limit"),
    ]


def test_a_run_that_is_stopped_is_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "throughput.json"
    kept, turns = begun(file)
    first = score(monkeypatch, turns_until_it_is_stopped=8)
    with pytest.raises(KeyboardInterrupt):
        bench_throughput.measured(kept, turns, tmp_path, lambda _: kept.write())
    text = report.throughput(json.loads(file.read_text()))
    assert "**logistic** is not complete. Rounds so far: limit 1 of 2, scoreline 2 of 2, spark 2 of 2." in text
    assert "**text** is not complete. Rounds so far: limit 1 of 2, scoreline 1 of 2, spark 1 of 2." in text

    kept, turns = begun(file)
    later = score(monkeypatch)
    assert bench_throughput.measured(kept, turns, tmp_path, lambda _: kept.write())
    assert sorted(first + later) == sorted(2 * [f"{model} {name}" for model in MODELS for name in NAMES])
    text = report.throughput(json.loads(file.read_text()))
    assert "not complete" not in text
    assert text.count("Continued ") == 1
    assert [*begun(file)[1]] == []


def test_a_later_run_adds_rounds_models_and_contenders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "throughput.json"
    score(monkeypatch)
    kept, turns = begun(file, 1, ["text"], ["spark"])
    bench_throughput.measured(kept, turns, tmp_path, lambda _: kept.write())
    kept, turns = begun(file, 2, MODELS, ["limit", "spark"])
    assert len([turn for turn in turns if turn[1:] == ("text", "spark")]) == 1
    turns = kept.missing(MODELS, ["limit", "spark"], 2)
    bench_throughput.measured(kept, turns, tmp_path, lambda _: kept.write())
    text = report.throughput(json.loads(file.read_text()))
    # The table has the order of the lists of models and contenders
    places = [text.index(part) for part in ("### logistic", "| limit |", "| spark |", "### text")]
    assert places == sorted(places)


@pytest.mark.parametrize("changed", ["rows", "commit", "hardware"])
def test_a_run_of_other_rows_or_another_commit_or_machine_starts_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: str
) -> None:
    file = tmp_path / "throughput.json"
    score(monkeypatch)
    kept, turns = begun(file)
    bench_throughput.measured(kept, turns, tmp_path, lambda _: kept.write())
    if changed != "rows":
        monkeypatch.setattr(rounds, changed, lambda: "another")
    again, turns = begun(file, rows=800_000 if changed == "rows" else 400_000)
    assert again.took == {}
    assert len([*turns]) == 12
    assert json.loads(file.read_text())["seconds"] == kept.took  # until the first turn of the new run has ended


def test_figures_of_an_earlier_release_are_not_continued(tmp_path: Path) -> None:
    file = tmp_path / "throughput.json"
    file.write_text(json.dumps({"rows": 400_000, "machine": "2 cores; commit abc", "seconds": {"text": {}}}))
    assert begun(file)[0].took == {}


def test_a_contender_that_fails_is_left_out_and_the_next_run_tries_it_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "throughput.json"
    done = score(monkeypatch, fails="text spark")
    kept, turns = begun(file)
    assert not bench_throughput.measured(kept, turns, tmp_path, lambda _: kept.write())
    assert len(done) == 9
    assert all("spark" not in by_name for by_name in kept.took.values())
    text = report.throughput(json.loads(file.read_text()))
    assert "- **spark** was left out: failed with no memory" in text
    assert "not complete" not in text
    assert [name for _, _, name in begun(file)[1]] == ["spark"] * 4


def test_a_file_is_replaced_as_a_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "folder" / "figures.json"
    measure.write_whole(file, "old")

    def killed(self: Path, target: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        measure.write_whole(file, "new")
    assert file.read_text() == "old"


@pytest.mark.parametrize(
    ("got", "limit", "said"),
    [
        (1.5, 1.5, "reached"),
        (1.504, 1.5, "missed by 0.3%"),
        (1.5001, 1.5, "missed by less than 0.1%"),
        (1.65, 1.5, "missed by 10%"),
        (199.0, -200, "missed by 0.5%"),
        (201.0, -200, "reached"),
    ],
)
def test_a_limit_that_is_just_missed_is_not_missed_by_nothing(got: float, limit: float, said: str) -> None:
    assert verdict(got, limit) == said
