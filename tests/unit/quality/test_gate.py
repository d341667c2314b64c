"""The gate: what its checks find decides whether readers get the results of a job."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace

import pytest

from scoreline.storage import keys
from scoreline.storage.errors import NothingToResume, ScoringError, StoreUnavailable
from scoreline.storage.objects.base import exists
from scoreline.tasks.inputs.listing import list_inputs
from scoreline.tasks.job.documents import Outcome, State, claim_end
from scoreline.tasks.job.findings import Checks, Finding
from scoreline.tasks.quality.gate.judging import MAX_FINDINGS, Evidence, judge
from scoreline.tasks.quality.gate.pointer import publishes
from scoreline.tasks.steps.finalize import finalize
from tests.support.gated import BLOCKS, KEY, OUTPUT, WARNS, Gated, check_latest


def test_a_blocked_job_has_manifest_and_results_but_neither_success_nor_a_place_in_latest(jobs: Gated) -> None:
    outcome = jobs.run("j", WARNS, BLOCKS)
    assert (outcome.state, outcome.rows, outcome.error) == ("blocked", 40, "")
    assert outcome.checks == Checks(findings=(BLOCKS, WARNS))
    assert exists(jobs.main, keys.results_manifest("out/job_id=j/"))
    assert exists(jobs.main, "out/job_id=j/part-00001.parquet")
    assert not jobs.has_success("j")
    assert not exists(jobs.main, KEY)
    assert not exists(jobs.main, keys.active("j"))
    assert [job.state for job in jobs.client.jobs(state="blocked")] == ["blocked"]
    assert jobs.client.ledger.counters.read().jobs["blocked"] == 1


def test_a_blocked_run_does_not_displace_the_accepted_one(jobs: Gated) -> None:
    jobs.run("a")
    jobs.run("b", BLOCKS)
    assert check_latest(jobs.main) == "a"


def test_a_warning_is_in_the_outcome_the_status_and_latest(jobs: Gated) -> None:
    outcome = jobs.run("j", WARNS)
    assert outcome.state == "succeeded"
    assert jobs.has_success("j")
    shown = jobs.client.status("j").to_dict()["checks"]
    assert shown == {"findings": [{"check": "nulls", "level": "warn", "column": "x", "message": WARNS.message}]}
    assert json.loads(jobs.main.get(KEY).data)["checks"] == shown
    assert jobs.latest.runs[0].reason == "1 finding, none of which blocks"


def test_an_outcome_without_findings_has_no_such_field(jobs: Gated) -> None:
    jobs.run("j")
    raw = json.loads(jobs.main.get(keys.outcome("j")).data)
    assert "checks" not in raw
    assert "checks" not in jobs.client.status("j").to_dict()
    assert "checks" not in json.loads(jobs.main.get(KEY).data)


def test_the_answer_over_the_broker_does_not_quote_findings(jobs: Gated) -> None:
    jobs.run("j", BLOCKS, WARNS)
    answer = jobs.client.answer(jobs.client.status("j"))
    assert answer["checks"] == {"warned": 1, "blocked": 1}


def test_checks_that_fail_are_one_warning_and_never_lose_a_job(jobs: Gated) -> None:
    def broken(evidence: Evidence) -> Iterable[Finding]:
        yield WARNS
        raise ScoringError("the baseline is damaged " + "x" * 1_000)

    jobs.at.engine.checker = broken
    outcome = jobs.run("j")
    assert outcome.state == "succeeded"
    assert outcome.checks is not None
    (finding,) = outcome.checks.findings
    assert finding.level == "warn"
    assert finding.message.startswith("the checks could not be run, so nothing was checked: the baseline is damaged")
    assert finding.message.endswith("…")


def test_results_do_not_pass_unchecked_while_the_store_does_not_answer(jobs: Gated) -> None:
    def unavailable(evidence: Evidence) -> Iterable[Finding]:
        raise StoreUnavailable("503")

    jobs.at.engine.checker = unavailable
    jobs.score("j")
    with pytest.raises(StoreUnavailable):
        finalize(jobs.at.engine, "j")
    assert not jobs.has_success("j")
    jobs.at.engine.checker = lambda evidence: [BLOCKS]
    assert jobs.finalize("j").state == "blocked"


def test_only_so_many_findings_are_recorded_and_those_that_block_come_first(jobs: Gated) -> None:
    outcome = jobs.run("j", *([WARNS] * (MAX_FINDINGS + 5)), BLOCKS)
    assert outcome.state == "blocked"
    assert outcome.checks is not None
    assert outcome.checks.findings[0] == BLOCKS
    assert len(outcome.checks.findings) == MAX_FINDINGS + 1
    assert outcome.checks.findings[-1].message == "6 more findings are not listed"


@pytest.mark.parametrize("first", [(), (BLOCKS,)], ids=["accepted", "blocked"])
def test_all_finalizers_follow_the_verdict_in_the_claim(jobs: Gated, first: tuple[Finding, ...]) -> None:
    # Given a finalizer that claimed the end, and died before it wrote anything else
    jobs.score("j")
    state: State = "blocked" if first else "succeeded"
    checks = Checks(findings=first) if first else None
    claim_end(jobs.main, "j", Outcome(state=state, rows=40, parts=4, parts_done=4, failures={}, checks=checks))
    # When another one finds something else
    jobs.findings = () if first else (BLOCKS,)
    outcome = jobs.finalize("j")
    # Then it ends the job as claimed
    assert (outcome.state, outcome.checks) == (state, checks)
    assert jobs.has_success("j") == (not first)
    assert exists(jobs.main, KEY) == (not first)


def test_a_slow_finalizer_does_not_give_a_run_back_that_was_withdrawn_meanwhile(jobs: Gated) -> None:
    jobs.run("before")
    jobs.score("j")
    engine = jobs.at.engine

    def slowly(evidence: Evidence) -> tuple[Finding, ...]:
        engine.checker = lambda _: ()
        jobs.finalize("j")  # by another process
        jobs.client.reject("j", "wrong prices")
        return ()

    engine.checker = slowly
    finalize(engine, "j")
    assert (jobs.outcome("j").state, jobs.named) == ("blocked", "before")
    assert not jobs.has_success("j")


def test_the_checks_see_numbers_documents_and_the_last_accepted_run(jobs: Gated) -> None:
    seen: list[tuple[int, int, str, str | None]] = []

    def look(evidence: Evidence) -> Iterable[Finding]:
        before = evidence.accepted_before()
        job_id = evidence.documents.job.spec.job_id
        seen.append((evidence.rows, evidence.rejected, job_id, None if before is None else before.job_id))
        return ()

    jobs.at.engine.checker = look
    jobs.run("a")
    jobs.run("b", broken=(3,), max_rejected="100%")
    assert seen == [(40, 0, "a", None), (39, 1, "b", "a")]


def test_a_blocked_job_cannot_be_resumed_and_says_what_to_do(jobs: Gated) -> None:
    jobs.run("j", BLOCKS)
    with pytest.raises(NothingToResume, match=r"blocked.*scoreline accept j --reason.*scoreline reject j"):
        jobs.client.resume("j")


def test_a_job_that_scores_rejected_rows_is_neither_checked_nor_the_latest(jobs: Gated) -> None:
    jobs.run("j")
    documents = jobs.at.engine.documents("j")
    again = replace(documents.job, spec=replace(documents.job.spec, rejected_of="a"))
    assert publishes(documents.job, "scoreline")
    assert not publishes(again, "scoreline")
    evidence = Evidence(buckets=jobs.buckets, documents=replace(documents, job=again), rows=1, rejected=0)
    assert judge(evidence, lambda evidence: [BLOCKS]).findings == ()
    assert evidence.accepted_before() is None


@pytest.mark.parametrize(
    ("key", "output", "expected"),
    [
        (keys.records("j", "f" * 64), "s3://scoreline/results/line/", False),
        (keys.records_table("j", "f" * 64), "s3://scoreline/results/line/", False),
        (keys.records_bulk("j", "f" * 64), "s3://scoreline/results/line/", False),
        (keys.records("j", "f" * 64), OUTPUT, True),
        ("in/a.parquet", "s3://scoreline/results/line/", True),
    ],
)
def test_records_without_an_output_of_their_own_have_no_latest(
    jobs: Gated, key: str, output: str, expected: bool
) -> None:
    jobs.score("j")
    job = jobs.at.engine.documents("j").job
    spec = replace(job.spec, inputs=(f"s3://scoreline/{key}",), output=output)
    assert publishes(replace(job, spec=spec), "scoreline") is expected


@pytest.mark.parametrize("data", [b"", b"{", b'{"mine": true}', b'{"format": 1, "job_id": "x"}'])
def test_an_object_of_others_in_place_of_latest_is_left_alone_and_the_job_ends(
    jobs: Gated, data: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    jobs.main.put(KEY, data)
    assert jobs.run("j").state == "succeeded"
    assert jobs.has_success("j")
    assert jobs.main.get(KEY).data == data
    assert [record.message for record in caplog.records if record.levelname == "ERROR"] == ["latest.not_written"]


def test_outputs_have_pointers_of_their_own_also_if_they_are_nested(jobs: Gated) -> None:
    jobs.run("a")
    jobs.run("b", output=f"{OUTPUT}deep/")
    jobs.run("c", output="s3://scoreline/other/", gather=True)
    assert check_latest(jobs.main) == "a"
    assert check_latest(jobs.main, "out/deep/latest.json") == "b"
    assert check_latest(jobs.main, "other/latest.json") == "c"


def test_the_output_of_a_job_can_be_the_input_of_another_one(jobs: Gated) -> None:
    jobs.run("a")
    found = [item.key for item in list_inputs(jobs.buckets, [OUTPUT], "next")]
    assert found == [f"out/job_id=a/part-0000{number}.parquet" for number in range(4)]
    jobs.main.put("in/latest.json", b"{}")
    assert "in/latest.json" in [item.key for item in list_inputs(jobs.buckets, ["s3://scoreline/in/"], "next")]
