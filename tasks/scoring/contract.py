"""Finds the rows of a batch that break a rule of the contract, before the model gets them.

A contract is a list of rules (`scoreline.storage.tables.row_rules`). Rules are evaluated on whole columns as they are
read, before they are converted to features:

===================  ========================================================================================
column               rules
===================  ========================================================================================
any type             ``not_null``: null and NaN are missing
integers, decimals   ``min``, ``max``, ``in`` with numbers
floats               likewise; a limit is rounded to the type of the column, so that 0.1 meets ``max = 0.1``
dates, times         ``min``, ``max``, ``in`` with dates or times; a time without a zone counts as UTC; a date
                     stands for all times of its day
text                 ``in``, ``pattern`` (the whole text must match this regular expression of RE2)
booleans             ``in``
===================  ========================================================================================

A missing value breaks only ``not_null``. A row that breaks several rules is rejected for the first of them.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from scoreline.storage.errors import InputError, InvalidRequest
from scoreline.storage.tables.row_rules import RowRule, show
from scoreline.tasks.scoring.rejected_rows import RowsAlike

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_TICKS = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}
"""Ticks per second, by the unit of a column of times."""


class Contract:
    """The rules that each row must meet.

    Parameters
    ----------
    rules : iterable of RowRule
        May be empty.
    """

    def __init__(self, rules: Iterable[RowRule]) -> None:
        self.rules = tuple(rules)

    def check(self, schema: pa.Schema) -> None:
        """Raise `InvalidRequest` if a rule does not fit the type of its column, or if a column is missing."""
        faults = []
        for rule in self.rules:
            if rule.column not in schema.names:
                near = difflib.get_close_matches(rule.column, schema.names, n=1)
                faults.append(
                    f"{rule.column!r} has row rules ({rule}), but it is neither a feature nor a kept column of this "
                    f"job{f' (did you mean {near[0]!r}?)' if near else ''}: keep it (--keep), or correct checks.toml"
                )
                continue
            kind = schema.field(rule.column).type
            try:
                _breaking(pa.nulls(1, kind.value_type if pa.types.is_dictionary(kind) else kind), rule)
            except _DoesNotFit as error:
                faults.append(f"{rule.column!r} is read as {kind}, but the row rule {rule} {error}")
        if faults:
            raise InvalidRequest("; ".join(faults))

    def broken(self, batch: pa.RecordBatch) -> list[RowsAlike]:
        """Return the rows that break a rule, with the column and the rule. No row is in two groups.

        Raises
        ------
        InputError
            A rule does not fit the type of its column, which differs from the type in the first rows of the job.
        """
        found: list[RowsAlike] = []
        left: Any = None
        for rule in self.rules:
            column = batch.column(rule.column)
            try:
                mask = _breaking(column, rule)
            except _DoesNotFit as error:
                raise InputError(
                    f"{rule.column!r} is {column.type} here, but the row rule {rule} {error}: correct the input or "
                    "checks.toml"
                ) from error
            if mask is None:
                continue
            if left is not None:
                mask &= left
            rows = np.flatnonzero(mask)
            if not len(rows):
                continue
            left = ~mask if left is None else left & ~mask
            found.append(_group(rows, column, rule))
        return found


class _DoesNotFit(Exception):
    """Raised if a rule cannot be evaluated on a column of a type."""


def _group(rows: Any, column: pa.Array, rule: RowRule) -> RowsAlike:
    """Return the rows that break one rule. Rows with equal values share a message."""
    if rule.rule == "not_null":
        codes, messages = np.zeros(len(rows), dtype=np.int64), [f"{rule.column!r} is null or NaN, but {_MUST} {rule}"]
    else:
        values = _decode(column.take(pa.array(rows))).dictionary_encode()
        codes = values.indices.to_numpy(zero_copy_only=False).astype(np.int64)
        messages = [f"{rule.column!r} is {show(value)}, but {_MUST} {rule}" for value in values.dictionary.to_pylist()]
    return RowsAlike(rows, codes, "contract", rule.column, messages)


_MUST = "the contract has"


def _breaking(column: pa.Array, rule: RowRule) -> Any:
    """Return the mask of the rows that break a rule; None if no row does.

    Raises `_DoesNotFit` if the type of the column and the rule do not fit, whatever the values are.
    """
    kind = column.type
    if rule.rule == "not_null":
        if not column.null_count and not (pa.types.is_floating(kind) or pa.types.is_dictionary(kind)):
            return None
        return _to_mask(pc.is_null(_decode(column), nan_is_null=True))
    if pa.types.is_null(kind):
        return None
    if pa.types.is_dictionary(kind):
        broken = _breaking(column.dictionary, rule)
        if broken is None:
            return None
        return _to_mask(pa.array(broken, pa.bool_()).take(column.indices))
    if rule.rule == "pattern":
        if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
            raise _DoesNotFit("needs text")
        try:
            return _to_mask(pc.invert(pc.match_substring_regex(column, rf"\A(?:{rule.limit})\z")))
        except pa.ArrowInvalid as error:
            raise _DoesNotFit(f"is not a regular expression of RE2 ({error})") from error
    values, limits = _comparable(column, rule.limit if rule.rule == "in" else (rule.limit,), rule.rule)
    if rule.rule == "in":
        kept = _in(values, limits)
        return _to_mask(pc.and_(pc.invert(kept), pc.invert(pc.is_null(values, nan_is_null=True))))
    (limit,) = limits
    return _outside(values, limit, above=rule.rule == "max")


def _in(values: pa.Array, limits: Sequence[Any]) -> pa.Array:
    """Return whether each value is one of the limits, which may be spans of ticks."""
    single = [limit for limit in limits if not isinstance(limit, tuple)]
    fitting = [limit for limit in single if not pa.types.is_integer(values.type) or _fits(limit, values.type)]
    found = pc.is_in(values, value_set=pa.array(fitting, values.type))
    lowest, highest = np.iinfo(np.int64).min, np.iinfo(np.int64).max
    for first, last in (limit for limit in limits if isinstance(limit, tuple)):
        if last < lowest or first > highest:  # the type of the column cannot hold this day
            continue
        first, last = max(first, lowest), min(last, highest)
        inside = pc.and_(pc.greater_equal(values, first), pc.less_equal(values, last))
        found = pc.or_(found, pc.fill_null(inside, False))
    return found


def _outside(values: pa.Array, limit: Any, *, above: bool) -> Any:
    """Return the mask of the values above (or below) a limit; None if there are none, whatever the values are."""
    kind = values.type
    if pa.types.is_integer(kind):
        limit = math.floor(limit) if above else math.ceil(limit)
        if not _fits(limit, kind):  # all values are on the same side of the limit
            if (limit > 0) == above:
                return None
            return _to_mask(values.is_valid())
    compared = (pc.greater if above else pc.less)(values, pa.scalar(limit, kind))
    return _to_mask(compared)


def _comparable(column: pa.Array, limits: Sequence[Any], rule: str) -> tuple[pa.Array, list[Any]]:
    """Return a column and the limits of a rule in types that can be compared."""
    kind = column.type
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        if not all(type(limit) in (int, float) for limit in limits):
            raise _DoesNotFit("needs numbers" if rule != "in" else "lists values that are not numbers")
        if pa.types.is_integer(kind):
            whole = [int(limit) if rule == "in" and limit == int(limit) else limit for limit in limits]
            return column, [limit for limit in whole if rule != "in" or isinstance(limit, int)]
        wanted = pa.float32() if pa.types.is_float16(kind) else kind if pa.types.is_floating(kind) else pa.float64()
        return column.cast(wanted), [float(limit) for limit in limits]
    if pa.types.is_date(kind) or pa.types.is_timestamp(kind):
        return _times(column, limits, rule)
    if rule == "in" and (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        if not all(isinstance(limit, str) for limit in limits):
            raise _DoesNotFit("lists values that are not text")
        return column, list(limits)
    if rule == "in" and pa.types.is_boolean(kind):
        if not all(isinstance(limit, bool) for limit in limits):
            raise _DoesNotFit("lists values other than true and false")
        return column, list(limits)
    raise _DoesNotFit("does not apply to this type" if rule == "in" else "needs numbers, dates or times")


def _times(column: pa.Array, limits: Sequence[Any], rule: str) -> tuple[pa.Array, list[Any]]:
    """Return a column of dates or times in ticks, and the limits in the same ticks. A day is a span of ticks."""
    kind = column.type
    if not all(isinstance(limit, date) for limit in limits):
        raise _DoesNotFit("needs dates or times")
    if pa.types.is_date(kind):
        if any(isinstance(limit, datetime) for limit in limits):
            raise _DoesNotFit("has a time of day, but the column holds dates")
        days = [(limit - _EPOCH.date()).days for limit in limits]
        return column.cast(pa.date32()).cast(pa.int32()).cast(pa.int64()), days
    per_second = _TICKS[kind.unit]
    ticks: list[Any] = []
    for limit in limits:
        if isinstance(limit, datetime):
            found = _to_ticks(limit, per_second)
            if rule == "in" and found[1]:
                continue  # no value of the column is this exact
            ticks.append(found[0] + (found[1] if rule == "min" else 0))
            continue
        first = (limit - _EPOCH.date()).days * 86_400 * per_second
        last = first + 86_400 * per_second - 1
        ticks.append((first, last) if rule == "in" else first if rule == "min" else last)
    return column.cast(pa.int64()), ticks


def _to_ticks(moment: datetime, per_second: int) -> tuple[int, int]:
    """Return a time in ticks since 1970, rounded down, and 1 if it was rounded; otherwise 0."""
    aware = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
    microseconds = (aware - _EPOCH) // timedelta(microseconds=1)
    whole, rest = divmod(microseconds * per_second, 1_000_000)
    return whole, int(rest > 0)


def _fits(limit: int, kind: pa.DataType) -> bool:
    info = np.iinfo(kind.to_pandas_dtype())
    return bool(info.min <= limit <= info.max)


def _to_mask(broken: pa.Array) -> Any:
    """Return a mask that may be changed. Null becomes False."""
    return np.array(pc.fill_null(broken, False).to_numpy(zero_copy_only=False), dtype=bool)


def _decode(column: pa.Array) -> pa.Array:
    return column.dictionary_decode() if pa.types.is_dictionary(column.type) else column
