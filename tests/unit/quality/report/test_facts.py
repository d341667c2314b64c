"""A report has the facts of a job: how it differs from its baseline, its rejected rows, and where it comes from."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from typing import Any

import pandas as pd
import pytest

from scoreline.storage import keys
from scoreline.storage.errors import InvalidRequest, JobNotFound
from scoreline.tasks.job.documents import read_outcome
from scoreline.tasks.job.findings import Checks, Finding
from scoreline.tasks.job.uris import parse_uri
from scoreline.tasks.quality.challengers.comparison import (
    ChallengerFailure,
    Comparison,
    LabelComparison,
    ScoreComparison,
)
from scoreline.tasks.quality.outcomes.read_outcomes import Outcomes
from scoreline.tasks.quality.outcomes.run_outcomes import Bin, Group, RunOutcomes
from scoreline.tasks.quality.report import collect as collecting
from scoreline.tasks.quality.report.collect import report_of
from scoreline.tasks.quality.report.count_rejects import Limits
from scoreline.tasks.quality.report.facts import Column, Report
from scoreline.tasks.quality.report.html import render
from scoreline.tasks.quality.trace.lineage import Lineage
from scoreline.testing import EagerClient
from tests.support.one_model import LINE
from tests.unit.quality.report.conftest import DRIFTED, SOUND


def test_a_sound_job_is_accepted_and_like_its_baseline(sound: Report) -> None:
    assert (sound.state, sound.findings, sound.checked) == ("succeeded", (), True)
    assert (sound.rows, sound.scored, sound.rejected, sound.parts) == (2_000, 2_000, 0, 4)
    assert sound.compared is not None
    assert (sound.compared.kind, sound.compared.rows) == ("baseline", 4_000)
    assert {column.change for column in sound.columns if column.kind != "kept"} == {"same"}
    assert sound.rejects is None
    assert {stage.name for stage in sound.stages} >= {"decode", "predict", "upload"}


def test_scores_come_first_and_columns_that_changed_most_before_the_others(blocked: Report) -> None:
    kinds = [column.kind for column in blocked.columns]
    assert kinds == sorted(kinds, key=["score", "feature", "kept"].index)
    features = [column for column in blocked.columns if column.kind == "feature"]
    assert [column.key for column in features[:4]] == ["income", "age", "country", "visits"]
    assert [column.change for column in features] == ["changed"] * 4 + ["same"] * 4


def test_a_finding_that_blocks_comes_first_and_each_column_knows_its_findings(blocked: Report) -> None:
    levels = [finding.level for finding in blocked.findings]
    assert levels[0] == "block"
    assert levels == sorted(levels)
    for column in blocked.columns:
        assert all(blocked.findings[place].column == column.key for place in column.findings)
    age = next(column for column in blocked.columns if column.key == "age")
    assert age.before is not None
    assert age.now.mean is not None
    assert age.before.mean is not None
    assert 24 < age.now.mean - age.before.mean < 27
    assert "psi" in age.too_far


def test_segments_have_rows_and_scores(sound: Report) -> None:
    assert sound.segment == "region"
    assert [segment.value for segment in sound.segments] == ["north", "south", "east", "west"]
    assert sum(segment.share for segment in sound.segments) == pytest.approx(1)
    assert {score.name for score in sound.segments[0].scores} == {"prediction", "proba_leaves", "proba_stays"}
    assert sound.segments[0].scores[0].top in ("leaves", "stays")


def test_rejected_rows_have_stages_reasons_and_examples(blocked: Report) -> None:
    rejects = blocked.rejects
    assert rejects is not None
    assert rejects.complete
    assert rejects.counted == blocked.rejected == sum(rejects.stages.values())
    assert set(rejects.stages) == {"schema", "contract"}
    reason = next(reason for reason in rejects.reasons if reason.column == "visits")
    assert len(reason.examples) == 2
    assert reason.examples[0].columns["visits"] is None


def test_a_report_counts_no_more_rejected_rows_than_its_limits_allow(churn: EagerClient, blocked: Report) -> None:
    few = report_of(churn.buckets, DRIFTED, limits=Limits(files=1, rows=1_000)).rejects
    assert few is not None
    assert not few.complete
    assert 0 < few.counted < blocked.rejected
    fewer = report_of(churn.buckets, DRIFTED, limits=Limits(files=9, rows=1)).rejects
    assert fewer is not None
    assert not fewer.complete
    assert "The reasons are those of the first" in render(
        report_of(churn.buckets, DRIFTED, limits=Limits(files=1, rows=9))
    )


def test_without_pyarrow_the_report_says_what_is_missing(churn: EagerClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "scoreline.tasks.rejects.report", None)
    found = churn.report(DRIFTED)
    assert found.rejects is not None
    assert "pip install -r ml-requirements.txt" in found.rejects.note
    assert "Their reasons are not counted here" in render(found)


def test_a_job_can_be_compared_with_another_job_or_the_baseline(churn: EagerClient) -> None:
    found = churn.report(DRIFTED, against=SOUND)
    assert found.compared is not None
    assert (found.compared.kind, found.compared.name, found.compared.rows) == ("job", SOUND, 2_000)
    region = next(column for column in found.columns if column.key == "region")
    assert region.before is not None, "a baseline does not have kept columns, but a job has"
    assert found.segments[0].before is not None
    assert churn.report(DRIFTED, against="baseline").compared == churn.report(DRIFTED).compared


def test_lineage_names_input_model_and_checks(sound: Report) -> None:
    assert [item.uri for item in sound.lineage.inputs] == [f"s3://scoreline/in/{SOUND}.parquet"]
    assert sound.lineage.inputs[0].etag
    assert sound.lineage.model.manifest_sha256
    assert "scikit-learn" in sound.lineage.model.libraries
    assert sound.checks_from == "version"


@pytest.mark.parametrize("options", [{}, {"gather": True}, {"partition_by": "region"}], ids=["parts", "gather", "by"])
def test_lineage_names_the_libraries_that_scored(churn: EagerClient, options: dict[str, Any]) -> None:
    job_id = "libraries-" + "-".join(options)
    uri = f"s3://scoreline/in/{SOUND}.parquet"
    churn.submit("churn", uri, job_id=f"{job_id}j", output="s3://scoreline/libraries/", keep="region", **options)
    found = churn.report(f"{job_id}j")
    assert set(found.lineage.libraries) >= {"numpy", "scikit-learn", "pyarrow"}
    assert "Libraries that scored the first rows" in render(found)


def test_a_report_without_result_files_names_no_libraries(churn: EagerClient) -> None:
    uri = f"s3://scoreline/in/{SOUND}.parquet"
    churn.submit("churn", uri, job_id="bare", output="s3://scoreline/bare/", keep="none")
    for info in list(churn.buckets.main.list("bare/job_id=bare/part-")):
        churn.buckets.main.delete(info.key)
    assert churn.report("bare").lineage.libraries == {}


def test_rejected_rows_that_an_attempt_left_are_not_counted(churn: EagerClient) -> None:
    uri = f"s3://scoreline/in/{DRIFTED}.parquet"
    churn.submit("churn", uri, job_id="left", max_rejected="0", output="s3://scoreline/left/", keep="none")
    before = churn.report("left").rejects
    assert before is not None
    main = churn.buckets.main
    folder = "left/job_id=left/_rejected/"
    first = next(iter(main.list(folder)))
    copied = f"{folder}rejected-00000-{'0' * 16}.parquet"
    main.put(copied, main.get(first.key).data, metadata=main.head(first.key).metadata)
    assert churn.report("left").rejects == before


def test_the_facts_are_json_with_every_field(blocked: Report, sound: Report) -> None:
    found = json.loads(json.dumps(blocked.to_dict(), allow_nan=False))
    assert (found["format"], found["job_id"], found["state"]) == (1, DRIFTED, "blocked")
    assert found["columns"][0]["picture"]
    assert found["lineage"]["inputs"]
    assert (found["error"], found["comparison"], found["outcomes"]) == ("", None, None)
    assert [*sound.to_dict()] == [*found]
    assert (sound.to_dict()["findings"], sound.to_dict()["rejects"]) == ([], None)
    assert {len(column) for column in found["columns"]} == {len(fields(Column))}


def test_comparison_outcomes_and_lineage_have_every_field_in_json(sound: Report) -> None:
    comparison = Comparison(
        champion="a@1",
        challenger="a@2",
        champion_sha256="1",
        challenger_sha256="2",
        labels={"y": LabelComparison(agreed=0, pairs={("a", "b"): 1})},
        scores={"s": ScoreComparison()},
        failures=(ChallengerFailure(part=0, reason="x"),),
    )
    group = Group(rows=0, labels=0, metrics={}, deciles=(Bin(rows=1, predicted=0, observed=0, low=0, high=1),) * 10)
    run = RunOutcomes(job_id="j", model="a@1", kind="regressor", at="2026-11-25T00:00:00+00:00", groups=(group,))
    outcomes = Outcomes(key=("id",), target="y", updated="2026-11-25T00:00:00+00:00", labels=0, runs=(run,))
    lineage = replace(sound.lineage, checks=Checks(findings=(Finding(check="rows", level="warn", message="few"),)))
    report = replace(sound, comparison=comparison, outcomes=outcomes, lineage=lineage)
    found = json.loads(json.dumps(report.to_dict(), allow_nan=False))

    def check(kind: type, document: dict[str, Any], *more: str) -> None:
        assert {item.name for item in fields(kind)} | {*more} <= {*document}

    check(Comparison, found["comparison"], "agreement", "champion_seconds_per_row")
    check(LabelComparison, found["comparison"]["labels"]["y"], "agreement")
    check(ScoreComparison, found["comparison"]["scores"]["s"], "mean_difference", "rank_correlation", "drift")
    check(ChallengerFailure, found["comparison"]["failures"][0])
    check(Outcomes, found["outcomes"], "versions")
    for item in (found["outcomes"]["runs"][0], found["outcomes"]["versions"][0]):
        check(RunOutcomes, item)
        check(Group, item["groups"][0])
        check(Bin, item["groups"][0]["deciles"][0])
    check(Lineage, found["lineage"])
    check(Checks, found["lineage"]["checks"])
    check(Finding, found["lineage"]["checks"]["findings"][0])
    assert (found["comparison"]["segments"], found["comparison"]["other_segments"]) == ({}, None)


def test_a_job_under_way_or_unknown_has_no_report(churn: EagerClient, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(JobNotFound, match="no job 'nope'"):
        churn.report("nope")
    with pytest.raises(JobNotFound, match="no job 'nope'"):
        churn.report(SOUND, against="nope")
    monkeypatch.setattr(collecting, "read_outcome", lambda *_: None)
    with pytest.raises(InvalidRequest, match=f"job {SOUND} is under way: wait for its end"):
        churn.report(SOUND)


def test_nothing_can_be_compared_with_a_job_without_profile_or_with_itself(churn: EagerClient) -> None:
    uri = f"s3://scoreline/in/{SOUND}.parquet"
    churn.submit("churn", uri, job_id="off", profile="off", output="s3://scoreline/off/", keep="none")
    with pytest.raises(InvalidRequest, match="job off has no profile"):
        churn.report(SOUND, against="off")
    with pytest.raises(InvalidRequest, match="cannot be compared with itself"):
        churn.report(SOUND, against=SOUND)
    found = churn.report("off")
    assert found.columns == ()
    assert found.notes == ("There are no pictures, because the job was submitted with --profile off.",)
    assert found.notes[0] in render(found)


def test_a_job_of_an_earlier_release_has_a_report_without_pictures(churn: EagerClient) -> None:
    uri = f"s3://scoreline/in/{SOUND}.parquet"
    job = churn.submit("churn", uri, job_id="earlier", output="s3://scoreline/earlier/", keep="none")
    profile = keys.results_profile("earlier/job_id=earlier/")
    data = churn.buckets.main.get(profile).data
    churn.buckets.main.delete(profile)
    found = churn.report(job.job_id)
    assert "an earlier release scored it" in found.notes[0]
    assert found.checked  # the job has a claim
    churn.buckets.main.put(profile, data[: len(data) // 2])
    assert churn.report(job.job_id).notes[0].startswith("There are no pictures: s3://scoreline/earlier/")


def test_a_job_is_known_to_be_checked_when_latest_no_longer_lists_it(churn: EagerClient) -> None:
    uri, output = f"s3://scoreline/in/{SOUND}.parquet", "s3://scoreline/many/"
    job = churn.submit("churn", uri, output=output, profile="off", keep="none")
    churn.buckets.main.delete(keys.latest(parse_uri(output)[1]))
    assert churn.report(job.job_id).checked


def test_a_job_from_before_the_gate_was_not_checked(churn: EagerClient) -> None:
    uri, output = f"s3://scoreline/in/{SOUND}.parquet", "s3://scoreline/before/"
    job = churn.submit("churn", uri, output=output, profile="off", keep="none")
    assert churn.report(job.job_id).checked
    churn.buckets.main.delete(keys.claim(job.job_id, 1))
    found = churn.report(job.job_id)
    assert (found.state, found.findings, found.checked) == ("succeeded", (), False)
    page = render(found)
    assert "No checks were run on these results" in page
    assert "nothing unusual" not in page


def test_a_job_that_failed_says_why(churn: EagerClient) -> None:
    uri = f"s3://scoreline/in/{DRIFTED}.parquet"
    churn.submit("churn", uri, job_id="failed", max_rejected="0", output="s3://scoreline/failed/", keep="none")
    found = churn.report("failed")
    assert (found.state, found.checked) == ("failed", False)
    assert "this one failed" in found.notes[0]
    assert "raise --max-rejected" in render(found)


def test_without_a_baseline_a_job_is_compared_with_the_first_accepted_run(churn: EagerClient) -> None:
    churn.models.publish("line", LINE)
    for job_id in ("first", "second"):
        uri = churn.put("in/line.parquet", pd.DataFrame({"x": [float(n) for n in range(500)]}))
        churn.submit("line", uri, job_id=job_id, output="s3://scoreline/line/")
    assert churn.report("first").compared is None
    assert "There is nothing to compare with" in churn.report("first").notes[0]
    found = churn.report("second").compared
    assert found is not None
    assert (found.kind, found.name) == ("first", "first")
    with pytest.raises(InvalidRequest, match="has no baseline: publish the next version with --baseline"):
        churn.report("second", against="baseline")


def test_a_decision_is_in_the_report(churn: EagerClient) -> None:
    uri = f"s3://scoreline/in/{DRIFTED}.parquet"
    churn.submit("churn", uri, job_id="decided", output="s3://scoreline/decided/", keep="none", max_rejected="10%")
    assert "Blocked by its checks" in render(churn.report("decided"))
    churn.accept("decided", "the new tariff")
    page = render(churn.report("decided"))
    assert "Accepted by a person" in page
    assert "The new tariff." in page
    churn.reject("decided", "wrong tariff")
    assert "Withdrawn" in render(churn.report("decided"))
    outcome = read_outcome(churn.buckets.main, "decided")
    assert outcome is not None
    assert outcome.state == "blocked"
