"""Labels that arrive after the scores, joined to the accepted runs of an output."""

from __future__ import annotations

import datetime as dt
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.metrics import accuracy_score, brier_score_loss, log_loss, mean_absolute_error, r2_score, roc_auc_score

from scoreline.storage.errors import DocumentCorrupt, InvalidRequest, MissingColumns, StoreUnavailable
from scoreline.storage.objects.directory import DirectoryStore
from scoreline.storage.tables.options import ReadOptions
from scoreline.tasks.client import Client
from scoreline.tasks.job.results_keep import ResultsKeep
from scoreline.tasks.quality.gate import latest
from scoreline.tasks.quality.outcomes import outcome_store, outcome_sums
from scoreline.tasks.quality.outcomes.late_labels import AddedOutcomes
from scoreline.tasks.quality.outcomes.read_outcomes import Outcomes, forget_labels
from scoreline.tasks.quality.outcomes.run_outcomes import RunOutcomes
from scoreline.tasks.retention import rounds
from scoreline.tasks.retention.policies import Policies
from scoreline.tasks.steps.planner import plan_job
from tests.support.gated import BLOCKS, OUTPUT, Gated

ROWS = 400
DOCUMENT = "out/_outcomes/outcomes.json"


@pytest.fixture
def client(jobs: Gated) -> Client:
    return Client(jobs.buckets, jobs.client.queue, jobs.client.ledger, submitter="alice")


class Churn:
    """A model of churn, and customers of whom it is known what they did."""

    def __init__(self, jobs: Gated, client: Client, folder: Path) -> None:
        self.jobs, self.client, self.folder = jobs, client, folder
        rng = np.random.default_rng(11)
        self.x = rng.normal(size=ROWS)
        self.yes = rng.random(ROWS) < 1 / (1 + np.exp(-self.x))
        self.names = np.array(["no", "yes"])[self.yes.astype(int)]
        self.publish("churn", LogisticRegression(), self.names)

    def publish(self, name: str, model: Any, target: Any) -> None:
        self.jobs.client.models.publish(name, model.fit(pd.DataFrame({"x": self.x}), target))

    def run(self, job_id: str, ids: Any = None, model: str = "churn", **options: Any) -> None:
        ids = np.arange(ROWS) if ids is None else ids
        frame = pd.DataFrame({"id": ids, "x": self.x[ids], "region": np.array(["n", "s", None])[ids % 3]})
        uri = self.jobs.client.put(f"in/{job_id}.parquet", frame)
        given: dict[str, Any] = {"part_rows": 90, "job_id": job_id, "output": OUTPUT} | options
        self.jobs.client.submit(model, uri, **given)
        plan_job(self.jobs.at.engine, job_id)
        self.jobs.at.score(job_id, *range(self.jobs.at.engine.documents(job_id).plan.parts))
        self.jobs.finalize(job_id)

    def add(self, frame: pd.DataFrame, name: str = "labels.csv", **options: Any) -> AddedOutcomes:
        path = self.folder / name
        if name.endswith(".csv"):
            frame.to_csv(path, index=False)
        else:
            frame.to_parquet(path, index=False)
        given: dict[str, Any] = {"key": "id", "target": "churned"} | options
        return self.client.add_outcomes(OUTPUT, path, **given)

    def labels(self, *ids: int, **more: Any) -> pd.DataFrame:
        chosen = list(ids) or list(range(ROWS))
        return pd.DataFrame({"id": chosen, "churned": self.names[chosen]} | more)

    def scores(self, job_id: str) -> pd.DataFrame:
        return pd.concat([batch.to_pandas() for batch in self.client.results(job_id)], ignore_index=True)

    @property
    def stored(self) -> Outcomes:
        found = self.client.outcomes(OUTPUT)
        assert found is not None
        return found

    def of(self, job_id: str) -> RunOutcomes:
        (found,) = (run for run in self.stored.runs if run.job_id == job_id)
        return found


@pytest.fixture
def churn(jobs: Gated, client: Client, tmp_path: Path) -> Churn:
    folder = tmp_path / "labels"
    folder.mkdir()
    return Churn(jobs, client, folder)


def test_the_metrics_of_a_run_are_those_of_scikit_learn(churn: Churn) -> None:
    churn.run("a", segment="region")
    ids = np.random.default_rng(1).permutation(ROWS)[:250]
    added = churn.add(churn.labels(*ids.tolist()))
    assert (added.added.rows, added.added.new, added.changed, added.unknown, added.skipped) == (250, 250, True, 0, {})
    scores = churn.scores("a")
    assert [group.segment for group in churn.of("a").groups] == [None, "n", "s"]
    for group in churn.of("a").groups:
        chosen = np.sort(ids)
        if group.segment is not None:
            chosen = chosen[(scores["region"] == group.segment).to_numpy()[chosen]]
            assert group.rows == (scores["region"] == group.segment).sum()
        yes, proba = churn.yes[chosen], scores["proba_yes"].to_numpy()[chosen]
        assert group.labels == len(chosen)
        assert group.coverage.value == len(chosen) / group.rows
        assert group.base == pytest.approx(yes.mean())
        expected = {
            "auc": roc_auc_score(yes, proba),
            "log_loss": log_loss(yes, proba),
            "brier": brier_score_loss(yes, proba),
            "accuracy": accuracy_score(yes, proba > 0.5),
        }
        assert {name: item.value for name, item in group.metrics.items()} == pytest.approx(expected, abs=1e-9)
        assert sum(item.rows for item in group.calibration) == len(chosen)
        first = yes[np.argsort(-proba)][: len(chosen) // 10]
        if len(chosen) % 10 == 0:
            assert group.deciles[0].observed == pytest.approx(first.mean())
    assert (churn.of("a").positive, churn.of("a").kind) == ("yes", "classifier")


def test_a_regressor_is_compared_by_its_errors(churn: Churn) -> None:
    churn.publish("sales", LinearRegression(), churn.x * 3 + 1)
    churn.run("a", model="sales")
    sold = churn.x * 3 + np.random.default_rng(2).normal(size=ROWS)
    churn.add(pd.DataFrame({"id": range(ROWS), "churned": sold}), "labels.parquet")
    predicted = churn.scores("a")["prediction"]
    metrics = churn.of("a").whole.metrics
    assert metrics["mae"].value == pytest.approx(mean_absolute_error(sold, predicted))
    assert metrics["rmse"].value == pytest.approx(np.sqrt(((sold - predicted) ** 2).mean()))
    assert metrics["r2"].value == pytest.approx(r2_score(sold, predicted))
    assert churn.of("a").whole.base == pytest.approx(sold.mean())
    assert churn.of("a").whole.deciles[0].predicted > churn.of("a").whole.deciles[9].predicted


def test_numbers_that_float64_cannot_hold_exactly_are_compared(churn: Churn) -> None:
    churn.publish("sales", LinearRegression(), churn.x * 3 + 1)
    churn.run("a", model="sales")
    sold = 2**60 + np.arange(ROWS)
    churn.add(pd.DataFrame({"id": range(ROWS), "churned": sold}), "labels.parquet")
    assert churn.of("a").whole.metrics["mae"].value == pytest.approx(2.0**60)


def test_every_run_that_scored_a_key_is_compared_and_versions_are_told_apart(churn: Churn) -> None:
    churn.run("a", np.arange(0, 300))
    churn.publish("churn", LogisticRegression(C=0.01), churn.names)
    churn.run("b", np.arange(200, 400))
    added = churn.add(churn.labels(*range(250)))
    assert [(run.job_id, run.whole.rows, run.whole.labels) for run in added.outcomes.runs] == [
        ("a", 300, 250),
        ("b", 200, 50),
    ]
    versions = churn.stored.versions()
    assert [(version.runs, version.whole.labels) for version in versions] == [(1, 250), (1, 50)]
    assert versions[0].model != versions[1].model


def test_the_same_labels_again_change_nothing(churn: Churn) -> None:
    churn.run("a")
    churn.add(churn.labels(*range(100)))
    before = {info.key: info.etag for info in churn.jobs.main.list("out/_outcomes/")}
    again = churn.add(churn.labels(*range(99, -1, -1)), "other.parquet")
    assert (again.changed, again.added.repeated, again.added.new) == (False, 100, 0)
    assert {info.key: info.etag for info in churn.jobs.main.list("out/_outcomes/")} == before
    assert churn.stored.labels == churn.of("a").whole.labels == 100


def test_a_label_that_is_corrected_counts_once(churn: Churn) -> None:
    churn.run("a")
    churn.add(churn.labels())
    right = churn.of("a").whole.metrics["accuracy"].value
    wrong = churn.labels(*range(ROWS))
    wrong["churned"] = np.where(churn.yes, "no", "yes")
    added = churn.add(wrong)
    assert (added.added.corrected, added.added.new) == (ROWS, 0)
    assert churn.of("a").whole.labels == ROWS
    assert churn.of("a").whole.metrics["accuracy"].value == pytest.approx(1 - right)
    churn.add(churn.labels(5))
    assert churn.of("a").whole.metrics["accuracy"].value == pytest.approx(1 - right, abs=1.1 / ROWS)
    assert churn.stored.labels == ROWS


def at(*days: int) -> list[dt.datetime]:
    return [dt.datetime(2026, 11, day, tzinfo=dt.UTC) for day in days]


def test_the_label_with_the_later_time_counts(churn: Churn) -> None:
    churn.run("a")

    def correct() -> int:
        whole = churn.of("a").whole
        return round(whole.metrics["accuracy"].value * whole.labels)

    yes = int((churn.scores("a")["prediction"][:3] == "yes").sum())
    history = pd.DataFrame({"id": [0, 1, 2, 0], "churned": ["no", "no", "no", "yes"], "at": at(5, 5, 5, 9)})
    added = churn.add(history, "labels.parquet", time="at")
    assert (added.added.new, added.added.repeated, churn.stored.labels) == (3, 1, 3)
    assert correct() == (churn.scores("a")["prediction"][:3] == ["yes", "no", "no"]).sum()
    older = pd.DataFrame({"id": [0, 1, 2], "churned": ["no", "yes", "yes"], "at": at(8, 4, 6)})
    added = churn.add(older, "labels.parquet", time="at")
    assert (added.added.older, added.added.corrected) == (2, 1)
    assert correct() == (churn.scores("a")["prediction"][:3] == ["yes", "no", "yes"]).sum()
    added = churn.add(pd.DataFrame({"id": [0, 1, 2], "churned": ["yes"] * 3}))  # without a time, the last one counts
    assert (added.added.corrected, added.added.repeated) == (1, 2)
    assert correct() == yes


def test_keys_are_compared_as_text_and_may_consist_of_several_columns(churn: Churn) -> None:
    churn.run("a")
    ids = pd.DataFrame({"id": [1.0, 2.0, 3.0], "churned": ["yes"] * 3})
    assert churn.add(ids, "labels.parquet").unknown == 0
    churn.jobs.main.delete(DOCUMENT)
    both = pd.DataFrame({"region": ["s", "n"], "id": ["1", "1"], "churned": ["yes", "no"]})
    added = churn.add(both, "labels.parquet", key=["id", "region"])
    assert (added.unknown, added.examples) == (1, ["'1:11:n'"])
    assert churn.of("a").whole.labels == 1
    assert churn.stored.key == ("id", "region")


def test_labels_of_unknown_keys_are_kept_for_later_runs(churn: Churn) -> None:
    churn.run("a", np.arange(0, 100))
    added = churn.add(churn.labels(*range(90, 200)))
    assert (added.unknown, added.examples) == (100, ["'100'", "'101'", "'102'", "'103'", "'104'"])
    assert churn.stored.labels == 110
    churn.run("b", np.arange(100, 400))
    added = churn.add(churn.labels(0))
    assert {run.job_id: run.whole.labels for run in added.outcomes.runs} == {"a": 11, "b": 100}


def test_only_accepted_runs_are_compared(churn: Churn) -> None:
    churn.run("a")
    churn.jobs.findings = (BLOCKS,)
    churn.run("b")
    churn.add(churn.labels(0, 1))
    assert [run.job_id for run in churn.stored.runs] == ["a"]
    churn.client.accept("b", "all is well")
    churn.client.reject("a", "wrong prices")
    assert churn.add(churn.labels(0, 1)).changed
    assert [run.job_id for run in churn.stored.runs] == ["b"]


def test_a_run_whose_results_were_removed_keeps_its_numbers(churn: Churn) -> None:
    churn.run("a")
    churn.run("b")
    churn.add(churn.labels(*range(100)))
    before = churn.of("a")
    for info in list(churn.jobs.main.list("out/job_id=a/")):
        churn.jobs.main.delete(info.key)
    added = churn.add(churn.labels(*range(100, 200)))
    assert added.skipped == {"a": "its results were removed"}
    assert churn.of("a") == before
    assert churn.of("b").whole.labels == 200


def test_a_run_that_latest_json_does_not_list_any_more_keeps_its_numbers(
    churn: Churn, monkeypatch: pytest.MonkeyPatch
) -> None:
    churn.run("a")
    churn.run("b")
    churn.add(churn.labels())
    before = churn.of("a")
    monkeypatch.setattr(latest, "MAX_RUNS", 2)
    churn.run("c")
    assert [run.job_id for run in churn.jobs.latest.runs] == ["c", "b"]
    churn.add(churn.labels())
    assert [run.job_id for run in churn.stored.runs] == ["a", "b", "c"]
    assert churn.of("a") == before
    churn.client.reject("a", "wrong prices")
    churn.add(churn.labels())
    assert [run.job_id for run in churn.stored.runs] == ["b", "c"]


def test_null_targets_are_left_out_and_counted(churn: Churn) -> None:
    churn.run("a")
    frame = pd.DataFrame({"id": [0, 1, 2], "churned": ["yes", None, None]})
    assert churn.add(frame).added.null_targets == 2
    assert churn.stored.labels == 1


def test_rows_with_the_same_key_are_counted_and_noted(churn: Churn) -> None:
    churn.run("a", np.array([0, 1, 1, 1, 2]))
    churn.add(churn.labels(0, 1))
    assert (churn.of("a").whole.labels, churn.of("a").repeated) == (4, 2)


def test_partitioned_results_have_the_key_of_their_folders(churn: Churn) -> None:
    churn.run("a", partition_by="region")
    frame = pd.DataFrame({"id": [1, 2], "region": ["s", "x"], "churned": ["yes", "no"]})
    assert churn.add(frame, key=["id", "region"]).unknown == 1
    assert churn.of("a").whole.labels == 1


def test_numbers_and_booleans_are_classes_too(churn: Churn) -> None:
    churn.publish("flags", LogisticRegression(), churn.yes.astype(int))
    churn.run("a", model="flags")
    churn.add(pd.DataFrame({"id": range(ROWS), "churned": churn.yes}), "labels.parquet")
    expected = churn.of("a").whole.metrics
    churn.jobs.main.delete(DOCUMENT)
    churn.add(pd.DataFrame({"id": range(ROWS), "churned": churn.yes.astype(float)}), "labels.parquet")
    assert churn.of("a").whole.metrics == expected
    assert churn.of("a").whole.labels == ROWS


def test_without_probabilities_there_is_only_accuracy(churn: Churn) -> None:
    churn.run("a", method="predict")
    churn.add(churn.labels())
    assert list(churn.of("a").whole.metrics) == ["accuracy"]
    assert churn.of("a").whole.deciles == ()


def test_a_version_that_was_deleted_is_compared_by_its_columns(churn: Churn) -> None:
    churn.run("a")
    churn.add(churn.labels())
    before = churn.of("a")
    churn.jobs.main.delete(DOCUMENT)
    for info in list(churn.jobs.main.list("models/churn/")):
        churn.jobs.main.delete(info.key)
    churn.add(churn.labels())
    assert churn.of("a") == before


def test_with_many_rows_the_auc_is_of_some_of_them(churn: Churn, monkeypatch: pytest.MonkeyPatch) -> None:
    churn.run("a")
    churn.add(churn.labels())
    exact = churn.of("a").whole
    churn.jobs.main.delete(DOCUMENT)
    monkeypatch.setattr(outcome_sums, "MAX_CELLS", 200)
    churn.add(churn.labels())
    some = churn.of("a")
    assert (some.one_in, exact.labels) == (2, ROWS)
    assert sum(item.rows for item in some.whole.deciles) < 260
    assert {name: item for name, item in some.whole.metrics.items() if name != "auc"} == {
        name: item for name, item in exact.metrics.items() if name != "auc"
    }


def test_few_keys_with_very_many_rows_take_no_more_memory(churn: Churn, monkeypatch: pytest.MonkeyPatch) -> None:
    churn.run("a", np.repeat(np.arange(10), 40))
    churn.add(churn.labels(*range(10)))
    exact = churn.of("a")
    assert exact.one_in == 1
    churn.jobs.main.delete(DOCUMENT)
    monkeypatch.setattr(outcome_sums, "MAX_CELLS", 100)
    churn.add(churn.labels(*range(10)))
    some = churn.of("a")
    assert (some.one_in, some.repeated, some.whole.labels) == (4, 390, 400)
    assert 60 < sum(item.rows for item in some.whole.deciles) <= 125
    assert some.whole.metrics["auc"].value == pytest.approx(exact.whole.metrics["auc"].value, abs=0.15)
    assert some.whole.metrics["log_loss"] == exact.whole.metrics["log_loss"]
    assert not churn.add(churn.labels(*range(10))).changed


REFUSED: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    (
        {"id": [1, 2, 2, 3, 3, 4], "churned": ["yes", "yes", "no", "no", "yes", "no"]},
        {},
        r"2 keys of .*labels\.csv have several labels, such as '2' \(rows 1 and 2\), '3' \(rows 3 and 4\): keep one",
    ),
    ({"id": [1, None, 3, None], "churned": ["yes"] * 4}, {}, r"2 rows of .* have no key, such as rows 1, 3: remove"),
    (
        {"id": [1, 2], "churned": ["yes", "maybe"]},
        {},
        r"1 label is a value that churn@.* does not predict, such as 'maybe' \(1\): it predicts 'no', 'yes'",
    ),
    (
        {"id": [991, 992], "churned": ["no", "no"]},
        {},
        r"none of the 2 keys of .* is in an accepted run of s3://scoreline/out/, such as '991', '992': name the",
    ),
    ({"id": [1], "churned": [None]}, {}, r"the target 'churned' is null in every row"),
    ({"name": [1], "churned": ["no"]}, {}, r"labels\.csv has no column 'id': it has 'churned', 'name'"),
    ({"id": [1], "churned": ["no"]}, {"key": ["id", "id"]}, r"are not all different"),
    (
        {"id": [1], "churned": ["no"], "at": ["soon"]},
        {"time": "at"},
        r"the time 'at' is string: read it as a time with --types at=timestamp",
    ),
]


@pytest.mark.parametrize(("columns", "options", "says"), REFUSED)
def test_a_file_that_cannot_be_used_is_refused_and_nothing_is_lost(
    churn: Churn, columns: dict[str, Any], options: dict[str, Any], says: str
) -> None:
    churn.run("a")
    churn.add(churn.labels(*range(50)))
    before = churn.jobs.main.get(DOCUMENT).data
    with pytest.raises((InvalidRequest, MissingColumns), match=says) as error:
        churn.add(pd.DataFrame(columns), **options)
    assert "s3://local-file" not in str(error.value)
    assert churn.jobs.main.get(DOCUMENT).data == before
    churn.add(churn.labels(*range(50)))


def test_a_first_file_with_another_key_or_another_kind_of_target_is_refused(churn: Churn) -> None:
    churn.run("a")
    with pytest.raises(InvalidRequest, match=r"no accepted run of .* has the key 'name' in its results: name a column"):
        churn.add(pd.DataFrame({"name": [1], "churned": ["no"]}), key="name")
    with pytest.raises(InvalidRequest, match="of another kind than the scores: 2 labels are values that churn@"):
        churn.add(pd.DataFrame({"id": [1, 2], "churned": [0.5, 2.5]}))
    churn.publish("sales", LinearRegression(), churn.x)
    churn.run("b", model="sales", output="s3://scoreline/sales/")
    path = churn.folder / "labels.csv"
    churn.labels(1, 2).to_csv(path, index=False)
    with pytest.raises(InvalidRequest, match=r"values that sales@.* does not predict, such as .*: it predicts numbers"):
        churn.client.add_outcomes("s3://scoreline/sales/", path, key="id", target="churned")
    assert churn.client.outcomes(OUTPUT) is None
    assert not list(churn.jobs.main.list("out/_outcomes/"))


def test_infinite_targets_and_several_texts_are_refused(churn: Churn, monkeypatch: pytest.MonkeyPatch) -> None:
    churn.run("a")
    with pytest.raises(InvalidRequest, match=r"'churned' is infinite in row 1"):
        churn.add(pd.DataFrame({"id": [0, 1], "churned": [1.0, np.inf]}), "labels.parquet")
    with pytest.raises(InvalidRequest, match=r"'churned' is beyond 1e\+60 in row 0"):
        churn.add(pd.DataFrame({"id": [0, 1], "churned": [-1e200, 1.0]}), "labels.parquet")
    monkeypatch.setattr(outcome_store, "MAX_CLASSES", 2)
    with pytest.raises(InvalidRequest, match="more than 2 different texts"):
        churn.add(pd.DataFrame({"id": range(3), "churned": list("abc")}))


def test_other_columns_or_another_kind_than_before_are_refused(churn: Churn) -> None:
    churn.run("a")
    with pytest.raises(InvalidRequest, match=r"none\.csv does not exist"):
        churn.client.add_outcomes(OUTPUT, churn.folder / "none.csv", key="id", target="churned")
    churn.add(churn.labels(0, 1))
    with pytest.raises(InvalidRequest, match=r"no run of s3://scoreline/none/ is accepted, so there are no scores"):
        churn.client.add_outcomes("s3://scoreline/none/", churn.folder / "labels.csv", key="id", target="churned")
    with pytest.raises(InvalidRequest, match=r"have the key id and the target 'churned': name the same columns"):
        churn.add(churn.labels(0, 1).rename(columns={"churned": "left"}), target="left")
    with pytest.raises(InvalidRequest, match=r"added before are texts, and these are numbers"):
        churn.add(pd.DataFrame({"id": [0], "churned": [1.5]}))


@pytest.mark.parametrize("text", ["", "id,churned\n"])
def test_a_file_without_rows_is_refused(churn: Churn, text: str) -> None:
    churn.run("a")
    path = churn.folder / "labels.csv"
    path.write_text(text)
    with pytest.raises(InvalidRequest, match=r"labels\.csv has no (rows|columns and no rows): nothing was added"):
        churn.client.add_outcomes(OUTPUT, path, key="id", target="churned")


def test_a_row_that_cannot_be_decoded_is_named(churn: Churn) -> None:
    churn.run("a")
    path = churn.folder / "labels.csv"
    path.write_text("id,churned\n1,yes\n2,no,more\n")
    with pytest.raises(InvalidRequest, match=r"row 1 of .*labels\.csv cannot be read: .*Nothing was added"):
        churn.client.add_outcomes(OUTPUT, path, key="id", target="churned")
    path.write_text("id;churned\n1;yes\n")
    churn.client.add_outcomes(OUTPUT, path, key="id", target="churned", read=ReadOptions(delimiter=";"))
    assert churn.stored.labels == 1
    churn.jobs.main.put("in/labels.csv", b"id,churned\n2,no\n")
    churn.client.add_outcomes(OUTPUT, "s3://scoreline/in/labels.csv", key="id", target="churned")
    assert churn.stored.labels == 2


def damage(churn: Churn, key: str) -> None:
    churn.jobs.main.put(key, churn.jobs.main.get(key).data[:-4] + b"????")


def delete(churn: Churn, key: str) -> None:
    churn.jobs.main.delete(key)


@pytest.mark.parametrize(("harm", "says"), [(damage, "its digest differs"), (delete, "is gone, which has the labels")])
def test_damaged_labels_are_named(churn: Churn, harm: Callable[[Churn, str], None], says: str) -> None:
    churn.run("a")
    churn.add(churn.labels(0, 1))
    (file,) = churn.stored.files
    harm(churn, f"out/_outcomes/{file.name}")
    with pytest.raises(DocumentCorrupt, match=says):
        churn.add(churn.labels(2))


def test_no_key_and_no_other_column_is_kept(churn: Churn) -> None:
    churn.run("a")
    frame = churn.labels(*range(30), name=[f"customer {number}" for number in range(30)])
    frame["id"] = frame["id"].astype(str)
    churn.add(frame)
    (file,) = churn.stored.files
    data = churn.jobs.main.get(f"out/_outcomes/{file.name}").data
    (churn.folder / "copy.parquet").write_bytes(data)
    table = pq.read_table(churn.folder / "copy.parquet")
    assert table.column_names == ["hi", "lo", "target", "at"]
    assert table["hi"].to_pylist() == sorted(table["hi"].to_pylist())
    assert b"customer" not in data
    assert "customer" not in churn.jobs.main.get(DOCUMENT).data.decode()


def test_two_processes_that_add_labels_at_once_lose_none(churn: Churn, monkeypatch: pytest.MonkeyPatch) -> None:
    churn.run("a")
    churn.add(churn.labels(0))
    put, others = DirectoryStore.put, [churn.labels(1), churn.labels(2)]

    def put_late(store: DirectoryStore, key: str, *arguments: Any, **options: Any) -> Any:
        if key == DOCUMENT and others:
            frame = others.pop()
            churn.add(frame, f"other-{len(others)}.csv")
        return put(store, key, *arguments, **options)

    monkeypatch.setattr(DirectoryStore, "put", put_late)
    churn.add(churn.labels(3))
    assert churn.stored.labels == churn.of("a").whole.labels == 4


def test_labels_that_are_never_stored_are_an_error_to_try_again(churn: Churn, monkeypatch: pytest.MonkeyPatch) -> None:
    churn.run("a")
    put = DirectoryStore.put

    def put_late(store: DirectoryStore, key: str, *arguments: Any, **options: Any) -> Any:
        if key == DOCUMENT:
            raw = {"format": 1, "key": ["id"], "target": "churned", "updated": "2026-11-29T00:00:00+00:00", "labels": 0}
            put(store, key, json.dumps(raw | {"labels": len(seen)}).encode())
            seen.append(key)
        return put(store, key, *arguments, **options)

    seen: list[str] = []
    monkeypatch.setattr(DirectoryStore, "put", put_late)
    monkeypatch.setattr("scoreline.tasks.quality.outcomes.late_labels._TRIES", 3)
    with pytest.raises(StoreUnavailable, match="were changed 3 times meanwhile"):
        churn.add(churn.labels(3))


def test_files_with_labels_that_nothing_names_are_removed_after_a_day(
    churn: Churn, monkeypatch: pytest.MonkeyPatch
) -> None:
    churn.run("a")
    churn.add(churn.labels(0))
    first = churn.stored.files[0].name
    churn.add(churn.labels(1))
    assert {info.key.rpartition("/")[2] for info in churn.jobs.main.list("out/_outcomes/")} >= {first}
    monkeypatch.setattr("scoreline.tasks.quality.outcomes.late_labels._LEFT_S", -1.0)
    churn.add(churn.labels(2))
    names = {info.key.rpartition("/")[2] for info in churn.jobs.main.list("out/_outcomes/")}
    assert names == {"outcomes.json", churn.stored.files[0].name}


def test_labels_are_the_same_however_they_are_partitioned(churn: Churn, monkeypatch: pytest.MonkeyPatch) -> None:
    churn.run("a")
    for start in range(0, ROWS, 100):
        churn.add(churn.labels(*range(start, start + 100)))
    one_by_one = churn.stored
    churn.jobs.main.delete(DOCUMENT)
    churn.add(churn.labels())
    assert churn.stored.files == one_by_one.files
    assert churn.stored.runs == one_by_one.runs


def test_the_labels_of_an_output_without_results_are_forgotten(churn: Churn) -> None:
    churn.run("a")
    churn.run("b")
    churn.add(churn.labels())

    def remove(job_id: str) -> None:
        for info in list(churn.jobs.main.list(f"out/job_id={job_id}/")):
            churn.jobs.main.delete(info.key)
        forget_labels(churn.jobs.main, "out/")

    remove("a")
    assert churn.stored.labels == ROWS
    remove("b")
    assert [info.key for info in churn.jobs.main.list("out/_outcomes/")] == [DOCUMENT]
    assert (churn.stored.labels, churn.stored.files, len(churn.stored.runs)) == (0, (), 2)
    forget_labels(churn.jobs.main, "elsewhere/")
    churn.run("c")
    churn.add(churn.labels(1, 2))
    assert (churn.stored.labels, churn.of("c").whole.labels) == (2, 2)


def test_a_process_that_is_killed_while_it_forgets_labels_leaves_none_of_them_to_the_next(
    churn: Churn, monkeypatch: pytest.MonkeyPatch
) -> None:
    churn.run("a")
    churn.add(churn.labels())
    for info in list(churn.jobs.main.list("out/job_id=a/")):
        churn.jobs.main.delete(info.key)

    def die(*arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(DirectoryStore, "delete_many", die)
        with pytest.raises(KeyboardInterrupt):
            forget_labels(churn.jobs.main, "out/")
    forget_labels(churn.jobs.main, "out/")
    assert [info.key for info in churn.jobs.main.list("out/_outcomes/")] == [DOCUMENT]


def test_labels_of_an_output_that_is_a_whole_bucket_are_forgotten_too(churn: Churn) -> None:
    churn.run("a")
    churn.add(churn.labels())
    main = churn.jobs.main
    for info in list(main.list("out/_outcomes/")):
        main.put(info.key.removeprefix("out/"), main.get(info.key).data)
    forget_labels(main, "")
    assert [info.key for info in main.list("_outcomes/")] == [DOCUMENT.removeprefix("out/")]


def test_a_retention_round_forgets_the_labels_with_the_last_results(
    churn: Churn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock of a round is that of the store, but readers have a day by the clock of this computer."""
    monkeypatch.setattr(latest, "LEFT_S", 0.0)
    policies = Policies(default=ResultsKeep(days=30))

    def removed(days: int) -> list[str]:
        later = time.time() + days * 86_400
        monkeypatch.setattr(rounds, "_store_time", lambda store: later)
        return [item.tombstone.job_id for item in rounds.collect(churn.jobs.buckets, policies).removed]

    churn.run("a", segment="region")
    churn.add(churn.labels())
    assert removed(31) == [], "readers take the run"
    churn.client.reject("a", "wrong prices")
    churn.run("b")
    churn.add(churn.labels())
    assert removed(31) == ["a"]
    assert churn.stored.labels == ROWS, "the output has results"
    churn.client.reject("b", "wrong prices, too")
    assert removed(29) == []
    assert removed(31) == ["b"]
    assert [info.key for info in churn.jobs.main.list("out/_outcomes/")] == [DOCUMENT]
    assert (churn.stored.labels, churn.stored.files) == (0, ())
    assert [run.job_id for run in churn.stored.runs] == ["b"]
    assert removed(31) == []
