"""Accept, reject and roll back: what becomes of a job, its ``_SUCCESS`` and ``latest.json``."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from scoreline.storage import keys
from scoreline.storage.audit import acting_as
from scoreline.storage.errors import DocumentCorrupt, InvalidRequest, JobNotFound, JobRemoved
from scoreline.storage.objects.base import exists
from scoreline.storage.objects.directory import DirectoryStore
from scoreline.tasks.job.documents import read_job
from scoreline.tasks.job.tombstone import Tombstone
from scoreline.tasks.quality.gate.pointer import Pointer, publish_latest
from scoreline.tasks.quality.results.reading import open_results
from scoreline.tasks.retention import protection
from scoreline.tasks.steps.planner import plan_job
from tests.support.gated import BLOCKS, KEY, OUTPUT, WARNS, Deaths, Died, Gated, check_latest

SLOT = "nightly-20261125T020000Z"


def before_change(monkeypatch: pytest.MonkeyPatch, of: str, act: Callable[[], object]) -> None:
    """Call `act` once, before the first change of an object whose key ends with `of`, as a faster process would."""
    done: list[str] = []

    def hook(name: str) -> None:
        method = getattr(DirectoryStore, name)

        def hooked(store: DirectoryStore, key: str, *arguments: Any, **options: Any) -> Any:
            if not done and key.endswith(of):
                done.append(key)
                act()
            return method(store, key, *arguments, **options)

        monkeypatch.setattr(DirectoryStore, name, hooked)

    hook("put")
    hook("delete")


def test_an_accepted_job_gets_success_its_place_and_its_state(jobs: Gated) -> None:
    jobs.run("before")
    jobs.run("j", BLOCKS, broken=(3,), max_rejected="100%")
    with acting_as("alice"):
        decided = jobs.client.accept("j", "  a holiday  ")
    assert (decided.outcome.state, decided.latest) == ("partial", "j")
    assert jobs.has_success("j")
    assert check_latest(jobs.main) == "j"
    entry = jobs.latest.run
    assert entry is not None
    assert (entry.decision, entry.who, entry.reason, entry.review) == ("accepted", "alice", "a holiday", 1)
    assert jobs.latest.history[0].action == "accept"
    assert [job.state for job in jobs.client.jobs(limit=1)] == ["partial"]
    status = jobs.client.status("j")
    assert status.checks is not None
    assert status.checks.review is not None
    assert (status.checks.findings, status.checks.review.who) == ((BLOCKS,), "alice")
    assert jobs.audited()[-1] == ("job.accept", "j")


@pytest.mark.parametrize("gather", [False, True])
def test_the_success_of_an_accepted_job_is_that_of_any_job(jobs: Gated, gather: bool) -> None:
    jobs.run("j", gather=gather)
    usual = jobs.main.get(keys.success("out/job_id=j/")).data
    jobs.client.reject("j", "no")
    assert not jobs.has_success("j")
    jobs.client.accept("j", "yes")
    assert jobs.main.get(keys.success("out/job_id=j/")).data == usual


def test_a_blocked_job_that_is_gathered_keeps_its_parts_until_it_is_accepted(jobs: Gated) -> None:
    jobs.run("j", BLOCKS, gather=True)
    parts = "out/job_id=j/_parts/"
    assert len(list(jobs.main.list(parts))) == 4
    jobs.client.accept("j", "fine")
    assert list(jobs.main.list(parts)) == []
    assert check_latest(jobs.main) == "j"


def test_the_same_decision_again_changes_nothing_and_has_one_line_in_the_audit(jobs: Gated) -> None:
    jobs.run("j", BLOCKS)
    jobs.client.accept("j", "fine")
    before = jobs.main.get(KEY).data, jobs.main.get(keys.outcome("j")).data, jobs.main.get(keys.review("j")).data
    jobs.client.accept("j", "fine")
    after = jobs.main.get(KEY).data, jobs.main.get(keys.outcome("j")).data, jobs.main.get(keys.review("j")).data
    assert before == after
    assert [line for line in jobs.audited() if line[1] == "j"] == [("job.accept", "j")]


def test_the_line_of_the_audit_is_written_before_the_change(jobs: Gated, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs.run("a")
    jobs.run("j", BLOCKS)
    deaths = Deaths(monkeypatch)
    jobs.client.accept("j", "fine")
    jobs.client.reject("j", "no")
    jobs.client.accept("j", "yes")
    jobs.client.roll_back(OUTPUT, reason="back")
    decided = [
        key for key in deaths.changed if key.startswith("audit/") or key.endswith(("review.json", "latest.json"))
    ]
    assert [key.partition("/")[0] for key in decided if not key.endswith("latest.json")] == [
        *("audit", "jobs") * 3,
        "audit",
    ]
    assert not decided[-2].startswith("audit/") or decided[-1] == KEY


def test_a_withdrawn_job_is_replaced_by_the_newest_accepted_run_before_it(jobs: Gated) -> None:
    jobs.run("a")
    jobs.run("b")
    jobs.run("blocked", BLOCKS)
    jobs.run("c")
    decided = jobs.client.reject("c", "ages are 25 years too high")
    assert (decided.outcome.state, decided.latest) == ("blocked", "b")
    assert check_latest(jobs.main, withdrawn=("c",)) == "b"
    assert not jobs.has_success("c")
    assert jobs.client.reject("b", "too").latest == "a"
    assert jobs.client.accept("c", "not after all").latest == "c"
    assert jobs.client.reject("a", "old").latest == "c"


def test_without_another_accepted_run_latest_names_none(jobs: Gated) -> None:
    jobs.run("a")
    assert jobs.client.reject("a", "no").latest is None
    assert json.loads(jobs.main.get(KEY).data)["files"] == []
    with pytest.raises(InvalidRequest, match=r"no run of s3://scoreline/out/ is accepted"):
        open_results(jobs.buckets, OUTPUT)
    jobs.run("b")
    assert check_latest(jobs.main) == "b"


def test_a_withdrawn_job_does_not_come_back_by_a_late_finalizer(jobs: Gated) -> None:
    outcome = jobs.run("a")
    success = jobs.main.get(keys.success("out/job_id=a/")).data
    jobs.client.reject("a", "no")
    jobs.main.put(keys.success("out/job_id=a/"), success)  # the command was killed before it deleted this object
    publish_latest(jobs.buckets, read_job(jobs.main, "a"), outcome)
    assert jobs.named is None
    assert jobs.latest.runs[0].decision == "withdrawn"


def test_an_old_job_that_ends_late_is_listed_and_does_not_displace_a_newer_one(jobs: Gated) -> None:
    jobs.score("old")
    jobs.run("new")
    jobs.finalize("old")
    assert check_latest(jobs.main) == "new"
    assert [run.job_id for run in jobs.latest.runs] == ["new", "old"]
    assert jobs.client.reject("new", "no").latest == "old"


def test_an_accepted_old_job_does_not_displace_a_newer_one(jobs: Gated) -> None:
    jobs.run("old", BLOCKS)
    jobs.run("new")
    decided = jobs.client.accept("old", "fine")
    assert (decided.outcome.state, decided.latest) == ("succeeded", "new")
    assert jobs.has_success("old")


def test_a_backfilled_slot_does_not_displace_a_later_slot(jobs: Gated) -> None:
    def run(job_id: str) -> None:
        jobs.at.client.put("in/a.csv", "x\n1\n2\n")
        spec = jobs.client.submission.spec("line", "s3://scoreline/in/a.csv", {"job_id": job_id, "output": OUTPUT})
        jobs.client.submit_spec(spec, schedule="nightly")
        plan_job(jobs.at.engine, job_id)
        jobs.at.score(job_id, 0)
        jobs.finalize(job_id)

    run(SLOT)
    run("nightly-20261120T020000Z")
    assert check_latest(jobs.main) == SLOT
    run(f"{SLOT}-2")
    assert check_latest(jobs.main) == f"{SLOT}-2"
    assert [run.slot for run in jobs.latest.runs][-1] == "2026-11-20T02:00:00+00:00"


def test_a_rollback_goes_to_the_run_before_or_to_the_one_that_is_named(jobs: Gated) -> None:
    for name in "abc":
        jobs.run(name)
    with acting_as("bob"):
        assert jobs.client.roll_back(OUTPUT, reason="wrong prices").job_id == "b"
    change = jobs.latest.history[0]
    assert (change.action, change.who, change.before, change.after) == ("rollback", "bob", "c", "b")
    assert jobs.client.roll_back(OUTPUT, "a", reason="these too").job_id == "a"
    assert jobs.client.roll_back("s3://scoreline/out", "c", reason="they were right").job_id == "c"
    assert check_latest(jobs.main) == "c"
    assert [line for line in jobs.audited() if line[0] == "results.rollback"] == [("results.rollback", OUTPUT)] * 3


def test_after_a_rollback_only_a_newer_run_takes_over(jobs: Gated) -> None:
    jobs.run("a")
    jobs.score("between")
    outcome = jobs.run("c")
    jobs.client.roll_back(OUTPUT, reason="wrong prices")
    publish_latest(jobs.buckets, read_job(jobs.main, "c"), outcome)
    jobs.finalize("between")
    assert jobs.named == "a"
    jobs.run("d")
    assert check_latest(jobs.main) == "d"


def test_if_the_run_of_a_rollback_is_withdrawn_too_only_a_newer_run_takes_over(jobs: Gated) -> None:
    jobs.run("a")
    jobs.score("between")
    jobs.run("c")
    jobs.client.roll_back(OUTPUT, reason="wrong prices")
    jobs.client.reject("a", "wrong, too")
    jobs.finalize("between")
    assert jobs.named is None
    jobs.client.accept("between", "checked by hand")
    assert jobs.named == "between"
    jobs.run("d")
    assert check_latest(jobs.main) == "d"


@pytest.mark.parametrize(
    ("job_id", "message"),
    [
        ("blocked", "is not accepted"),
        ("elsewhere", "is no run of"),
        ("scoring", "is under way"),
        ("unknown", "no job 'unknown'"),
        ("withdrawn", "is not accepted"),
    ],
)
def test_a_rollback_to_what_is_not_accepted_is_refused(jobs: Gated, job_id: str, message: str) -> None:
    jobs.run("a")
    jobs.run("withdrawn")
    jobs.client.reject("withdrawn", "no")
    jobs.run("b")
    jobs.run("blocked", BLOCKS)
    jobs.run("elsewhere", output="s3://scoreline/other/")
    jobs.score("scoring")
    with pytest.raises((InvalidRequest, JobNotFound), match=message):
        jobs.client.roll_back(OUTPUT, job_id, reason="why not")
    assert jobs.named == "b"


def test_a_rollback_without_an_earlier_run_is_refused(jobs: Gated) -> None:
    with pytest.raises(InvalidRequest, match=r"there is no s3://scoreline/out/latest\.json"):
        jobs.client.roll_back(OUTPUT, reason="x")
    jobs.run("a")
    with pytest.raises(InvalidRequest, match=r"no accepted run of .* is older than a"):
        jobs.client.roll_back(OUTPUT, reason="x")
    assert [line for line in jobs.audited() if line[0] == "results.rollback"] == []


def test_a_rollback_to_removed_results_is_refused_and_the_default_skips_none(jobs: Gated) -> None:
    jobs.run("a")
    jobs.run("b")
    jobs.main.delete(keys.success("out/job_id=a/"))
    with pytest.raises(InvalidRequest, match="the results of job a were removed"):
        jobs.client.roll_back(OUTPUT, reason="x")
    assert check_latest(jobs.main) == "b"


def test_a_withdrawal_skips_runs_whose_results_were_removed(jobs: Gated) -> None:
    for name in "abc":
        jobs.run(name)
    jobs.main.delete(keys.success("out/job_id=b/"))
    assert jobs.client.reject("c", "no").latest == "a"
    assert check_latest(jobs.main) == "a"


@pytest.mark.parametrize(("reason", "message"), [(" ", "is empty"), ("x" * 1_001, "1,001 characters")])
def test_a_decision_needs_a_reason(jobs: Gated, reason: str, message: str) -> None:
    jobs.run("a")
    jobs.run("j", BLOCKS)
    for act in (jobs.client.accept, jobs.client.reject):
        with pytest.raises(InvalidRequest, match=message):
            act("j", reason)
    with pytest.raises(InvalidRequest, match=message):
        jobs.client.roll_back(OUTPUT, "a", reason=reason)


def test_a_job_without_all_its_results_cannot_be_accepted(jobs: Gated) -> None:
    with pytest.raises(JobNotFound):
        jobs.client.accept("none", "x")
    jobs.score("j")
    with pytest.raises(InvalidRequest, match="is under way: wait for its end"):
        jobs.client.accept("j", "x")
    jobs.client.cancel("j")
    with pytest.raises(InvalidRequest, match=r"job j cancelled, so its results are not complete: .scoreline resume j"):
        jobs.client.reject("j", "x")


def test_a_damaged_review_or_pointer_is_an_error_that_names_it(jobs: Gated) -> None:
    jobs.run("j")
    jobs.main.put(KEY, b"{}")
    with pytest.raises(
        DocumentCorrupt, match=r"out/latest\.json is not what Scoreline writes there.*move it elsewhere"
    ):
        jobs.client.reject("j", "x")
    jobs.main.delete(KEY)
    assert jobs.client.accept("j", "named again").latest == "j"
    jobs.main.put(keys.review("j"), b"{}")
    with pytest.raises(DocumentCorrupt, match=r"review\.json"):
        jobs.client.accept("j", "x")


@pytest.mark.parametrize("act", ["accept", "reject", "roll_back"])
def test_a_decision_that_is_killed_at_any_change_and_made_again_has_the_same_end(
    jobs: Gated, monkeypatch: pytest.MonkeyPatch, act: str
) -> None:
    def do(number: int) -> None:
        if act == "accept":
            jobs.client.accept(f"j{number}", "fine")
        elif act == "reject":
            jobs.client.reject(f"j{number}", "no")
        else:
            jobs.client.roll_back(OUTPUT, f"a{number}", reason="back")

    deaths = Deaths(monkeypatch)
    number = 0
    while True:
        jobs.run(f"a{number}")
        jobs.run(f"j{number}", *((BLOCKS,) if act == "accept" else (WARNS,)))
        deaths.left, deaths.changed = number, []
        try:
            do(number)
        except Died:
            deaths.left = None
            do(number)
            is_over = False
        else:
            is_over = True
        deaths.left = None
        assert check_latest(jobs.main) == (f"j{number}" if act == "accept" else f"a{number}")
        assert jobs.has_success(f"j{number}") == (act != "reject")
        assert jobs.outcome(f"j{number}").state == ("blocked" if act == "reject" else "succeeded")
        assert [job.state for job in jobs.client.jobs(limit=1)] == [jobs.outcome(f"j{number}").state]
        if is_over:
            break
        number += 1
    assert number >= {"accept": 5, "reject": 5, "roll_back": 2}[act]


def test_two_people_who_accept_different_jobs_at_once_leave_the_newer_one(
    jobs: Gated, monkeypatch: pytest.MonkeyPatch
) -> None:
    for first, second in (("a1", "b1"), ("b2", "a2")):
        for name in sorted((first, second)):
            jobs.run(name, BLOCKS)
        with monkeypatch.context() as patch:
            before_change(patch, "latest.json", lambda second=second: jobs.client.accept(second, "fine"))  # type: ignore[misc]
            jobs.client.accept(first, "fine")
        assert check_latest(jobs.main) == max(first, second)
        assert all(jobs.outcome(name).state == "succeeded" for name in (first, second))


@pytest.mark.parametrize("at", ["review.json", "latest.json", "_SUCCESS", "outcome.json"])
@pytest.mark.parametrize("first", ["accept", "reject"])
def test_if_one_person_accepts_and_another_rejects_a_job_the_later_decision_counts(
    jobs: Gated, monkeypatch: pytest.MonkeyPatch, first: str, at: str
) -> None:
    jobs.run("a")
    jobs.run("j", BLOCKS)
    mine, theirs = jobs.client.accept, jobs.client.reject
    if first == "reject":
        jobs.client.accept("j", "at first")
        mine, theirs = theirs, mine
    before_change(monkeypatch, at, lambda: theirs("j", "theirs"))
    mine("j", "mine")
    # The decision whose review.json was written last counts
    last_is_mine = at == "review.json"
    accepted = (first == "accept") == last_is_mine
    assert check_latest(jobs.main) == ("j" if accepted else "a")
    assert jobs.has_success("j") == accepted
    assert jobs.outcome("j").state == ("succeeded" if accepted else "blocked")


def test_a_rollback_and_a_job_that_is_accepted_at_once_leave_one_complete_run(
    jobs: Gated, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "abc":
        jobs.run(name, *((BLOCKS,) if name == "c" else ()))
    with monkeypatch.context() as patch:
        before_change(patch, "latest.json", lambda: jobs.client.accept("c", "fine"))
        assert jobs.client.roll_back(OUTPUT, "a", reason="back").job_id == "a"
    assert check_latest(jobs.main) == "a"
    assert [change.action for change in jobs.latest.history[:2]] == ["rollback", "accept"]
    jobs.run("d", BLOCKS)
    before_change(monkeypatch, "latest.json", lambda: jobs.client.roll_back(OUTPUT, "b", reason="back"))
    assert jobs.client.accept("d", "fine").latest == "d"
    assert [change.action for change in jobs.latest.history[:2]] == ["accept", "rollback"]


def test_a_rollback_to_a_run_that_is_withdrawn_meanwhile_is_refused(
    jobs: Gated, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "abc":
        jobs.run(name)
    before_change(monkeypatch, "latest.json", lambda: jobs.client.reject("a", "no"))
    with pytest.raises(InvalidRequest, match="job a was withdrawn"):
        jobs.client.roll_back(OUTPUT, "a", reason="back")
    assert check_latest(jobs.main, withdrawn=("a",)) == "c"


def bury(jobs: Gated, job_id: str) -> None:
    """Write the tombstone of a job, which is how its removal begins."""
    job = read_job(jobs.main, job_id)
    tombstone = Tombstone(
        job_id=job_id,
        state="succeeded",
        why="it is old",
        at="2026-11-29T00:00:00+00:00",
        model=job.model.ref,
        output=OUTPUT,
        submitted=job.submitted,
    )
    jobs.main.put(keys.job(job_id), tombstone.to_json())


@pytest.mark.parametrize("act", ["accept", "roll_back"])
def test_a_run_whose_removal_has_begun_does_not_become_the_latest(
    jobs: Gated, monkeypatch: pytest.MonkeyPatch, act: str
) -> None:
    jobs.run("a", *((BLOCKS,) if act == "accept" else ()))
    if act == "roll_back":
        jobs.run("b")

    def do() -> object:
        return jobs.client.accept("a", "fine") if act == "accept" else jobs.client.roll_back(OUTPUT, reason="back")

    before_change(monkeypatch, "latest.json", lambda: bury(jobs, "a"))
    with pytest.raises((JobRemoved, InvalidRequest), match="removed"):
        do()
    assert check_latest(jobs.main) == ("b" if act == "roll_back" else None)
    assert jobs.has_success("a") == (act == "roll_back")


@pytest.mark.parametrize("act", ["accept", "roll_back"])
def test_retention_finds_a_run_that_is_about_to_become_the_latest(
    jobs: Gated, monkeypatch: pytest.MonkeyPatch, act: str
) -> None:
    jobs.run("a", *((BLOCKS,) if act == "accept" else ()))
    jobs.run("b", *((BLOCKS,) if act == "accept" else ()))
    seen: list[str] = []
    put = Pointer._put

    def noted(pointer: Pointer, *arguments: Any) -> str:
        found = put(pointer, *arguments)
        name = "b" if act == "accept" else "a"
        seen.append(protection.named_by_latest(jobs.buckets, OUTPUT, name))
        return found

    monkeypatch.setattr(Pointer, "_put", noted)
    if act == "accept":
        jobs.client.accept("b", "fine")
    else:
        jobs.client.roll_back(OUTPUT, reason="back")
    assert seen == ["s3://scoreline/out/latest.json names it"] * 2


def test_retention_keeps_the_latest_run_and_the_one_that_was_it_until_today(jobs: Gated) -> None:
    for name in "abc":
        jobs.run(name)
    kept = {name: protection.named_by_latest(jobs.buckets, OUTPUT, name) for name in "abc"}
    assert all(kept.values())
    jobs.main.put(KEY, jobs.main.get(KEY).data.replace(b'"left": "202', b'"left": "201'))
    kept = {name: protection.named_by_latest(jobs.buckets, OUTPUT, name) for name in "abc"}
    assert kept == {"a": "", "b": "", "c": "s3://scoreline/out/latest.json names it"}
    assert exists(jobs.main, KEY)
