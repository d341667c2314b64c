"""Pages in the process of a test: Django's test client, users, and a deployment whose jobs run at once."""

from __future__ import annotations

import contextlib
import html
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import django.conf
from django.test import Client as Browser
from django.test import override_settings

from scoreline.tasks.django import limits
from scoreline.tasks.django.project_client import forget
from scoreline.testing import EagerClient, eager
from scoreline.worker.web.passwords import hash_password
from scoreline.worker.web.settings import KnownUser, Role, WebSettings

PASSWORD = "a long enough password"
_HASH = hash_password(PASSWORD)
_ROLES: dict[str, Role] = {"vera": "view", "oscar": "operate", "paula": "promote"}
USERS = {name: KnownUser(name=name, role=role, hash=_HASH) for name, role in _ROLES.items()}


def configure_django() -> None:
    """Configure Django as `scoreline web` does, once in a process. Tests override what they need."""
    from scoreline.worker.web import site

    if not django.conf.settings.configured:
        site.configure(WebSettings(secret_key="k" * 60), is_local=True)


@contextlib.contextmanager
def serving(folder: Path, **settings: Any) -> Iterator[EagerClient]:
    """Serve the pages of a deployment in a folder, to the users in `USERS`."""
    configure_django()
    chosen = settings.pop("chosen", WebSettings(users=USERS, secret_key="k" * 60))
    forget()
    with eager(folder) as client, override_settings(SCORELINE_WEB=chosen, ALLOWED_HOSTS=["testserver"], **settings):
        yield client
    forget()


def log_in(name: str, **options: Any) -> Browser:
    """Return a browser in which a user of `USERS` is logged in."""
    limits.by_user.forget(name)
    limits.by_address.forget("127.0.0.1")
    browser = Browser(**options)
    given = {"name": name, "password": PASSWORD, "csrfmiddlewaretoken": token_in(browser.get("/log-in/"))}
    answer = browser.post("/log-in/", given)
    assert answer.status_code == 302, answer.content
    return browser


def token_in(answer: Any) -> str:
    """Return the CSRF token in the first form of a page."""
    return re.findall(r'name="csrfmiddlewaretoken" value="([^"]+)"', answer.content.decode())[0]


def text_of(answer: Any) -> str:
    """Return what a person reads on a page, on one line."""
    page = answer.content.decode()
    main = page[page.find("<main") :] if "<main" in page else page
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", main)).split())
