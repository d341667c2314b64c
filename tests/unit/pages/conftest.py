"""A deployment with a model and jobs, whose pages the tests open."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression

from scoreline.testing import EagerClient, eager
from tests.support.copies import copy_objects
from tests.support.pages import serving

HOSTILE = "<script>alert(1)</script> & \"quotes' \N{PILE OF POO}"


@pytest.fixture(scope="session")
def deployed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a deployment with two versions of a model, an input and a schedule."""
    folder = tmp_path_factory.mktemp("deployed")
    with eager(folder) as client:
        rows = pd.DataFrame({"age": [1.0, 2.0, 3.0, 4.0], "plan": [0.0, 1.0, 0.0, 1.0]})
        for weight in (1.0, 2.0):
            model = LogisticRegression(C=weight).fit(rows, ["stays", "leaves", "stays", "leaves"])
            client.models.publish("churn", model, alias="champion")
        client.put("in/a.csv", "age,plan\n1,2\n3,4\n5,6\noops,1\n")
        client.put("schedules.toml", SCHEDULES)
    return folder


@pytest.fixture
def client(deployed: Path, tmp_path: Path) -> Iterator[EagerClient]:
    """A client of a deployment of the test alone."""
    copy_objects(deployed, tmp_path)
    with serving(tmp_path) as client:
        yield client


SCHEDULES = """
[nightly]
cron = "30 2 * * *"
model = "churn@champion"
input = "s3://scoreline/in/"
max_rejected = "50%"
"""


@pytest.fixture
def job(client: EagerClient) -> str:
    """The id of a job with results and a rejected row."""
    return client.submit("churn@champion", "s3://scoreline/in/", job_id="scored", max_rejected="50%").job_id
