"""A missing value is tried in the call of the rows that are expected to be refused, and is then explained."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from sklearn.linear_model import LinearRegression

from scoreline.tasks.scoring.non_finite import Trials
from scoreline.tasks.scoring.probe import Probe
from scoreline.tasks.scoring.refusals import Confirmed

NAN = np.nan
SOUND = pd.DataFrame({"a": [1.0, 2.0, 3.0, 4.0], "b": [1.0, 3.0, 2.0, 5.0]})


def probe(
    rows: pd.DataFrame, refused: list[int], others: list[int], *, in_frame: bool = True
) -> tuple[Trials, Probe | None]:
    model = LinearRegression().fit(SOUND if in_frame else SOUND.to_numpy(), [1.0, 2.0, 3.0, 4.0])
    batch = pa.RecordBatch.from_pandas(rows, preserve_index=False)

    def score(row: pa.RecordBatch) -> Any:
        raise AssertionError("a single row was scored")

    trials = Trials(score=score, batch=batch, features=["a", "b"], scored=others[0] if others else None)
    x = rows if in_frame else rows.to_numpy()
    return trials, Probe.of(trials, x, model.predict, np.array(refused, dtype=int), np.array(others, dtype=int))


@pytest.mark.parametrize("in_frame", [True, False])
def test_the_error_of_the_check_that_refuses_the_probe_explains_the_value(in_frame: bool) -> None:
    rows = SOUND.assign(b=[1.0, NAN, 2.0, NAN])
    trials, made = probe(rows, [1, 3], [0, 2], in_frame=in_frame)
    assert made is not None
    (refused,) = made.ask(np.array([1, 3]))
    assert refused.rows.tolist() == [0, 1]
    # Then the batch is unchanged, and the value is explained as soon as the check is confirmed
    assert rows.equals(SOUND.assign(b=[1.0, NAN, 2.0, NAN]))
    made.explain(trials, {})
    assert trials.known == {}
    made.explain(trials, {refused.check: Confirmed(line="ValueError: NaN", quotes=True)})
    assert trials.with_values(["b"], 1) == "ValueError: NaN"


def test_a_probe_that_alone_is_refused_condemns_no_row() -> None:
    _, made = probe(SOUND.assign(b=[1.0, NAN, 2.0, 3.0]), [1], [0, 2, 3])
    assert made is not None
    assert made.ask(np.array([2, 3])) == []


@pytest.mark.parametrize(
    ("rows", "refused", "others"),
    [
        (SOUND, [1], [0]),
        (SOUND.assign(b=[1.0, NAN, 2.0, 3.0]), [1], []),
        (SOUND.assign(b=[1.0, NAN, 2.0, 3.0]), [], [0]),
        (SOUND.assign(a=[NAN, 1.0, 2.0, 3.0], b=[1.0, NAN, 2.0, 3.0]), [1], [0]),
        (SOUND.assign(a=[1.0, 2.0, NAN, 3.0], b=[1.0, NAN, 2.0, 3.0]), [1, 2], [0]),
        (SOUND.assign(a=[1, 2, 3, 4], b=[1.0, NAN, 2.0, 3.0]), [1], [0]),
        (SOUND.assign(b=pd.Series(["a", None, "b", "c"], dtype=object)), [1], [0]),
    ],
    ids=["none missing", "no sound row", "none expected", "base missing", "two features", "integers", "texts"],
)
def test_there_is_no_probe_if_it_would_not_tell_what_a_single_row_tells(
    rows: pd.DataFrame, refused: list[int], others: list[int]
) -> None:
    assert probe(rows, refused, others)[1] is None
