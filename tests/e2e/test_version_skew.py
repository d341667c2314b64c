from __future__ import annotations

import json

import pandas as pd
import pytest
from sklearn.linear_model import LinearRegression

from scoreline.storage import keys
from scoreline.storage.models.bundle import dump
from scoreline.storage.models.manager import ModelStorageManager
from scoreline.storage.models.trial_load import NewArtifact
from scoreline.tasks.client import Client
from scoreline.tasks.job.documents import Status
from scoreline.tasks.job.uris import parse_uri
from scoreline.worker.dev.stack import Stack


@pytest.fixture
def antique(own: Stack, monkeypatch: pytest.MonkeyPatch, fresh_process: None) -> str:
    """Publish a model that claims to be saved by scikit-learn 1.0.2."""
    monkeypatch.setattr("sklearn.base.__version__", "1.0.2")
    line = LinearRegression().fit(pd.DataFrame({"x": [0.0, 1.0]}), [0.0, 2.0])
    models = ModelStorageManager.from_env(own.environ | {"ML_ALLOW_VERSION_SKEW": "true"})
    return models.publish_files("antique", [NewArtifact(role="model", name="model", data=dump(line))]).ref


def score(client: Client, ref: str) -> Status:
    store = client.buckets.main
    store.put("in/0.parquet", pd.DataFrame({"x": [1.0]}).to_parquet(index=False))
    return list(client.watch(client.submit(ref, store.uri("in/0.parquet")).job_id))[-1]


def test_a_job_fails_and_names_both_versions(own: Stack, antique: str) -> None:
    own.start_worker(1)
    done = score(Client.from_env(own.environ), antique)
    assert done.state == "failed"
    assert f"{antique} was saved by scikit-learn 1.0.2, but " in done.error
    assert "ML_ALLOW_VERSION_SKEW=true" in done.error


def test_a_job_that_may_use_another_scikit_learn_keeps_a_warning_in_its_manifest(own: Stack, antique: str) -> None:
    own.start_worker(1, {"ML_ALLOW_VERSION_SKEW": "true"})
    client = Client.from_env(own.environ)
    done = score(client, antique)
    assert done.state == "succeeded", done.error
    listed = client.buckets.main.get(keys.results_manifest(parse_uri(done.output)[1])).data
    (warning,) = json.loads(listed)["warnings"]
    assert warning.startswith(f"{antique} was saved by scikit-learn 1.0.2, but ")
