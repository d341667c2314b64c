from __future__ import annotations

import math
from collections.abc import Callable
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from sklearn.linear_model import LinearRegression

from scoreline.storage.errors import InputError, InvalidRequest, RejectBudgetExceeded
from scoreline.storage.tables.row_rules import RowRule, encode
from scoreline.tasks.scoring.contract import Contract
from scoreline.tasks.scoring.rejected_rows import RejectedRows
from scoreline.tasks.scoring.score import Scored, score_batch
from tests.support.bundles import bundle


def rule(name: Any, value: Any = None, column: str = "x") -> RowRule:
    return RowRule(column=column, rule=name, value=encode(value))


def broken(values: pa.Array, *rules: RowRule) -> list[int]:
    found = Contract(rules).broken(pa.record_batch({"x": values}))
    return list(RejectedRows.joined(found))


BIG = 2**53
NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)
CASES: dict[str, tuple[pa.Array, RowRule, list[int]]] = {
    "integers below": (pa.array([1, None, -1]), rule("min", 0), [2]),
    "integers above": (pa.array([120, None, 121]), rule("max", 120), [2]),
    "a limit between integers": (pa.array([0, 1, 2]), rule("min", 0.5), [0]),
    "a limit between integers, above": (pa.array([0, 1, 2]), rule("max", 1.5), [2]),
    "integers that float64 cannot tell apart": (pa.array([BIG, BIG + 1]), rule("max", BIG), [1]),
    "unsigned integers and a negative minimum": (pa.array([0, 2**64 - 1], pa.uint64()), rule("min", -5), []),
    "a maximum below every value of the type": (pa.array([0, None, 7], pa.uint8()), rule("max", -1), [0, 2]),
    "a maximum above every value of the type": (pa.array([0, 255], pa.uint8()), rule("max", 1000), []),
    "a minimum above every value of the type": (pa.array([0, 255], pa.uint8()), rule("min", 1000), [0, 1]),
    "floats and NaN": (pa.array([0.5, math.nan, None, -0.1, math.inf]), rule("min", 0), [3]),
    "infinite values": (pa.array([math.inf, -math.inf, 1.0]), rule("max", 1e300), [0]),
    "float32 at its own limit": (pa.array([0.1, 0.2], pa.float32()), rule("max", 0.1), [1]),
    "float16": (pa.array(np.array([1.0, 3.0], np.float16)), rule("max", 2), [1]),
    "decimals": (pa.array([Decimal("1.10"), Decimal("1.11")]), rule("max", 1.1), [1]),
    "numbers in a list": (pa.array([1, 2, None, 300]), rule("in", [1, 300.0]), [1]),
    "a list that the type cannot hold": (pa.array([1, 2], pa.int8()), rule("in", [1, 300, 0.5]), [1]),
    "floats in a list": (pa.array([0.5, math.nan, 1.0]), rule("in", [0.5]), [2]),
    "texts in a list": (pa.array(["DE", "", None, "XX"]), rule("in", ["DE", "AT"]), [1, 3]),
    "categories in a list": (pa.array(["DE", "XX", None, "DE"]).dictionary_encode(), rule("in", ["DE"]), [1]),
    "categories without a value": (pa.array(["DE", None]).dictionary_encode(), rule("not_null"), [1]),
    "large texts": (pa.array(["a", "b"], pa.large_string()), rule("in", ["a"]), [1]),
    "booleans in a list": (pa.array([True, False, None]), rule("in", [True]), [1]),
    "the whole text matches": (pa.array(["AB1", "xAB1", "AB1\n", None]), rule("pattern", "[A-Z]+1"), [1, 2]),
    "either of two patterns": (pa.array(["a", "b", "ab"]), rule("pattern", "a|b"), [2]),
    "categories match": (pa.array(["a", "zz", "a"]).dictionary_encode(), rule("pattern", "a"), [1]),
    "nulls": (pa.array([1, None]), rule("not_null"), [1]),
    "NaN is missing": (pa.array([1.0, math.nan, None]), rule("not_null"), [1, 2]),
    "a column of nulls": (pa.nulls(2), rule("min", 0), []),
    "nothing but nulls": (pa.nulls(2), rule("not_null"), [0, 1]),
    "lists": (pa.array([[1], None]), rule("not_null"), [1]),
    "dates": (pa.array([date(2025, 12, 31), date(2026, 1, 1), None]), rule("min", date(2026, 1, 1)), [0]),
    "dates in milliseconds": (pa.array([date(2026, 1, 2)], pa.date64()), rule("max", date(2026, 1, 1)), [0]),
    "a date ends with its day": (
        pa.array([datetime(2026, 1, 1, 23, 59, 59), datetime(2026, 1, 2)]),
        rule("max", date(2026, 1, 1)),
        [1],
    ),
    "a date begins with its day": (pa.array([datetime(2026, 1, 1), NOON]), rule("min", date(2026, 1, 2)), [0]),
    "a day in a list": (pa.array([datetime(2026, 1, 1), NOON, None]), rule("in", [date(2026, 1, 2)]), [0]),
    "times with a zone": (pa.array([NOON], pa.timestamp("us", "UTC")), rule("max", datetime(2026, 1, 2, 11, 59)), [0]),
    "a limit with a zone": (
        pa.array([NOON], pa.timestamp("ms", "UTC")),
        rule("min", datetime.fromisoformat("2026-01-02T13:00:00+01:00")),
        [],
    ),
    "a minimum between two ticks": (
        pa.array([NOON], pa.timestamp("s", "UTC")),
        rule("min", NOON.replace(microsecond=1)),
        [0],
    ),
    "a maximum between two ticks": (
        pa.array([NOON], pa.timestamp("s", "UTC")),
        rule("max", NOON.replace(microsecond=1)),
        [],
    ),
    "no nanosecond is in the year 9000": (
        pa.array([NOON], pa.timestamp("ns", "UTC")),
        rule("in", [date(9000, 1, 1), date(2026, 1, 2)]),
        [],
    ),
    "a maximum that nanoseconds cannot hold": (pa.array([NOON], pa.timestamp("ns")), rule("max", date(9000, 1, 1)), []),
    "times before 1970": (pa.array([datetime(1969, 12, 31, 23)]), rule("min", datetime(1970, 1, 1)), [0]),
}


@pytest.mark.parametrize("case", CASES)
def test_a_rule_is_broken_by_exactly_these_rows(case: str) -> None:
    values, given, rows = CASES[case]
    assert broken(values, given) == rows


@pytest.mark.parametrize("case", CASES)
def test_a_rule_fits_its_column_and_a_slice_of_the_column(case: str) -> None:
    values, given, rows = CASES[case]
    Contract([given]).check(pa.schema([("x", values.type)]))
    assert broken(values.slice(1), given) == [row - 1 for row in rows if row]
    assert broken(values.slice(0, 0), given) == []


@pytest.mark.parametrize(
    ("kind", "given", "message"),
    [
        (pa.string(), rule("min", 0), "'x' is read as string, but the row rule min = 0 needs numbers, dates or times"),
        (pa.int64(), rule("min", date(2026, 1, 1)), "min = 2026-01-01 needs numbers"),
        (pa.int64(), rule("in", ["a"]), "lists values that are not numbers"),
        (pa.string(), rule("in", [1]), "lists values that are not text"),
        (pa.bool_(), rule("in", [1]), "lists values other than true and false"),
        (pa.date32(), rule("max", 5), "needs dates or times"),
        (pa.date32(), rule("max", NOON), "has a time of day, but the column holds dates"),
        (pa.int64(), rule("pattern", "a"), "needs text"),
        (pa.string(), rule("pattern", "(?=a)"), "is not a regular expression of RE2"),
        (pa.dictionary(pa.int8(), pa.string()), rule("pattern", "(?=a)"), "is not a regular expression of RE2"),
        (pa.list_(pa.int64()), rule("in", [1]), "does not apply to this type"),
        (pa.float64(), rule("not_null", column="y"), "'y' has row rules (not_null), but it is neither a feature nor"),
        (
            pa.float64(),
            rule("not_null", column="xx"),
            "of this job (did you mean 'x'?): keep it (--keep)",
        ),
    ],
)
def test_a_rule_that_does_not_fit_its_column_is_refused_before_the_job(
    kind: pa.DataType, given: RowRule, message: str
) -> None:
    with pytest.raises(InvalidRequest) as error:
        Contract([given]).check(pa.schema([("x", kind)]))
    assert message in str(error.value)


def test_all_rules_that_do_not_fit_are_named_at_once() -> None:
    with pytest.raises(InvalidRequest, match=r"'x'.*min = 0.*'x'.*max = 9"):
        Contract([rule("min", 0), rule("max", 9)]).check(pa.schema([("x", pa.string())]))


def test_a_column_with_another_type_in_a_later_object_is_an_error_that_names_column_and_rule() -> None:
    with pytest.raises(InputError, match="'x' is string here, but the row rule min = 0 needs numbers"):
        broken(pa.array(["a"]), rule("min", 0))


@pytest.mark.parametrize(
    ("name", "value"),
    [("min", "a"), ("min", True), ("max", None), ("in", []), ("in", [[1]]), ("in", 5), ("pattern", 5), ("not_null", 1)],
)
def test_a_rule_refuses_a_value_that_does_not_fit(name: Any, value: Any) -> None:
    with pytest.raises(ValueError, match="does not fit the rule"):
        rule(name, value)


def test_a_row_is_rejected_for_the_first_rule_that_it_breaks_with_column_and_rule() -> None:
    batch = pa.record_batch({"age": [7, None, 143, -3, 143], "country": ["DE", "XX", "XX", "DE", "DE"]})
    contract = Contract(
        [
            rule("not_null", column="age"),
            rule("max", 120, column="age"),
            rule("min", 0, column="age"),
            rule("in", ["DE", "AT"], column="country"),
        ]
    )
    found = RejectedRows.joined(contract.broken(batch))
    assert {row: (why.stage, why.column, why.message) for row, why in found.items()} == {
        1: ("contract", "age", "'age' is null or NaN, but the contract has not_null"),
        2: ("contract", "age", "'age' is 143, but the contract has max = 120"),
        3: ("contract", "age", "'age' is -3, but the contract has min = 0"),
        4: ("contract", "age", "'age' is 143, but the contract has max = 120"),
    }
    assert len(found) == 4, "a row that breaks several rules is rejected once"
    assert len(set(found.messages)) == len(found.messages), "rows with equal values share a message"


def test_a_message_shows_the_beginning_of_a_long_value_and_of_a_long_list() -> None:
    batch = pa.record_batch({"x": ["y" * 500]})
    (group,) = Contract([rule("in", list("abcdefgh"))]).broken(batch)
    (message,) = group.messages
    assert message == f"'x' is '{'y' * 59}…', but the contract has in = ['a', 'b', 'c', 'd', 'e', …]"


class Recording(LinearRegression):
    """Records what it is asked to score."""

    def predict(self, X: Any) -> Any:
        seen.append(np.asarray(X).copy())
        if (np.asarray(X)[:, 0] == 13).any():
            raise ValueError("13 cannot be scored")
        return super().predict(X)


seen: list[Any] = []


def score(batch: pa.RecordBatch, *rules: RowRule, **more: Any) -> Scored:
    seen.clear()
    model = Recording().fit(np.array([[0.0, 0.0], [1.0, 1.0]]), [0.0, 1.0])
    return score_batch(
        bundle(model), batch, features=["a", "b"], keep=["k"], method=None, contract=Contract(rules), **more
    )


BATCH = pa.record_batch(
    {"a": [0.0, 500.0, 2.0, 13.0, 4.0], "b": [1.0, 1.0, 1.0, 1.0, None], "k": ["u", "v", "DE", "x", "DE"]}
)


def test_the_model_does_not_get_the_rows_that_break_a_rule() -> None:
    done = score(BATCH.slice(0, 3), rule("max", 100, column="a"))
    assert [x.tolist() for x in seen] == [[[0.0, 1.0], [2.0, 1.0]]]
    assert done.table["k"].to_pylist() == ["u", "DE"]
    assert list(done.rejected) == [1]


def test_rows_keep_their_numbers_beside_rows_that_the_model_refuses() -> None:
    done = score(BATCH, rule("max", 100, column="a"), rule("in", ["u", "v", "x", "DE"], column="k"))
    assert {row: why.stage for row, why in done.rejected.items()} == {1: "contract", 3: "predict", 4: "schema"}
    assert done.table["k"].to_pylist() == ["u", "DE"]


def test_rules_apply_to_kept_columns_and_to_all_rows() -> None:
    done = score(BATCH, rule("in", ["nowhere"], column="k"))
    assert len(done.rejected) == 5
    assert (done.table.num_rows, seen) == (0, [])


def test_a_contract_without_rules_changes_nothing() -> None:
    plain = score(BATCH)
    assert {row: why.stage for row, why in plain.rejected.items()} == {3: "predict", 4: "schema"}


def over(count: int) -> Callable[[int], bool]:
    return lambda rows: rows >= count


@pytest.mark.parametrize(
    ("limits", "first"),
    [
        ({"max_rejected": 0}, "row 1 of a batch of 5: 'a' is 500.0, but the contract has max = 100"),
        ({"max_rejected": 2}, "more than 2 rows were rejected"),
        ({"report": over(3)}, "3 rows were rejected"),
        ({"report": over(1)}, "1 rows were rejected. The first is row 1 of a batch of 5"),
        ({"max_rejected": 1}, "The first is row 3 of a batch of 5: "),
        ({"report": over(2)}, "2 rows were rejected. The first is row 3 of a batch of 5: "),
        ({"max_rejected": 0, "describe_row": "s3://b/in.csv, row {}".format}, "s3://b/in.csv, row 1: 'a' is 500.0"),
        ({"max_rejected": 1, "describe_row": "s3://b/in.csv, row {}".format}, "s3://b/in.csv, row 3: "),
    ],
)
def test_rows_that_break_a_rule_count_against_the_budget(limits: dict[str, Any], first: str) -> None:
    with pytest.raises(RejectBudgetExceeded) as error:
        score(BATCH, rule("max", 100, column="a"), **limits)
    assert first in str(error.value)
    assert len(score(BATCH, rule("max", 100, column="a"), max_rejected=3, report=over(4)).rejected) == 3
