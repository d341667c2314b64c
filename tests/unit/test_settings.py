from __future__ import annotations

import itertools

import pytest

from storage.errors import InvalidSettings
from storage.settings import StorageSettings

R2 = {
    "R2_ACCOUNT_ID": "abc",
    "R2_ACCESS_KEY_ID": "key",
    "R2_SECRET_ACCESS_KEY": "hush",
    "R2_BUCKET": "models",
}
ENVIRONMENTS, DYNOS, FORCES, CLOUD_ONLYS = (
    ("", "production", "development"), ("", "worker.1"), ("", "true", "false"), ("", "true", "false"),
)  # fmt: skip


def expected(environment: str, dyno: str, force: str, cloud_only: str) -> tuple[bool, bool]:
    """The design's table, written out: (objects in R2, models in memory alone)."""
    if dyno:
        return True, True
    if environment == "development" and force != "true":
        return False, False
    return True, cloud_only != "false"


@pytest.mark.parametrize(
    ("environment", "dyno", "force", "cloud_only"),
    list(itertools.product(ENVIRONMENTS, DYNOS, FORCES, CLOUD_ONLYS)),
)
def test_the_truth_table_says_where_models_live(environment: str, dyno: str, force: str, cloud_only: str) -> None:
    settings = StorageSettings.from_env(
        R2 | {"ENVIRONMENT": environment, "DYNO": dyno, "FORCE_R2": force, "ML_CLOUD_ONLY": cloud_only}
    )
    assert (settings.use_r2, settings.cloud_only) == expected(environment, dyno, force, cloud_only)


def test_a_dyno_that_overrides_ml_cloud_only_says_so(caplog: pytest.LogCaptureFixture) -> None:
    StorageSettings.from_env(R2 | {"DYNO": "worker.1", "ML_CLOUD_ONLY": "false"})
    assert [(record.message, record.variable) for record in caplog.records] == [  # type: ignore[attr-defined]
        ("settings.overridden", "ML_CLOUD_ONLY")
    ]


def test_every_fault_is_reported_at_once() -> None:
    with pytest.raises(InvalidSettings) as caught:
        StorageSettings.from_env({"ENVIRONMENT": "staging", "FORCE_R2": "maybe"})
    for name in ("ENVIRONMENT", "FORCE_R2", "R2_BUCKET", "R2_ACCOUNT_ID", "R2_ACCESS_KEY_ID", "R2_SECRET_ACCESS_KEY"):
        assert name in str(caught.value)


@pytest.mark.parametrize("word", ["true", "TRUE", "1", "yes", "On"])
def test_booleans_are_read_in_any_case(word: str) -> None:
    assert StorageSettings.from_env(R2 | {"ENVIRONMENT": "development", "FORCE_R2": word}).use_r2


def test_the_secret_is_in_no_repr() -> None:
    assert "hush" not in repr(StorageSettings.from_env(R2))


def test_the_endpoint_follows_account_and_jurisdiction() -> None:
    settings = StorageSettings.from_env(R2 | {"R2_JURISDICTION": "eu"})
    assert settings.r2 is not None
    assert settings.r2.endpoint_url == "https://abc.eu.r2.cloudflarestorage.com"


def test_aws_names_serve_for_the_credentials() -> None:
    environ = {"R2_ACCOUNT_ID": "abc", "R2_BUCKET": "models", "AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s"}
    settings = StorageSettings.from_env(environ)
    assert settings.r2 is not None
    assert settings.r2.access_key_id == "k"
