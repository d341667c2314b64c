"""What `manage.py check` says about the settings of a project."""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
from django.conf import global_settings
from django.conf.urls.i18n import i18n_patterns
from django.test import override_settings
from django.urls import path

from scoreline.tasks.django import NAMES, forget, system_checks
from scoreline.tasks.django.access import project_logs_in

R2 = {
    "R2_BUCKET": "shop",
    "R2_ENDPOINT_URL": "https://store.example.org",
    "R2_ACCESS_KEY_ID": "key",
    "R2_SECRET_ACCESS_KEY": "hush",
}
S3 = "storages.backends.s3.S3Storage"
MEDIA = {"default": {"BACKEND": S3, "OPTIONS": {"bucket_name": "media", "access_key": "k", "secret_key": "s"}}}


@pytest.fixture(autouse=True)
def _nothing_set(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    forget()
    yield
    forget()


@pytest.mark.parametrize(
    ("given", "environ", "expected"),
    [
        ({}, {}, ["E001 R2_BUCKET is not set", "E001 neither R2_ACCOUNT_ID", "E001 R2_ACCESS_KEY_ID is not set"]),
        ({**R2, "R2_BUCKET": ""}, {}, ["E001 R2_BUCKET is not set"]),
        ({**R2, "R2_ENDPOINT_URL": "https://store.example.org/shop"}, {}, ["E001 R2_ENDPOINT_URL="]),
        ({**R2, "REDIS_URL": "http://:hush@x"}, {}, ["E002 REDIS_URL is not a redis:// or rediss:// URL"]),
        ({**R2, "SCORELINE_STORAGE": "default"}, {}, ["E003 SCORELINE_STORAGE='default' names a FileSystemStorage"]),
        ({**R2, "REDIS_URL": "redis://x", "WEBHOOK_SECRET": "hush"}, {}, ["E004 WEBHOOK_SECRET is shorter"]),
        (R2, {}, ["W001 No setting gives the address of Redis, so redis://127.0.0.1:6379/0 is tried."]),
        ({**R2, "REDIS_URL": "redis://x"}, {"REDIS_URL": "redis://y"}, ["W002 REDIS_URL has one value in settings.py"]),
        (
            {**R2, "REDIS_URL": "redis://x", "STORAGES": MEDIA, "SCORELINE_STORAGE": "default"},
            {},
            ["W003 SCORELINE_STORAGE='default' names the bucket 'media', but R2_BUCKET='shop' takes precedence."],
        ),
        (
            {**R2, "REDIS_URL": "redis://x", "WEBHOOK_URL": "https://x/y"},
            {},
            ["W004 WEBHOOK_URL is set, and WEBHOOK_SECRET is not"],
        ),
        (
            {**R2, "REDIS_URL": "redis://x", "LOGIN_URL": "/nowhere/"},
            {},
            ["W005 The pages send visitors who are not logged in to /nowhere/"],
        ),
        ({**R2, "CELERY_BROKER_URL": "redis://x"}, {}, []),
        ({**R2, "REDIS_URL": "redis://x"}, {"REDIS_URL": "redis://x"}, []),
        ({}, {"ENVIRONMENT": "development"}, []),
    ],
)
def test_each_fault_has_an_id_and_a_hint(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, Any], environ: dict[str, str], expected: list[str]
) -> None:
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    with override_settings(**given):
        found = system_checks.check_settings()
    said = [f"{str(message.id).removeprefix('scoreline.')} {message.msg}" for message in found]
    assert len(said) >= len(expected)
    assert bool(said) == bool(expected)
    for text in expected:
        assert any(line.startswith(text) for line in said), said
    assert all(message.hint for message in found)
    assert "hush" not in repr(found)


@pytest.mark.parametrize(
    ("address", "by_language", "expected"),
    [("accounts/login/", False, True), ("accounts/login/", True, True), ("login/", False, False)],
)
def test_a_log_in_of_the_project_is_found_where_django_expects_it(
    address: str, by_language: bool, expected: bool
) -> None:
    urls, page = ModuleType("urls"), path(address, lambda _: None)
    with override_settings(ROOT_URLCONF=urls, LOGIN_URL=global_settings.LOGIN_URL, USE_I18N=True):
        vars(urls)["urlpatterns"] = i18n_patterns(page) if by_language else [page]
        assert project_logs_in() is expected
