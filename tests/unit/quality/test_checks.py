from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from scoreline.tasks.job.findings import Finding
from scoreline.tasks.quality.checks import run_checks as module
from scoreline.tasks.quality.checks.check_types import Checks
from scoreline.tasks.quality.checks.checks_file import read_checks
from scoreline.tasks.quality.checks.run_checks import RunCounts, run_checks
from scoreline.tasks.quality.profiles.counting import profile_of
from scoreline.tasks.quality.profiles.profile import Profile

NOW = datetime(2026, 11, 29, 6, tzinfo=UTC)
ROWS = 10_000


def columns(seed: int, rows: int = ROWS) -> dict[str, Any]:
    generator = np.random.default_rng(seed)
    return {
        "age": generator.normal(40, 10, rows),
        "income": np.exp(generator.normal(8, 1, rows)),
        "country": generator.choice(["DE", "AT", "CH"], rows, p=[0.6, 0.3, 0.1]),
        "when": np.datetime64("2026-01-01T00:00:00") + generator.integers(0, 3_600_000, rows),
    }


def scores(seed: int, rows: int = ROWS, positive: float = 0.3) -> dict[str, Any]:
    generator = np.random.default_rng(100 + seed)
    chance = generator.beta(3 * positive, 3 * (1 - positive), rows)
    return {"prediction": (chance > 0.5).astype(np.int64), "proba_1": chance}


def profile(features: dict[str, Any], outputs: dict[str, Any] | None = None, **kept: Any) -> Profile:
    return profile_of(
        pa.table(features),
        pa.table(outputs) if outputs is not None else None,
        pa.table(kept) if kept else None,
    )


BASELINE = profile(columns(1), scores(1))


def run(
    now: Profile | None,
    text: str = "",
    *,
    rows: int = ROWS,
    rejected: int = 0,
    baseline: Profile | None = BASELINE,
    **more: Any,
) -> list[Finding]:
    counts = RunCounts(rows=rows, rejected=rejected)
    return run_checks(read_checks(text), counts=counts, profile=now, baseline=baseline, now=NOW, **more)


def named(findings: list[Finding]) -> set[tuple[str, str]]:
    return {(finding.check, finding.column) for finding in findings}


def test_the_same_data_again_raise_nothing() -> None:
    last = RunCounts(rows=ROWS, rejected=20)
    assert run(profile(columns(2), scores(2)), last=last, rejected=20, newest_input=NOW) == []


@pytest.mark.parametrize("rows", [20, 200, 5_000])
@pytest.mark.parametrize("rare", [0.0, 0.002, 1.2])
def test_new_texts_in_small_runs_do_not_warn_by_chance(rows: int, rare: float) -> None:
    generator = np.random.default_rng(7)

    def texts(number: int) -> Any:
        if rare > 1:  # as words are distributed
            return np.minimum(generator.zipf(rare, number), 1 << 40).astype(str)
        return np.where(generator.random(number) < rare, generator.integers(0, 40, number), 1).astype(str)

    for _ in range(150):
        before, now = (profile({"text": texts(number)}) for number in (2_000, rows))
        assert run(now, "[drift]\nlevel = 'off'", baseline=before, rows=rows) == []


def test_a_new_text_in_a_fair_share_of_a_small_run_warns() -> None:
    before = profile({"text": ["a", "b"] * 1_000})
    now = profile({"text": ["a", "b"] * 40 + ["c"] * 10})
    assert named(run(now, baseline=before, rows=90)) == {("outside", "text")}


def changed(**columns_: Any) -> Profile:
    return profile(columns(2) | columns_, scores(2))


def with_nulls(share: float) -> list[float | None]:
    return [None if n < share * ROWS else value for n, value in enumerate(columns(2)["age"].tolist())]


FOUND: dict[str, tuple[Profile, set[tuple[str, str]], str]] = {
    "all ages 25 years older": (
        changed(age=columns(2)["age"] + 25),
        {("outside", "age"), ("drift", "age")},
        "'age' has drifted from the baseline: its population stability index is",
    ),
    "a new category": (
        changed(country=["XX" if n < 100 else value for n, value in enumerate(columns(2)["country"])]),
        {("outside", "country")},
        "1% of the values of 'country' do not occur in the baseline: 'XX' (100).",
    ),
    "nulls": (
        changed(age=with_nulls(0.02)),
        {("nulls", "age")},
        "2% of 'age' is null or NaN, but 0% in the baseline.",
    ),
    "a unit that changes by a thousand": (
        changed(income=columns(2)["income"] * 1000),
        {("outside", "income"), ("drift", "income")},
        "of the values of 'income' lie outside of the range of the baseline",
    ),
    "columns that are swapped": (
        changed(age=columns(2)["income"], income=columns(2)["age"]),
        {("outside", "age"), ("drift", "age"), ("outside", "income"), ("drift", "income")},
        "Its mean is",
    ),
    "another class prior": (
        profile(columns(2), scores(2, positive=0.45)),
        {
            ("drift", "prediction"),
            ("drift", "proba_1"),
            ("mean", "prediction"),
            ("mean", "proba_1"),
            ("classes", "prediction"),
        },
        "are '1' instead of",
    ),
    "infinite values": (
        changed(age=np.where(np.arange(ROWS) < 100, np.inf, columns(2)["age"])),
        {("outside", "age")},
        "1% of the values of 'age' lie outside of the range of the baseline",
    ),
    "text in place of numbers": (
        changed(age=columns(2)["country"]),
        {("drift", "age")},
        "'age' holds text, but numbers in the baseline.",
    ),
    "a column that vanished": (
        profile({name: column for name, column in columns(2).items() if name != "age"}, scores(2)),
        {("vanished", "age")},
        "The column 'age' of the baseline is missing.",
    ),
}


@pytest.mark.parametrize("case", FOUND)
def test_a_change_of_the_data_is_found_in_its_column_alone(case: str) -> None:
    now, expected, message = FOUND[case]
    found = run(now)
    assert named(found) == expected, found
    assert any(message in finding.message for finding in found), found
    assert {finding.level for finding in found} == {"warn"}
    assert run(now, "none") == []


def test_times_move_on_unless_a_check_names_the_column() -> None:
    later = changed(when=columns(2)["when"] + np.timedelta64(365, "D"))
    assert run(later) == []
    assert named(run(later, "[columns.when]\noutside = {max = '1%'}\n")) == {("outside", "when")}


def test_kept_columns_change_from_day_to_day_unless_they_set_a_check() -> None:
    days = [
        profile(columns(day), scores(day), id=np.arange(ROWS) + day * ROWS, batch=[f"day {day}"] * ROWS)
        for day in (1, 2)
    ]
    assert run(days[1], baseline=days[0]) == []
    found = run(days[1], "[columns.batch]\nkept = true\noutside = {max = '1%'}\n", baseline=days[0])
    assert named(found) == {("outside", "batch")}
    rule = "[columns.id]\nkept = true\nnot_null = true\n"
    assert run(days[1], rule, baseline=days[0]) == []
    assert named(run(days[1], rule + "drift = {psi = 0.2}\n", baseline=days[0])) == {("drift", "id")}


@pytest.mark.parametrize("seed", range(20))
def test_amounts_with_a_long_tail_are_not_taken_for_drift(seed: int) -> None:
    # Of a few amounts, the largest decide about mean and deviation, which differ between any two days
    generator = np.random.default_rng(seed)
    days = []
    for _ in range(2):
        spent = np.where(generator.random(1_000) < 0.97, 0.0, generator.lognormal(5, 2, 1_000))
        days.append(profile({"spent": spent}, {"prediction": np.exp(generator.normal(10, 2, 1_000))}))
    assert run(days[1], "[outside]\nlevel = 'off'\n", baseline=days[0]) == []


def test_a_few_values_beyond_the_range_are_expected_of_a_small_run() -> None:
    def small(outside: int) -> Profile:
        return profile({"age": [40.0] * (200 - outside) + [1000.0] * outside})

    checks = "[drift]\nlevel = 'off'\n[vanished]\nlevel = 'off'\n"
    assert run(small(3), checks) == []
    assert named(run(small(5), checks)) == {("outside", "age")}


LAST = RunCounts(rows=ROWS, rejected=10)


@pytest.mark.parametrize(
    ("rows", "rejected", "text", "message"),
    [
        (
            5_000,
            0,
            "",
            "5,000 rows, 50% fewer than the 10,000 of the last accepted run; up to 30% fewer are expected.",
        ),
        (
            20_000,
            0,
            "",
            "20,000 rows, 100% more than the 10,000 of the last accepted run; up to 50% more are expected.",
        ),
        (7_000, 0, "", ""),
        (15_000, 0, "", ""),
        (9_999, 0, "[rows]\nmin = 10_000", "9,999 rows; at least 10,000 are expected."),
        (10_001, 0, "[rows]\nmax = 10_000", "10,001 rows; at most 10,000 are expected."),
        (1, 0, "[rows]\nfall = false", ""),
        (ROWS, 150, "", "150 rows of 10,000 (1.5%) were rejected, but 0.1% in the last accepted run."),
        (ROWS, 50, "", ""),
        (ROWS, 51, "[rejects]\nmax = '0.5%'", "51 rows of 10,000 (0.51%) were rejected; at most 0.5% is allowed."),
        (ROWS, 1, "[rejects]\nmax = '0%'", "1 row of 10,000 (0.01%) were rejected; at most 0% is allowed."),
        (0, 0, "[rows]\nfall = false", ""),
    ],
)
def test_rows_and_rejects_are_held_against_the_last_accepted_run(
    rows: int, rejected: int, text: str, message: str
) -> None:
    found = run(None, text, rows=rows, rejected=rejected, last=LAST)
    said = [finding.message.removeprefix("The input has ") for finding in found]
    assert said == ([message] if message else [])


def test_a_job_with_few_rows_is_not_judged_by_one_rejected_row() -> None:
    assert run(None, rows=50, rejected=1, last=RunCounts(rows=50)) == []
    assert run(None, rows=50, rejected=25, last=RunCounts(rows=50)) != []


def test_without_an_accepted_run_and_a_baseline_only_fixed_limits_are_checked() -> None:
    now = changed(age=columns(2)["age"] * 1000)
    assert run(now, baseline=None, rows=5, rejected=4) == []
    text = "[nulls]\nmax = '1%'\n[columns.proba_1]\nmean = {max = 0.2}\n"
    found = run(changed(age=with_nulls(0.02)), text, baseline=None)
    assert [finding.message for finding in found] == [
        "2% of 'age' is null or NaN; at most 1% is allowed.",
        f"The mean of 'proba_1' is {float(np.mean(scores(2)['proba_1'])):.4g}; at most 0.2 is expected.",
    ]


def test_the_age_of_the_input_is_checked_where_a_limit_is_set() -> None:
    old = NOW - timedelta(hours=37)
    assert run(None, newest_input=old) == []
    (found,) = run(None, "[freshness]\nmax_age = '36h'\nlevel = 'block'", newest_input=old)
    assert found.message == (
        "The newest object of the input was written 1 d 13 h ago, at 2026-11-27 17:00 UTC; it may be at most 1 d 12 h "
        "old."
    )
    assert (found.level, found.value, found.limit) == ("block", 37 * 3600.0, 36 * 3600.0)
    assert run(None, "[freshness]\nmax_age = '37h'", newest_input=old) == []


def test_levels_of_a_column_come_before_those_of_all_columns() -> None:
    now = changed(age=columns(2)["age"] + 25, income=columns(2)["income"] * 1000)
    text = "[drift]\nlevel = 'block'\n[columns.income]\ndrift = 'warn'\noutside = 'off'\n"
    assert {(finding.check, finding.column, finding.level) for finding in run(now, text)} == {
        ("drift", "age", "block"),
        ("outside", "age", "warn"),
        ("drift", "income", "warn"),
    }


def test_a_kept_column_that_checks_name_is_missed() -> None:
    text = "[columns.region]\nkept = true\n"
    (found,) = run(profile(columns(2), scores(2)), text)
    assert found.message == "The kept column 'region', which checks name, is missing."
    assert run(profile(columns(2), scores(2), region=["n"] * ROWS), text) == []


def test_many_columns_that_vanished_are_named_in_part() -> None:
    wide = profile({f"c{n}": [1.0, 2.0] for n in range(10)})
    found = run(profile({"c0": [1.0, 2.0]}), baseline=wide)
    assert len(found) == 6
    assert found[-1].message == "4 further columns of the baseline are missing."


def test_drift_is_not_measured_on_few_rows() -> None:
    few = profile({name: column[:99] for name, column in changed_ages().items()})
    assert "drift" not in {finding.check for finding in run(few)}
    assert "drift" in {finding.check for finding in run(few, "[drift]\nmin_rows = 99")}


def changed_ages() -> dict[str, Any]:
    return {"age": columns(2)["age"] + 25}


def test_the_profile_that_documents_contain_gives_the_same_findings() -> None:
    now = changed(age=columns(2)["age"] + 25)
    stored, before = (Profile.from_dict(item.shortened().to_dict()) for item in (now, BASELINE))
    assert run(stored, baseline=before) == run(now)


@pytest.mark.parametrize("name", ["check_nulls", "check_outside", "check_drift", "check_mean", "check_classes"])
def test_a_check_that_fails_itself_is_one_warning_that_names_it(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    check = name.removeprefix("check_")

    def fails(*_: Any) -> Any:
        raise ZeroDivisionError("division by zero")

    monkeypatch.setitem(module._OF_COLUMNS, check, fails)  # type: ignore[misc]
    text = f"level = 'block'\n[columns.age]\n{check} = 'block'\n"
    others = run(profile(columns(2), scores(2)), text)
    mine = [finding for finding in others if finding.check == check]
    assert {finding.level for finding in mine} == {"warn"}
    about_age = next(finding for finding in mine if finding.column == "age")
    assert about_age.message == f"The check {check} of 'age' could not be made: ZeroDivisionError: division by zero"


def test_damaged_counts_do_not_lose_a_job() -> None:
    broken = replace(BASELINE.columns["age"], histogram=None)  # type: ignore[arg-type]
    found = run(profile(columns(2), scores(2)), baseline=replace(BASELINE, columns={**BASELINE.columns, "age": broken}))
    assert {finding.level for finding in found} == {"warn"}
    assert {finding.column for finding in found} == {"age"}
    assert all("could not be made" in finding.message for finding in found)


def test_a_job_without_rows_raises_no_error() -> None:
    assert run(profile({"age": pa.array([], pa.float64())}), rows=0, baseline=profile({"age": [1.0]})) == []
    assert run_checks(Checks(), counts=RunCounts(rows=0), profile=Profile(), baseline=Profile(), now=NOW) == []
