"""Runs the app in the process of a test, with a database of its own."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from django.db import connections
from django.test import override_settings

from tests.support.pages import configure_django

APPS = ["scoreline.django", "django.contrib.sessions", "tests.support.shop"]


@contextlib.contextmanager
def shop(folder: Path, **settings: Any) -> Iterator[type[Any]]:
    """Install the app and make its tables. Yield the model `Prediction`."""
    configure_django()
    before = connections.settings
    sqlite = {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": str(folder / "shop.sqlite3"),
        "OPTIONS": {"transaction_mode": "IMMEDIATE", "timeout": 20},
    }
    connections.settings = connections.configure_settings({"default": sqlite})
    _forget_connection()
    urls = "tests.support.shop.urls"
    with override_settings(INSTALLED_APPS=APPS, ROOT_URLCONF=urls, ALLOWED_HOSTS=["testserver"], **settings):
        from tests.support.shop.models import Forecast, Prediction

        with connections["default"].schema_editor() as editor:
            editor.create_model(Prediction)
            editor.create_model(Forecast)
        try:
            yield Prediction
        finally:
            connections["default"].close()
            connections.settings = before
            _forget_connection()


def _forget_connection() -> None:
    with contextlib.suppress(AttributeError):  # there is none in this thread
        del connections["default"]
