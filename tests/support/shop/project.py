"""Runs the app in the process of a test, with a database of its own, and a replica that cannot be written."""

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
def shop(folder: Path, database: dict[str, Any] | None = None, **settings: Any) -> Iterator[type[Any]]:
    """Install the app and make its tables, in SQLite or in another database. Yield the model `Prediction`."""
    configure_django()
    before = connections.settings
    sqlite = {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": str(folder / "shop.sqlite3"),
        "OPTIONS": {"transaction_mode": "IMMEDIATE", "timeout": 20},
    }
    replica = {"ENGINE": sqlite["ENGINE"], "NAME": f"file:{sqlite['NAME']}?mode=ro", "OPTIONS": {"uri": True}}
    both = {"default": sqlite, "replica": replica} if database is None else {"default": database}
    connections.settings = connections.configure_settings(both)
    _forget_connections()
    urls = "tests.support.shop.urls"
    with override_settings(INSTALLED_APPS=APPS, ROOT_URLCONF=urls, ALLOWED_HOSTS=["testserver"], **settings):
        from tests.support.shop.models import Forecast, Prediction, Urgent

        with connections["default"].schema_editor() as editor:
            for model in (Prediction, Forecast, Urgent):
                editor.create_model(model)
        try:
            yield Prediction
        finally:
            connections.close_all()
            connections.settings = before
            _forget_connections()


def _forget_connections() -> None:
    for name in ("default", "replica"):
        with contextlib.suppress(AttributeError):  # there is none in this thread
            del connections[name]
