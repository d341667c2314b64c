"""Runs that ``latest.json`` lists no longer, whose results are gone, or that a person has left behind."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any, Self

import pytest

from scoreline.storage import keys
from scoreline.storage.errors import InvalidRequest
from scoreline.storage.objects.directory import DirectoryStore
from scoreline.tasks.quality.gate import decisions, latest, pointer
from tests.support.gated import BLOCKS, OUTPUT, Gated, check_latest


def before_success(monkeypatch: pytest.MonkeyPatch, act: Callable[[], object]) -> None:
    """Call `act` before ``_SUCCESS`` is first written, as if this process had paused there."""
    put = DirectoryStore.put
    done: list[str] = []

    def paused(store: DirectoryStore, key: str, *arguments: Any, **options: Any) -> Any:
        if not done and key.endswith("_SUCCESS"):
            done.append(key)
            act()
        return put(store, key, *arguments, **options)

    monkeypatch.setattr(DirectoryStore, "put", paused)


def test_a_person_can_go_back_to_a_run_that_is_listed_no_longer(jobs: Gated, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latest, "MAX_RUNS", 2)
    for job_id in ("a", "b", "c"):
        jobs.run(job_id)
    assert [run.job_id for run in jobs.latest.runs] == ["c", "b"]
    assert jobs.client.roll_back(OUTPUT, "a", reason="the others are wrong").job_id == "a"
    assert check_latest(jobs.main) == "a"
    assert [run.job_id for run in jobs.latest.runs] == ["c", "a"]
    jobs.run("d")
    assert check_latest(jobs.main) == "d"


def test_a_person_can_accept_a_run_that_is_older_than_those_that_are_listed(
    jobs: Gated, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(latest, "MAX_RUNS", 2)
    jobs.run("a")
    jobs.run("b", BLOCKS)
    jobs.run("c")
    jobs.client.roll_back(OUTPUT, "a", reason="wrong prices")
    jobs.run("d", BLOCKS)
    jobs.client.reject("d", "wrong prices, too")
    assert jobs.client.accept("b", "fine").latest == "b"
    assert check_latest(jobs.main) == "b"


def test_an_older_run_that_a_person_accepts_does_not_push_the_latest_from_the_list(
    jobs: Gated, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(latest, "MAX_RUNS", 2)
    jobs.run("a", BLOCKS)
    for job_id in ("b", "c"):
        jobs.run(job_id)
    jobs.client.roll_back(OUTPUT, "b", reason="wrong prices")
    assert jobs.client.accept("a", "fine").latest == "b"
    assert check_latest(jobs.main) == "b"


def test_a_withdrawal_skips_any_number_of_runs_whose_results_are_gone(
    jobs: Gated, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pointer, "_TRIES", 2)
    for job_id in ("a", "b", "c", "d", "e"):
        jobs.run(job_id)
    for job_id in ("b", "c", "d"):
        jobs.main.delete(keys.success(f"out/job_id={job_id}/"))
    assert jobs.client.reject("e", "wrong prices").latest == "a"
    assert check_latest(jobs.main) == "a"


def test_a_withdrawal_skips_a_run_whose_manifest_is_not_its_own(jobs: Gated) -> None:
    for job_id in ("a", "b", "c"):
        jobs.run(job_id)
    other = jobs.main.get(keys.results_manifest("out/job_id=a/")).data
    jobs.main.put(keys.results_manifest("out/job_id=b/"), other)
    assert jobs.client.reject("c", "wrong prices").latest == "a"
    assert check_latest(jobs.main) == "a"


def test_a_run_from_which_a_person_went_back_does_not_return_by_a_withdrawal(jobs: Gated) -> None:
    for job_id in ("a", "b", "c"):
        jobs.run(job_id)
    jobs.client.roll_back(OUTPUT, "a", reason="wrong prices since b")
    jobs.run("d")
    assert jobs.client.reject("d", "still wrong").latest == "a"
    jobs.run("e")
    assert jobs.client.roll_back(OUTPUT, reason="still wrong").job_id == "a"


def test_a_run_that_is_taken_again_after_a_rollback_returns_by_a_withdrawal(jobs: Gated) -> None:
    for job_id in ("a", "b", "c"):
        jobs.run(job_id)
    jobs.client.roll_back(OUTPUT, "a", reason="wrong prices")
    jobs.client.roll_back(OUTPUT, "c", reason="they were right")
    jobs.run("d")
    assert jobs.client.reject("d", "wrong").latest == "c"
    jobs.client.roll_back(OUTPUT, "a", reason="wrong prices")
    jobs.client.accept("b", "only c had them")
    jobs.run("e")
    assert jobs.client.reject("e", "wrong").latest == "b"


def test_a_run_that_a_person_accepted_in_the_second_before_a_rollback_is_left_behind(
    jobs: Gated, monkeypatch: pytest.MonkeyPatch
) -> None:
    second = datetime(2026, 11, 25, 10, tzinfo=UTC)

    def at(milliseconds: int) -> None:
        class Fixed(datetime):
            @classmethod
            def now(cls, tz: tzinfo | None = None) -> Self:
                return cls.fromisoformat((second + timedelta(milliseconds=milliseconds)).isoformat())

        for module in (decisions, pointer):
            monkeypatch.setattr(module, "datetime", Fixed)

    jobs.run("a")
    jobs.run("b", BLOCKS)
    jobs.run("c")
    at(100)
    jobs.client.accept("b", "fine")
    at(900)
    jobs.client.roll_back(OUTPUT, "a", reason="wrong prices since b")
    jobs.run("d")
    assert jobs.client.reject("d", "still wrong").latest == "a"


@pytest.mark.parametrize("gather", [False, True])
def test_a_finalizer_that_wakes_after_a_withdrawal_leaves_no_success(
    jobs: Gated, monkeypatch: pytest.MonkeyPatch, gather: bool
) -> None:
    jobs.score("j", gather=gather)

    def end_and_withdraw() -> None:
        jobs.finalize("j")
        jobs.client.reject("j", "wrong prices")

    before_success(monkeypatch, end_and_withdraw)
    jobs.finalize("j")
    assert jobs.outcome("j").state == "blocked"
    assert not jobs.has_success("j")
    assert check_latest(jobs.main) is None


def test_a_finalizer_that_wakes_after_a_decision_for_the_job_leaves_its_success(
    jobs: Gated, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs.score("j")

    def end_and_decide() -> None:
        jobs.finalize("j")
        jobs.client.reject("j", "wrong prices")
        jobs.client.accept("j", "they were right")

    before_success(monkeypatch, end_and_decide)
    jobs.finalize("j")
    assert jobs.outcome("j").state == "succeeded"
    assert jobs.has_success("j")
    assert check_latest(jobs.main) == "j"


def test_a_rollback_without_a_run_that_was_not_left_behind_is_refused(jobs: Gated) -> None:
    jobs.run("a")
    jobs.run("b")
    jobs.client.roll_back(OUTPUT, "a", reason="wrong prices")
    jobs.client.reject("a", "these too")
    jobs.run("c")
    with pytest.raises(InvalidRequest, match=r"no accepted run of .* is older than c"):
        jobs.client.roll_back(OUTPUT, reason="still wrong")
