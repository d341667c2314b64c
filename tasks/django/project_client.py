"""A client for a Django project, made from its settings and the environment.

A project may define the settings in `NAMES` in its ``settings.py``. Missing settings are read from the environment.
Endpoint, bucket and credentials may also come from an ``S3Storage`` of django-storages. The setting
``SCORELINE_STORAGE`` is the name of this storage in ``STORAGES``; the default is ``default``. Settings that begin with
``R2_`` override the storage, in ``settings.py`` and in the environment. Workers read only the environment.
"""

from __future__ import annotations

import functools
import os
import sys
import threading
from typing import Any

from scoreline.storage.errors import InvalidSettings
from scoreline.tasks.alerts.settings import AlertSettings
from scoreline.tasks.client import Client, stand_in_client

NAMES = (
    "R2_ACCOUNT_ID",
    "R2_ENDPOINT_URL",
    "R2_JURISDICTION",
    "R2_ACCESS_KEY_ID",
    "R2_SECRET_ACCESS_KEY",
    "R2_BUCKET",
    "R2_TIMEOUT_SECONDS",
    "ALLOWED_BUCKETS",
    "ALLOWED_OUTPUTS",
    "AWS_S3_ENDPOINT_URL",
    "AWS_STORAGE_BUCKET_NAME",
    "AWS_S3_ACCESS_KEY_ID",
    "AWS_S3_SECRET_ACCESS_KEY",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "REDIS_URL",
    "REDIS_TLS_URL",
    "REDIS_CA_FILE",
    "CELERY_BROKER_URL",
    "RECORDS_IN_REDIS",
    "SUBMITTER",
    "WEB_DOWNLOADS",
    "WEBHOOK_URL",
    "WEBHOOK_SECRET",
    "ALLOWED_WEBHOOKS",
)
"""The settings that are read from a project. ``ENVIRONMENT`` is not read, because many projects use this name for
another purpose."""
_OF_STORAGE = {
    "endpoint_url": "AWS_S3_ENDPOINT_URL",
    "bucket_name": "AWS_STORAGE_BUCKET_NAME",
    "access_key": "AWS_S3_ACCESS_KEY_ID",
    "secret_key": "AWS_S3_SECRET_ACCESS_KEY",
}

client_lock = threading.Lock()


class _Querysets:
    """Scores the rows of querysets. The modules that need Django are imported when they are used."""

    def submit(self, client: Client, model: str, queryset: Any, **options: Any) -> str:
        from scoreline.tasks.django.querysets.submitting import submit_queryset

        return submit_queryset(client, model, queryset, **options)

    def load(self, client: Client, job_id: str, rows: Any, **options: Any) -> int:
        from scoreline.tasks.django.querysets.loading import load_results

        return load_results(client, job_id, rows, **options)


Client.querysets = _Querysets()


def client() -> Client:
    """Return the client that all threads of this process share. A forked process makes another client.

    Raises
    ------
    InvalidSettings
        Some settings are wrong or missing; the message lists all of them.
    """
    if (instead := stand_in_client()) is not None:
        return instead
    with client_lock:
        return _client()


def forget() -> None:
    """Make the next call create another client, for example in a test that changes settings."""
    global client_lock
    client_lock = threading.Lock()  # in a forked process, no thread would release the old lock
    _client.cache_clear()


os.register_at_fork(after_in_child=forget)


@functools.cache
def _client() -> Client:
    found = Client.from_env(environ())
    found.submission.dispatcher.alerts = AlertSettings.events_from(environ())
    return found


def environ() -> dict[str, str]:
    """Return the environment for the ``from_env`` methods of Scoreline, overridden by the project's settings."""
    from django.conf import settings

    given = {name: text for name in NAMES if (text := _text(getattr(settings, name, None)))} | _of_storage()
    if "REDIS_URL" in given:
        given.setdefault("REDIS_TLS_URL", "")  # otherwise REDIS_TLS_URL in the environment would override the setting
    return {**os.environ, **given}


def _of_storage() -> dict[str, str]:
    """Return the options of an S3Storage of django-storages, under the names of the corresponding settings."""
    from django.conf import settings
    from django.core.files.storage import InvalidStorageError, storages

    chosen = getattr(settings, "SCORELINE_STORAGE", None)
    try:
        storage = storages[chosen or "default"]
    except InvalidStorageError as error:
        raise InvalidSettings.from_faults(
            [f"SCORELINE_STORAGE={chosen!r}: {error}" if chosen else str(error)]
        ) from error
    if _is_s3(storage):
        return {name: text for option, name in _OF_STORAGE.items() if (text := _text(getattr(storage, option)))}
    if chosen:
        raise InvalidSettings.from_faults(
            [f"SCORELINE_STORAGE={chosen!r} names a {type(storage).__name__}, not an S3Storage"]
        )
    return {}


def _is_s3(storage: object) -> bool:
    module = sys.modules.get("storages.backends.s3")  # already imported if any storage uses it; an import takes 0.4 s
    return module is not None and isinstance(storage, module.S3Storage)


def _text(value: Any) -> str:
    """Return a setting in the form of an environment variable, with commas between several values."""
    if isinstance(value, (list, tuple, set, frozenset)):
        return ",".join(map(str, value))
    return "" if value is None else str(value).strip()
