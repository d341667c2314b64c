"""Data with known changes, for `bench_detection`: every set is made from a seed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from sklearn.datasets import load_breast_cancer, load_diabetes

SHIFTS = (0.1, 0.2, 0.3, 0.5, 1.0)
NULLS = (0.01, 0.05, 0.2)


def synthetic(generator: np.random.Generator, rows: int) -> pd.DataFrame:
    """Return customers: normal, skewed, counted and categorical columns, and a score with a class."""
    age = generator.normal(45, 12, rows)
    income = np.exp(generator.normal(8, 0.8, rows))
    logit = (age - 45) / 12 + generator.normal(0, 1, rows) - 1
    return pd.DataFrame(
        {
            "age": age,
            "income": income,
            "visits": generator.poisson(3, rows),
            "balance": np.where(generator.random(rows) < 0.4, 0.0, generator.gamma(2, 500, rows)),
            "country": generator.choice(["DE", "AT", "CH", "FR", "IT"], rows, p=[0.5, 0.2, 0.15, 0.1, 0.05]),
            "channel": generator.choice(["web", "shop", "phone"], rows, p=[0.6, 0.3, 0.1]),
            "score": 1 / (1 + np.exp(-logit)),
        }
    )


def _from(frame: pd.DataFrame) -> Callable[[np.random.Generator, int], pd.DataFrame]:
    def draw(generator: np.random.Generator, rows: int) -> pd.DataFrame:
        return frame.iloc[generator.integers(0, len(frame), rows)].reset_index(drop=True)

    return draw


def data_sets() -> Mapping[str, Callable[[np.random.Generator, int], pd.DataFrame]]:
    """Return functions that draw rows: made ones, and two real sets from which rows are drawn with replacement."""
    cancer = load_breast_cancer(as_frame=True).data.iloc[:, :10]
    cancer["score"] = 1 / (1 + np.exp((cancer["mean radius"] - cancer["mean radius"].mean()) / 2))
    diabetes = load_diabetes(as_frame=True, scaled=False).data
    diabetes["sex"] = diabetes["sex"].map({1.0: "a", 2.0: "b"})
    diabetes["score"] = diabetes["bmi"] * 5 + diabetes["bp"]
    return {"customers": synthetic, "breast cancer": _from(cancer), "diabetes": _from(diabetes)}


@dataclass(frozen=True, kw_only=True)
class Change:
    """A change of the data."""

    name: str
    apply: Callable[[pd.DataFrame, np.random.Generator], pd.DataFrame]
    columns: tuple[str, ...] = ()
    """The columns that change; empty if the number of rows does."""


def changes(frame: pd.DataFrame) -> list[Change]:
    """Return the changes of a data set: of its first two numeric columns, of a category, of its score and its rows."""
    numeric = [name for name in frame.columns if frame[name].dtype.kind == "f" and name != "score"]
    first, second = numeric[:2]
    texts = [name for name in frame.columns if frame[name].dtype.kind not in "fi"]

    def shifted(by: float) -> Change:
        return Change(
            name=f"{by:g} sd shift",
            columns=(first,),
            apply=lambda x, _: x.assign(**{first: x[first] + by * x[first].std()}),
        )

    def with_nulls(share: float) -> Change:
        return Change(
            name=f"{share:.0%} nulls",
            columns=(first,),
            apply=lambda x, g: x.assign(**{first: x[first].mask(g.random(len(x)) < share)}),
        )

    found = [*map(shifted, SHIFTS), *map(with_nulls, NULLS)]
    if texts:
        found.append(
            Change(
                name="new category, 1%",
                columns=(texts[0],),
                apply=lambda x, g: x.assign(**{texts[0]: x[texts[0]].mask(g.random(len(x)) < 0.01, "new")}),
            )
        )
    found += [
        Change(name="unit x 1000", columns=(first,), apply=lambda x, _: x.assign(**{first: x[first] * 1000})),
        Change(
            name="columns swapped",
            columns=(first, second),
            apply=lambda x, _: x.assign(**{first: x[second], second: x[first]}),
        ),
        Change(name="class prior moved", columns=("score",), apply=_prior),
        Change(name="rows duplicated", apply=lambda x, _: pd.concat([x, x], ignore_index=True)),
        Change(name="half missing", apply=lambda x, _: x.iloc[: len(x) // 2]),
    ]
    return found


def _prior(frame: pd.DataFrame, generator: np.random.Generator) -> pd.DataFrame:
    """Move a tenth of the scores to the upper tenth."""
    high = frame["score"].quantile(0.9)
    return frame.assign(score=frame["score"].mask(generator.random(len(frame)) < 0.1, high))
