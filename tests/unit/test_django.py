"""Scoreline reads its settings from the settings of a Django project."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from django.core.files.storage import storages
from django.test import override_settings
from storages.backends.s3 import S3Storage

from scoreline.storage.errors import InvalidSettings
from scoreline.storage.settings import R2Settings, StorageSettings
from scoreline.tasks import django as ours
from scoreline.tasks.dispatch.settings import QueueSettings
from tests.support.pages import configure_django
from tests.support.waiting import HANG_S

S3 = "storages.backends.s3.S3Storage"
AWS = {
    "AWS_S3_ENDPOINT_URL": "https://store.example.org",
    "AWS_STORAGE_BUCKET_NAME": "media",
    "AWS_ACCESS_KEY_ID": "aws-key",
    "AWS_SECRET_ACCESS_KEY": "aws-secret",
}
OPTIONS = {
    "endpoint_url": "https://option.example.org",
    "bucket_name": "option",
    "access_key": "option-key",
    "secret_key": "option-secret",
}


class Uploads(S3Storage):
    """A storage class that the project defines, as many projects do."""

    bucket_name = "uploads"


@pytest.fixture(autouse=True)
def _plain_project(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    configure_django()
    for name in ours.NAMES:
        monkeypatch.delenv(name, raising=False)
    ours.forget()
    yield
    ours.forget()


def storage_settings() -> tuple[str, str, str, str]:
    settings = StorageSettings.from_env(ours.environ())
    assert isinstance(settings.r2, R2Settings)
    return settings.r2.endpoint_url, settings.bucket_name, settings.r2.access_key_id, settings.r2.secret_access_key


def entry(backend: str = S3, **options: str) -> dict[str, Any]:
    return {"BACKEND": backend, "OPTIONS": options}


@pytest.mark.parametrize(
    "names",
    [
        AWS,
        {"STORAGES": {"default": entry(**OPTIONS)}},
        AWS | {"STORAGES": {"default": entry(bucket_name="option", access_key="k", secret_key="s")}},
        AWS | {"AWS_S3_ACCESS_KEY_ID": "s3-key", "AWS_S3_SECRET_ACCESS_KEY": "s3-secret"},
        AWS | {"STORAGES": {"default": entry(f"{__name__}.Uploads")}},
    ],
)
def test_django_storages_and_scoreline_read_the_same_from_the_same_settings(
    monkeypatch: pytest.MonkeyPatch, names: dict[str, Any]
) -> None:
    # Given a storage class of this module, and environment variables with different values
    monkeypatch.setitem(sys.modules, __name__, sys.modules[Uploads.__module__])
    for name in AWS:
        monkeypatch.setenv(name, "https://other.example.org" if "URL" in name else "other")
    with override_settings(**{"STORAGES": {"default": entry()}} | names):
        theirs: Any = storages["default"]
        assert storage_settings() == (theirs.endpoint_url, theirs.bucket_name, theirs.access_key, theirs.secret_key)
        assert "other" not in " ".join(storage_settings())


def test_settings_need_no_storage_of_django_storages() -> None:
    with override_settings(**AWS):
        assert storage_settings() == ("https://store.example.org", "media", "aws-key", "aws-secret")


def test_scoreline_storage_chooses_an_entry() -> None:
    both = {"default": entry(**OPTIONS), "models": entry(**OPTIONS | {"bucket_name": "models"})}
    with override_settings(STORAGES=both, SCORELINE_STORAGE="models"):
        assert storage_settings()[1] == "models"


def test_settings_named_for_r2_win_wherever_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("R2_BUCKET", "of-the-environment")
    with override_settings(STORAGES={"default": entry(**OPTIONS)}):
        assert storage_settings()[1] == "of-the-environment"
        with override_settings(R2_BUCKET="of-the-project"):
            assert storage_settings()[1] == "of-the-project"


@pytest.mark.parametrize("blank", [None, "", " "])
def test_a_blank_django_setting_falls_back_to_the_environment(
    monkeypatch: pytest.MonkeyPatch, blank: str | None
) -> None:
    monkeypatch.setenv("R2_BUCKET", "of-the-environment")
    with override_settings(**AWS, R2_BUCKET=blank):
        assert storage_settings()[1] == "of-the-environment"


def test_buckets_may_be_a_list() -> None:
    with override_settings(**AWS, ALLOWED_BUCKETS=["data", "more"]):
        assert StorageSettings.from_env(ours.environ()).allowed_buckets == {"media", "data", "more"}


def test_the_address_of_redis_may_come_from_the_django_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_TLS_URL", "rediss://environment:1/0")
    monkeypatch.setenv("CELERY_BROKER_URL", "redis://environment:2/0")
    with override_settings(REDIS_URL="redis://project:1/0"):
        assert QueueSettings.from_env(ours.environ()).redis_url == "redis://project:1/0"
        assert QueueSettings.from_env(ours.environ()).broker_url == "redis://environment:2/0"
    with override_settings(CELERY_BROKER_URL="redis://project:2/0"):
        assert QueueSettings.from_env(ours.environ()).redis_url == "rediss://environment:1/0"
        assert QueueSettings.from_env(ours.environ()).broker_url == "redis://project:2/0"


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ({}, "R2_BUCKET is not set"),
        (AWS | {"SCORELINE_STORAGE": "nowhere"}, "SCORELINE_STORAGE='nowhere': .*nowhere"),
        (AWS | {"SCORELINE_STORAGE": "default"}, "SCORELINE_STORAGE='default' names a FileSystemStorage"),
        (AWS | {"STORAGES": {"default": {"BACKEND": "no.such.Backend"}}}, "no.such"),
        (AWS | {"REDIS_URL": "http://:hush@example.org"}, "REDIS_URL is not a redis"),
    ],
)
def test_wrong_settings_are_named(names: dict[str, Any], expected: str) -> None:
    with override_settings(**names), pytest.raises(InvalidSettings, match=expected) as caught:
        ours.client()
    assert "hush" not in str(caught.value)
    assert "aws-secret" not in str(caught.value)


def test_all_threads_share_one_client() -> None:
    with override_settings(**AWS), ThreadPoolExecutor(8) as threads:
        clients = list(threads.map(lambda _: ours.client(), range(32)))
    assert len({id(client) for client in clients}) == 1


def test_a_forked_process_shares_no_connection_with_its_parent() -> None:
    # Given a process with a client, a held client lock, and a connection in kombu's pool
    code = """
        import os, threading
        from django.conf import settings
        from kombu import Connection, pools
        settings.configure(**{"names": AWS})
        from scoreline.tasks import django as ours
        mine = ours.client()
        with pools.producers[Connection("memory://")].acquire(block=True):
            pass
        from scoreline.tasks.django import project_client
        held = project_client.client_lock.acquire()
        # When it forks
        if os.fork() == 0:
            # Then the child waits for no lock, has a client of its own, and an empty pool
            other = ours.client()
            fresh = other is not mine and other.buckets.main is not mine.buckets.main
            os._exit(0 if fresh and not pools.producers and not pools.connections else 7)
        _, status = os.wait()
        project_client.client_lock.release()
        assert os.waitstatus_to_exitcode(status) == 0, status
        assert ours.client() is mine and pools.producers
    """.replace('{"names": AWS}', repr(AWS))
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=HANG_S, check=False
    )
    assert done.returncode == 0, done.stderr
