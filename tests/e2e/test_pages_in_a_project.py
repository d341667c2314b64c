"""The pages in a Django project of its own, as `django-admin startproject` makes one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.installed import ROOT
from tests.support.waiting import HANG_S

SETTINGS = """
INSTALLED_APPS += ["scoreline.django"]
LOGIN_URL = "/admin/login/"
"""
URLS = """
from django.urls import include
urlpatterns += [path("scoreline/", include("scoreline.django.urls"))]
"""
VISITS = """
from django.contrib.auth.models import Permission, User
from django.test import Client
boss, reader = User.objects.create_superuser("boss"), User.objects.create_user("reader")
names = set(Permission.objects.filter(content_type__app_label="scoreline").values_list("codename", flat=True))
assert names == {"view", "operate", "promote"}, names
host = {"headers": {"host": "localhost"}}
assert Client(**host).get("/scoreline/")["Location"] == "/admin/login/?next=/scoreline/"
browser = Client(**host)
browser.force_login(reader)
assert browser.get("/scoreline/").status_code == 403
reader.user_permissions.add(Permission.objects.get(codename="view"))
assert browser.get("/scoreline/").status_code == 200
assert browser.get("/scoreline/submit/").status_code == 403
browser.force_login(boss)
for path in ("", "jobs/", "models/", "schedules/", "submit/"):
    answer = browser.get(f"/scoreline/{path}")
    assert answer.status_code == 200, (path, answer.content)
    assert b"/static/scoreline/scoreline.css" in answer.content
from django.contrib.staticfiles import finders
assert finders.find("scoreline/scoreline.css")
assert browser.get("/scoreline/assets/htmx-%s.js" % __import__("importlib.metadata").metadata.version("django-htmx")).status_code == 200
"""  # noqa: E501


@pytest.fixture
def project(tmp_path: Path) -> Path:
    subprocess.run([sys.executable, "-m", "django", "startproject", "shop", str(tmp_path)], check=True, timeout=HANG_S)
    for name, text in (("settings", SETTINGS), ("urls", URLS)):
        with (tmp_path / f"shop/{name}.py").open("a") as file:
            file.write(text)
    return tmp_path


def manage(project: Path, *words: str) -> str:
    places = {"ENVIRONMENT": "development", "STORE_DIR": str(project / "store"), "R2_BUCKET": "scoreline"}
    environ = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)} | places
    done = subprocess.run(
        [sys.executable, "manage.py", *words],
        cwd=project,
        env=environ,
        capture_output=True,
        text=True,
        timeout=HANG_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_two_lines_add_the_pages_to_a_new_project(project: Path) -> None:
    assert "no issues" in manage(project, "check")
    assert "No changes detected" in manage(project, "makemigrations", "--check", "--dry-run")
    assert "scoreline.0001_access... OK" in manage(project, "migrate")
    manage(project, "shell", "-c", VISITS)
