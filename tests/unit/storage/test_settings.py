from __future__ import annotations

import itertools

import pytest

from scoreline.storage.errors import InvalidSettings
from scoreline.storage.settings import StorageSettings

R2 = {
    "R2_ACCOUNT_ID": "abc",
    "R2_ACCESS_KEY_ID": "key",
    "R2_SECRET_ACCESS_KEY": "hush",
    "R2_BUCKET": "models",
}
ENVIRONMENTS, DYNOS, FORCES, CLOUD_ONLYS = (
    ("", "production", "development"),
    ("", "worker.1"),
    ("", "true", "false"),
    ("", "true", "false"),
)


def expected(environment: str, dyno: str, force: str, cloud_only: str) -> tuple[bool, bool]:
    """Return two values of the truth table: whether objects are in R2, and whether models are only in memory."""
    if dyno:
        return True, True
    if environment == "development" and force != "true":
        return False, False
    return True, cloud_only != "false"


@pytest.mark.parametrize(
    ("environment", "dyno", "force", "cloud_only"),
    list(itertools.product(ENVIRONMENTS, DYNOS, FORCES, CLOUD_ONLYS)),
)
def test_the_settings_follow_the_truth_table(environment: str, dyno: str, force: str, cloud_only: str) -> None:
    settings = StorageSettings.from_env(
        R2 | {"ENVIRONMENT": environment, "DYNO": dyno, "FORCE_R2": force, "ML_CLOUD_ONLY": cloud_only}
    )
    assert (settings.use_r2, settings.cloud_only) == expected(environment, dyno, force, cloud_only)


def test_overriding_ml_cloud_only_on_a_dyno_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    StorageSettings.from_env(R2 | {"DYNO": "worker.1", "ML_CLOUD_ONLY": "false"})
    assert [(record.message, record.variable) for record in caplog.records] == [  # type: ignore[attr-defined]
        ("settings.overridden", "ML_CLOUD_ONLY")
    ]


def test_all_faults_are_reported_at_once() -> None:
    with pytest.raises(InvalidSettings) as caught:
        StorageSettings.from_env({"ENVIRONMENT": "staging", "FORCE_R2": "maybe"})
    for name in ("ENVIRONMENT", "FORCE_R2", "R2_BUCKET", "R2_ACCOUNT_ID", "R2_ACCESS_KEY_ID", "R2_SECRET_ACCESS_KEY"):
        assert name in str(caught.value)


@pytest.mark.parametrize("word", ["true", "TRUE", "1", "yes", "On"])
def test_booleans_are_accepted_in_any_case(word: str) -> None:
    assert StorageSettings.from_env(R2 | {"ENVIRONMENT": "development", "FORCE_R2": word}).use_r2


def test_the_secret_is_not_part_of_any_repr() -> None:
    assert "hush" not in repr(StorageSettings.from_env(R2))


def test_the_endpoint_is_derived_from_account_and_jurisdiction() -> None:
    settings = StorageSettings.from_env(R2 | {"R2_JURISDICTION": "eu"})
    assert settings.r2 is not None
    assert settings.r2.endpoint_url == "https://abc.eu.r2.cloudflarestorage.com"


AWS = {
    "AWS_S3_ENDPOINT_URL": "https://store.example.org/",
    "AWS_STORAGE_BUCKET_NAME": "media",
    "AWS_S3_ACCESS_KEY_ID": "s3-key",
    "AWS_S3_SECRET_ACCESS_KEY": "s3-secret",
    "AWS_ACCESS_KEY_ID": "aws-key",
    "AWS_SECRET_ACCESS_KEY": "aws-secret",
}


def resolved(environ: dict[str, str]) -> tuple[str, str, str, str]:
    settings = StorageSettings.from_env(environ)
    assert settings.r2 is not None
    return settings.r2.endpoint_url, settings.bucket_name, settings.r2.access_key_id, settings.r2.secret_access_key


def without(environ: dict[str, str], *names: str) -> dict[str, str]:
    return {name: value for name, value in environ.items() if name not in names}


def test_variables_of_django_storages_are_read_in_its_order() -> None:
    assert resolved(AWS) == ("https://store.example.org", "media", "s3-key", "s3-secret")
    fewer = without(AWS, "AWS_S3_ACCESS_KEY_ID", "AWS_S3_SECRET_ACCESS_KEY")
    assert resolved(fewer)[2:] == ("aws-key", "aws-secret")


def test_r2_variables_take_precedence_over_those_of_django_storages() -> None:
    assert resolved(AWS | R2) == ("https://abc.r2.cloudflarestorage.com", "models", "key", "hush")
    own = {"R2_ENDPOINT_URL": "https://r2.example.org"}
    assert resolved(AWS | own)[0] == "https://r2.example.org"


def test_the_bucket_of_django_storages_is_used_in_development_too() -> None:
    settings = StorageSettings.from_env({"ENVIRONMENT": "development", "AWS_STORAGE_BUCKET_NAME": "media"})
    assert (settings.bucket_name, settings.allowed_buckets) == ("media", frozenset({"media"}))


@pytest.mark.parametrize("owner", ["R2", "AWS_S3"])
@pytest.mark.parametrize(
    ("given", "missing"), [("ACCESS_KEY_ID", "SECRET_ACCESS_KEY"), ("SECRET_ACCESS_KEY", "ACCESS_KEY_ID")]
)
def test_an_incomplete_pair_of_credentials_is_not_completed_from_another_pair(
    owner: str, given: str, missing: str
) -> None:
    environ = without(AWS, "AWS_S3_ACCESS_KEY_ID", "AWS_S3_SECRET_ACCESS_KEY") | {f"{owner}_{given}": "half"}
    with pytest.raises(InvalidSettings, match=f"settings: {owner}_{missing} is not set$"):
        StorageSettings.from_env(environ)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("R2_BUCKET", "No Bucket"),
        ("AWS_STORAGE_BUCKET_NAME", "No Bucket"),
        ("R2_ENDPOINT_URL", "r2.example.org"),
        ("AWS_S3_ENDPOINT_URL", "s3.example.org"),
    ],
)
def test_a_wrong_value_is_reported_with_the_variable_that_holds_it(name: str, value: str) -> None:
    environ = {**without(AWS, "AWS_STORAGE_BUCKET_NAME"), "AWS_STORAGE_BUCKET_NAME": "media", name: value}
    with pytest.raises(InvalidSettings, match=f"settings: {name}={value!r} is not a"):
        StorageSettings.from_env(environ)


def with_endpoint(url: str) -> StorageSettings:
    return StorageSettings.from_env(R2 | {"R2_ENDPOINT_URL": url, "ALLOWED_BUCKETS": "inputs"})


@pytest.mark.parametrize(
    ("url", "instead"),
    [
        ("https://abc.r2.cloudflarestorage.com/models", "(https://abc.r2.cloudflarestorage.com)"),
        ("https://abc.eu.r2.cloudflarestorage.com/other/", "(https://abc.eu.r2.cloudflarestorage.com)"),
        ("http://127.0.0.1:9000/models", "(http://127.0.0.1:9000)"),
        ("http://127.0.0.1:9000/inputs/", "(http://127.0.0.1:9000)"),
        ("https://gateway.example.org/s3/models", "(https://gateway.example.org/s3)"),
        ("https://models.abc.r2.cloudflarestorage.com", "(https://abc.r2.cloudflarestorage.com)"),
        ("https://models.s3.eu-west-1.amazonaws.com", "(https://s3.eu-west-1.amazonaws.com)"),
        ("https://pub-1a2b.r2.dev", "https://<account>.r2.cloudflarestorage.com"),
        ("https://abc.r2.cloudflarestorage.com:port", "an http(s) address of a server"),
        ("https://", "an http(s) address of a server"),
        ("abc.r2.cloudflarestorage.com", "an http(s) address of a server"),
        ("https://abc.r2.cloudflarestorage.com?x-id=List", "an http(s) address of a server"),
    ],
)
@pytest.mark.parametrize("name", ["R2_ENDPOINT_URL", "AWS_S3_ENDPOINT_URL"])
def test_an_address_that_is_not_that_of_a_store_is_refused_with_what_to_write(
    url: str, instead: str, name: str
) -> None:
    environ = {key: value for key, value in R2.items() if key != "R2_ACCOUNT_ID"}
    with pytest.raises(InvalidSettings) as refused:
        StorageSettings.from_env(environ | {name: url, "ALLOWED_BUCKETS": "inputs"})
    assert f"{name}={url.replace('x-id=List', '…')!r}" in str(refused.value)
    assert instead in str(refused.value)


@pytest.mark.parametrize(
    "url",
    [
        "https://abc.r2.cloudflarestorage.com/",
        "https://project.supabase.co/storage/v1/s3",
        "http://models:9000",
        "https://models.example.org",
        "http://[::1]:9000",
    ],
)
def test_an_address_may_have_a_path_and_a_host_of_any_name(url: str) -> None:
    settings = with_endpoint(url)
    assert settings.r2 is not None
    assert settings.r2.endpoint_url == url.rstrip("/")


def test_allowed_outputs_are_prefixes_of_allowed_buckets() -> None:
    environ = {"ENVIRONMENT": "development", "R2_BUCKET": "data", "ALLOWED_BUCKETS": "lake"}
    found = StorageSettings.from_env(environ | {"ALLOWED_OUTPUTS": "s3://data/scores, s3://lake/a/b/\ns3://lake"})
    assert found.allowed_outputs == ("s3://data/scores/", "s3://lake/a/b/", "s3://lake/")
    assert StorageSettings.from_env(environ).allowed_outputs == ()
    for wrong in ("scores/", "s3://theirs/", "s3://data/a/../b", "https://data/a"):
        with pytest.raises(InvalidSettings, match="ALLOWED_OUTPUTS"):
            StorageSettings.from_env(environ | {"ALLOWED_OUTPUTS": f"s3://data/a/,{wrong}"})
