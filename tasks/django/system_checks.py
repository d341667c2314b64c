"""What ``manage.py check`` says about the settings, and ``manage.py check --deploy`` about the services."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error, Warning
from django.shortcuts import resolve_url
from django.urls import NoReverseMatch, Resolver404, resolve, reverse

from scoreline.storage.errors import InvalidSettings, ScorelineError, describe
from scoreline.storage.objects.base import ObjectStore
from scoreline.storage.settings import StorageSettings
from scoreline.tasks.client import stand_in_client
from scoreline.tasks.dispatch.settings import QueueSettings
from scoreline.tasks.django.access import project_logs_in
from scoreline.tasks.django.project_client import NAMES, client, environ
from scoreline.tasks.webhooks.settings import WebhookSettings

_WHERE = "Set it in settings.py or in the environment; docs/how-to/django.md lists the names."
_LOCAL = "For a project without a bucket, such as on a laptop or in CI, set ENVIRONMENT=development in the environment."


def check_settings(**_: Any) -> list[CheckMessage]:
    """Name each setting that is missing, wrong or contradicts another."""
    return [] if stand_in_client() is not None else list(_settings_faults())


def _settings_faults() -> Iterator[CheckMessage]:
    try:
        env = environ()
    except InvalidSettings as error:
        yield from _errors(error, "E003", "Name an S3Storage of STORAGES, or leave SCORELINE_STORAGE out.")
        return
    storage: StorageSettings | None = None
    try:
        storage = StorageSettings.from_env(env)
    except InvalidSettings as error:
        yield from _errors(error, "E001", f"{_WHERE} {_LOCAL}")
    try:
        queue = QueueSettings.from_env(env)
        if queue.assumed and storage is not None and storage.environment == "production":
            yield Warning(
                f"No setting gives the address of Redis, so {queue.redis_url} is tried.",
                hint="Set REDIS_URL. CELERY_BROKER_URL is enough if it is the address of a Redis.",
                id="scoreline.W001",
            )
    except InvalidSettings as error:
        yield from _errors(error, "E002", _WHERE)
    try:
        webhooks = WebhookSettings.from_env(env)
        if webhooks.url and not webhooks.secret:
            yield Warning(
                "WEBHOOK_URL is set, and WEBHOOK_SECRET is not: the webhook of this project refuses all notifications.",
                hint="Set WEBHOOK_SECRET to the secret of the workers.",
                id="scoreline.W004",
            )
    except InvalidSettings as error:
        yield from _errors(error, "E004", _WHERE)
    yield from _contradictions(env)
    yield from _log_in_faults()


def _contradictions(env: dict[str, str]) -> Iterator[CheckMessage]:
    for name in NAMES:
        of_project, outside = str(getattr(settings, name, None) or "").strip(), os.environ.get(name, "").strip()
        if of_project and outside and env.get(name) != outside:
            yield Warning(
                f"{name} has one value in settings.py and another in the environment.",
                hint="settings.py applies in this project, but workers and `scoreline` read only the environment.",
                id="scoreline.W002",
            )
    chosen = getattr(settings, "SCORELINE_STORAGE", None)
    bucket, of_storage = env.get("R2_BUCKET", ""), env.get("AWS_STORAGE_BUCKET_NAME", "")
    if chosen and bucket and of_storage and bucket != of_storage:
        yield Warning(
            f"SCORELINE_STORAGE={chosen!r} names the bucket {of_storage!r}, but R2_BUCKET={bucket!r} takes precedence.",
            hint="Leave one of the two out.",
            id="scoreline.W003",
        )


def _log_in_faults() -> Iterator[CheckMessage]:
    try:
        reverse("scoreline:home")
    except NoReverseMatch:  # the project has no pages
        return
    if not project_logs_in():  # the pages have a log-in of their own
        return
    address = resolve_url(settings.LOGIN_URL)
    try:
        if address.startswith("/"):
            resolve(address.partition("?")[0])
    except Resolver404:
        yield Warning(
            f"The pages send visitors who are not logged in to {address}, which does not exist.",
            hint='Set LOGIN_URL in settings.py, for example to "admin:login", or remove it.',
            id="scoreline.W005",
        )


def check_services(**_: Any) -> list[CheckMessage]:
    """Say which service does not answer. This takes some seconds if one does not, so only ``--deploy`` asks."""
    if stand_in_client() is not None:
        return []
    try:
        found = client()
    except InvalidSettings:  # `check_settings` names the faults
        return []
    hint = "Start it, or correct the setting; `manage.py scoreline doctor` examines everything."
    asked: list[tuple[str, Callable[[], object]]] = [
        ("E010", found.ledger.ping),
        ("E011", found.queue.ping),
        ("E012", lambda: _list_one(found.buckets.main)),
    ]
    faults: dict[str, CheckMessage] = {}
    for number, ask in asked:
        try:
            ask()
        except ScorelineError as error:
            text = describe(error)
            faults.setdefault(text, Error(text, hint=hint, id=f"scoreline.{number}"))
    return list(faults.values())


def _list_one(store: ObjectStore) -> None:
    next(iter(store.list("jobs/")), None)


def _errors(error: InvalidSettings, number: str, hint: str) -> Iterator[CheckMessage]:
    for fault in error.faults or (str(error),):
        yield Error(fault, hint=hint, id=f"scoreline.{number}")
