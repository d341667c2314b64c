"""A model that says which customers leave, and inputs that are like its training data, or have drifted away."""

from __future__ import annotations

import numpy as np
import pandas as pd
from sklearn.compose import make_column_transformer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from scoreline.testing import EagerClient

FEATURES = ["age", "income", "tenure_months", "visits", "balance", "country", "plan", "is_member"]
CHECKS = """\
[drift]
level = "block"
psi = 0.25
[columns.age]
min = 18
max = 110
"""


def customers(seed: int, rows: int = 4_000) -> pd.DataFrame:
    """Return customers with whole, skewed, zero-inflated, categorical and boolean columns, and whether they left."""
    chance = np.random.default_rng(seed)
    age = chance.normal(45, 13, rows).clip(18, 95).round()
    tenure = chance.exponential(30, rows).round(1)
    frame = pd.DataFrame(
        {
            "customer": [f"C{seed}{number:06}" for number in range(rows)],
            "region": chance.choice(["north", "south", "east", "west"], rows, p=[0.4, 0.3, 0.2, 0.1]),
            "age": age,
            "income": np.exp(chance.normal(10.3, 0.6, rows)).round(2),
            "tenure_months": tenure,
            "visits": chance.poisson(3, rows),
            "balance": np.where(chance.random(rows) < 0.35, 0.0, chance.gamma(2, 900, rows)).round(2),
            "country": chance.choice(["DE", "AT", "CH", "FR", "IT", "NL"], rows, p=[0.46, 0.2, 0.14, 0.1, 0.06, 0.04]),
            "plan": chance.choice(["basic", "plus", "pro"], rows, p=[0.6, 0.3, 0.1]),
            "is_member": chance.random(rows) < 0.4,
        }
    )
    logit = (45 - age) / 15 - tenure / 40 + chance.normal(0, 1, rows)
    frame["left"] = np.where(logit > -0.5, "leaves", "stays")
    return frame


def drifted(seed: int, rows: int = 4_000) -> pd.DataFrame:
    """Return customers 25 years older, incomes in cents, a new country, and some visits that are unknown or broken."""
    frame = customers(seed, rows)
    chance = np.random.default_rng(seed + 1)
    frame["age"] += 25
    frame["income"] *= 100
    frame["country"] = np.where(chance.random(rows) < 0.12, "PL", frame["country"])
    frame["visits"] = frame["visits"].where(chance.random(rows) > 0.02)
    return frame


def publish(client: EagerClient, checks: str = CHECKS) -> str:
    """Publish the model with a baseline and checks, and return its reference."""
    train = customers(1)
    steps = make_column_transformer(
        (StandardScaler(), ["age", "income", "tenure_months", "visits", "balance"]),
        (OneHotEncoder(handle_unknown="ignore"), ["country", "plan", "is_member"]),
    )
    model = make_pipeline(steps, LogisticRegression()).fit(train[FEATURES], train["left"])
    client.models.publish("churn", model, baseline=train, target="left", attachments={"checks.toml": checks.encode()})
    return "churn"
