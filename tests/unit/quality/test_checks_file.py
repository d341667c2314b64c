from __future__ import annotations

from datetime import date
from typing import Any

import pytest

from scoreline.storage.errors import InvalidRequest
from scoreline.storage.tables.row_rules import RowRule
from scoreline.tasks.quality.checks.check_types import Checks
from scoreline.tasks.quality.checks.checks_file import MAX_BYTES, decode, parse, read_checks
from scoreline.tasks.quality.checks.checks_of import check_text, checks_of

SOUND = """\
level = "block"          # of every check that does not say otherwise

[rows]
min = 1_000
fall = "50%"
rise = false

[rejects]
max = "0.5%"
level = "warn"

[freshness]
max_age = "1d12h"

[drift]
psi = 0.25

[columns]
age = {min = 0, max = 120, not_null = true, drift = {psi = 0.1, level = "warn"}}
"home country" = {in = ["DE", "AT"], kept = true}

[columns.opened]
min = 2020-01-01
level = "off"

[columns.prediction]
classes = {change = "10%"}
mean = "off"

[promote]
auc = {min = 0.8, drop = 0.01}
"""
FEATURES = ("age", "opened", "income")
OUTPUTS = ("prediction", "proba_1")


def test_every_key_is_read_and_missing_ones_have_defaults() -> None:
    checks = read_checks(SOUND, features=FEATURES, outputs=OUTPUTS)
    rows, rejects = checks.table["rows"], checks.table["rejects"]
    assert (rows.level, dict(rows.limits)) == ("block", {"min": 1000.0, "fall": 0.5})
    assert (rejects.level, dict(rejects.limits)) == ("warn", {"max": 0.005, "rise": 0.005})
    assert checks.table["freshness"].limit("max_age") == 36 * 3600
    assert checks.table["nulls"].level == "block"
    assert (checks.of("drift").limit("psi"), checks.of("drift", "income").limit("psi")) == (0.25, 0.25)
    age = checks.of("drift", "age")
    assert (age.level, age.limit("psi"), age.limit("ks")) == ("warn", 0.1, 0.1)
    assert {checks.of(name, "opened").level for name in ("nulls", "outside", "drift")} == {"off"}
    assert (checks.of("mean", "prediction").level, checks.of("classes", "prediction").limit("change")) == ("off", 0.1)
    assert checks.rules == (
        RowRule(column="age", rule="not_null"),
        RowRule(column="age", rule="min", value=0),
        RowRule(column="age", rule="max", value=120),
        RowRule(column="home country", rule="in", value=["DE", "AT"]),
        RowRule(column="opened", rule="min", value={"date": "2020-01-01"}),
    )
    assert checks.rules[-1].limit == date(2020, 1, 1)
    assert checks.kept == ("home country",)
    assert [(rule.metric, dict(rule.limits)) for rule in checks.promote] == [("auc", {"min": 0.8, "drop": 0.01})]
    assert set(checks.named) == {"age", "home country", "opened", "prediction"}


def test_without_a_text_checks_warn_and_never_block() -> None:
    for checks in (Checks(), read_checks("")):
        assert {check.level for check in checks.table.values()} == {"warn"}
        assert (checks.rules, checks.columns) == ((), {})


def test_none_switches_everything_off() -> None:
    assert {check.level for check in read_checks(" none\n").table.values()} == {"off"}


@pytest.mark.parametrize(
    ("old", "new", "line", "message"),
    [
        ("[rejects]", "[reject]", 8, "unknown table or key 'reject'; did you mean 'rejects'?"),
        ('level = "block"  ', 'level = "blok"  ', 1, "unknown level 'blok'; did you mean 'block'?"),
        ('level = "warn"\n', 'level = "loud"\n', 10, "unknown level 'loud'; known are off, warn, block"),
        ('level = "warn"\n', "level = 3\n", 10, "unknown level 3; choose one of off, warn, block"),
        ("min = 1_000", "mim = 1_000", 4, "unknown key 'mim' of rows; did you mean 'min'?"),
        ("min = 1_000", "min = -1", 4, "min = -1 is not a whole number of at least 0"),
        ("min = 1_000", "min = true", 4, "min = True is not a whole number"),
        ('fall = "50%"', "fall = 0.5", 5, 'fall = 0.5 is not a percentage such as "5%"'),
        ('fall = "50%"', 'fall = "150%"', 5, "is not a percentage of at most 100%"),
        ('max_age = "1d12h"', 'max_age = "soon"', 13, "max_age = 'soon' is not a duration such as"),
        ("psi = 0.25", "psi = -0.25", 16, "psi = -0.25 is not a number of at least 0"),
        ("psi = 0.25", "psi = nan", 16, "psi = nan is not a number"),
        ("psi = 0.25", "rsi = 0.25", 16, "unknown key 'rsi' of drift; did you mean 'psi'?"),
        ("[drift]\npsi = 0.25", "drift = 5", 15, "unknown key 'drift' of freshness"),
        ("age = {min = 0", "aeg = {min = 0", 19, "unknown column 'aeg'; did you mean 'age'? If it is a column"),
        ("age = {min = 0", "age = {least = 0", 19, "unknown key 'least'"),
        ("age = {min = 0", "age = {freshness = 0", 19, "'freshness' is a check of the whole job, not of a column"),
        ("age = {min = 0", 'age = {min = "0"', 19, "min = '0' is not a number, a date or a time"),
        ("age = {min = 0", "age = {min = true", 19, "min = True is not a number, a date or a time"),
        ("age = {min = 0", "age = {min = 00:00:00", 19, "is not a number, a date or a time"),
        ("age = {min = 0", "age = {min = 121", 19, "max = 120 is below min = 121"),
        ("age = {min = 0", "age = {min = 2020-01-01", 19, "min and max are of different types"),
        ("not_null = true", "not_null = 1", 19, "not_null = 1 is neither true nor false"),
        ('in = ["DE", "AT"]', "in = []", 20, "in = [] is not a list of texts, numbers, dates or booleans"),
        ('in = ["DE", "AT"]', 'in = "DE"', 20, "in = 'DE' is not a list of texts"),
        ('in = ["DE", "AT"]', "in = [[1]]", 20, "is not a list of texts"),
        ('in = ["DE", "AT"]', 'pattern = "["', 20, "pattern is not a regular expression"),
        ("kept = true", 'kept = "yes"', 20, "kept = 'yes' is neither true nor false"),
        ("kept = true", "kept = false", 20, "unknown column 'home country'"),
        ("min = 2020-01-01", "min = 2020-13-01", 23, "this is not TOML"),
        ('mean = "off"', "min = 0", 28, "'prediction' is an output, and row rules (min) are for features and kept"),
        ('mean = "off"', "mean = 5", 28, "columns.prediction.mean = 5 is neither a table nor one of off, warn, block"),
        ("auc = {min", "acu = {min", 31, "unknown metric 'acu'; did you mean 'auc'?"),
        ("drop = 0.01", "drop = -1", 31, "drop = -1 is not a number of at least 0"),
        ("drop = 0.01", "least = 1", 31, "unknown key 'least' of auc; known are min, max, drop, rise"),
        ("auc = {min = 0.8, drop = 0.01}", "auc = 0.8", 31, "auc = 0.8 is not a table such as"),
        ("auc = {min", "aliases = []\nauc = {min", 31, "aliases = [] is not a list of names"),
        ("auc = {min", "require_baseline = 1\nauc = {min", 31, "require_baseline = 1 is neither true nor false"),
        ("auc = {min", "max_flips = 5\nauc = {min", 31, "max_flips = 5 is not a percentage"),
        ("auc = {min", "min_rank_correlation = 2\nauc = {min", 31, "2 is not a number from -1 to 1"),
        ("auc = {min", "max_flip = '5%'\nauc = {min", 31, "unknown metric 'max_flip'; did you mean 'max_flips'?"),
        ("[columns.opened]\nmin = 2020-01-01", "[[columns.opened]]\nmin = 2020-01-01", 22, "is not a table, such as"),
    ],
)
def test_a_fault_is_reported_with_its_line(old: str, new: str, line: int, message: str) -> None:
    assert SOUND.count(old) == 1
    faults = parse(SOUND.replace(old, new), features=FEATURES, outputs=OUTPUTS).faults
    assert any(fault.line == line and message in fault.message for fault in faults), [str(fault) for fault in faults]


def test_all_faults_are_reported_at_once_in_order_of_their_lines() -> None:
    text = SOUND.replace("psi = 0.25", "rsi = 1").replace("min = 1_000", "min = 0.5").replace("auc", "acu")
    with pytest.raises(InvalidRequest) as error:
        read_checks(text, "checks/churn.toml")
    first, *rest = str(error.value).splitlines()
    assert first == "checks/churn.toml has 3 faults:"
    assert [line.split(":")[0] for line in rest] == ["  line 4", "  line 16", "  line 31"]


def test_columns_of_the_input_need_no_mark_while_the_model_is_not_known() -> None:
    assert parse("[columns]\nanything = {not_null = true}\n").faults == ()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("columns = 5", "columns is not a table"),
        ("promote = 5", "promote is not a table"),
        ("[rows]\nmin = 5\nmax = 4", "max of rows is below its min"),
        ("a = " + "[" * 5000, "this is not TOML"),
        ("#" * (MAX_BYTES + 1), "more than 100,000 bytes"),
    ],
)
def test_a_text_of_another_form_is_one_fault(text: str, message: str) -> None:
    (fault,) = parse(text).faults
    assert message in fault.message


def test_a_file_that_is_too_large_or_no_text_is_named() -> None:
    with pytest.raises(InvalidRequest, match=r"c\.toml has 100,001 bytes, but checks may have at most 100,000"):
        decode(b"#" * 100_001, "c.toml")
    with pytest.raises(InvalidRequest, match=r"c\.toml is not UTF-8"):
        decode(b"\xff", "c.toml")
    assert decode("\ufeff# ü".encode()) == "# ü"


def test_the_checks_of_a_job_come_before_those_of_its_model() -> None:
    published: list[Any] = []

    def read() -> bytes | None:
        published.append(None)
        return b"[rows]\nmin = 7\n"

    assert checks_of("[rows]\nmin = 5\n", read, "churn@v").table["rows"].limit("min") == 5
    assert checks_of("none", read, "churn@v").table["rows"].level == "off"
    assert not published, "the version is not read in vain"
    assert checks_of(None, read, "churn@v").table["rows"].limit("min") == 7
    assert checks_of(None, lambda: None, "churn@v") == Checks()
    with pytest.raises(InvalidRequest, match=r"checks\.toml of churn@v has 1 fault:\n  line 1: unknown table"):
        checks_of(None, lambda: b"x = 1", "churn@v")
    for text in (None, "none", "", SOUND):
        check_text(text)
    with pytest.raises(InvalidRequest, match="the text of the checks has 1 fault"):
        check_text("x = 1")
    with pytest.raises(InvalidRequest, match="is not a text"):
        check_text(5)  # type: ignore[arg-type]
