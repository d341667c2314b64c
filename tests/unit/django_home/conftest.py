"""A project whose rows are jobs, and a client whose jobs run at once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from sklearn.linear_model import LinearRegression

from scoreline.tasks.django import forget
from scoreline.tasks.django.scoring.signals import on_ended
from scoreline.testing import EagerClient, eager
from tests.support.pages import configure_django
from tests.support.shop.project import shop

configure_django()  # the modules of the tests import models

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
HERE = "https://shop.example.org/scoreline/webhook/"


@pytest.fixture
def prediction(tmp_path: Path) -> Iterator[type[Any]]:
    """The model of a project."""
    with shop(tmp_path, WEBHOOK_SECRET=SECRET) as model:
        forget()
        yield model
    forget()


@pytest.fixture
def scoreline(tmp_path: Path, prediction: type[Any]) -> Iterator[EagerClient]:
    """A client with a model that doubles, and an input of three rows, the last of which is rejected."""
    with eager(tmp_path / "store", settings={"WEBHOOK_URL": HERE}) as client:
        client.models.publish(
            "double", LinearRegression().fit(pd.DataFrame({"x": [0.0, 1.0]}), [0.0, 2.0]), alias="champion"
        )
        client.put("in/a.csv", "x\n1\n2\noops\n")
        yield client


@pytest.fixture
def ends(prediction: type[Any]) -> Iterator[list[tuple[str, str, int]]]:
    """The signals that were sent: job id, state and run."""
    got: list[tuple[str, str, int]] = []

    def hear(sender: type[Any], instance: Any, **_: Any) -> None:
        assert sender is prediction
        got.append((instance.job_id, instance.state, instance.run))

    on_ended.connect(hear, sender=prediction)
    yield got
    on_ended.disconnect(hear, sender=prediction)
