"""Reports of a job like its baseline, and of one whose input has drifted away from it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from scoreline.tasks.quality.report.facts import Report
from scoreline.testing import EagerClient, eager
from tests.support.churn import customers, drifted, publish

SOUND, DRIFTED = "churn-sound", "churn-drifted"


@pytest.fixture(scope="module")
def churn(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EagerClient]:
    """Both jobs have ended. The second one is blocked, and has rejected rows."""
    with eager(tmp_path_factory.mktemp("churn")) as client:
        publish(client)
        for job_id, frame in ((SOUND, customers(2, 2_000)), (DRIFTED, drifted(3, 2_000))):
            uri = client.put(f"in/{job_id}.parquet", frame.drop(columns="left"))
            client.submit(
                "churn",
                uri,
                job_id=job_id,
                output="s3://scoreline/churn/",
                keep="customer,region",
                segment="region",
                max_rejected="10%",
                part_rows=500,
                labels={"team": "retention"},
            )
        yield client


@pytest.fixture(scope="module")
def sound(churn: EagerClient) -> Report:
    return churn.report(SOUND)


@pytest.fixture(scope="module")
def blocked(churn: EagerClient) -> Report:
    return churn.report(DRIFTED)
