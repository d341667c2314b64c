"""A Django project of its own, made as docs/how-to/django.md says."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import joblib
import pandas as pd
import pytest
from sklearn.linear_model import LinearRegression

from scoreline.tasks.client import Client
from scoreline.worker.dev.stack import Stack
from tests.support.installed import ROOT
from tests.support.waiting import HANG_S
from tests.support.warm import run_script

DOCS = (ROOT / "docs/how-to/django.md").read_text()


def block(after: str) -> str:
    """Return the first block of Python after a text of the docs."""
    return re.findall(r"```python\n(.*?)```", DOCS.partition(after)[2], re.DOTALL)[0]


SETTINGS, URLS = block("Add to `shop/settings.py`"), block("Add to `shop/urls.py`")
MODELS, ADMIN = block("In `models.py` of an app of\nyours"), block("In `admin.py` of your app")
SUBMIT, RECEIVER, TESTS = block("Submit a job in a view"), block("and sends a signal"), block("## Test the project")

QUICK_HASHES = 'PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]\n'
"""Django's own hasher takes half a second for each of the passwords that are tried here."""
VISITS = """
from django.contrib.auth.models import Permission, User
from django.test import Client
boss, reader = User.objects.create_superuser("boss"), User.objects.create_user("reader", is_staff=True)
names = set(Permission.objects.filter(content_type__app_label="scoreline").values_list("codename", flat=True))
assert names == {"view", "operate", "promote"}, names
host = {"headers": {"host": "localhost"}}
# The project has no log-in, so the pages have one
visitor = Client(**host)
assert visitor.get("/scoreline/jobs/?state=failed")["Location"] == "/scoreline/log-in/?next=/scoreline/jobs/%3Fstate%3Dfailed"
asked = visitor.get("/scoreline/log-in/?next=/scoreline/jobs/")
assert b'name="password"' in asked.content and "default-src 'none'" in asked["Content-Security-Policy"]
ann = User.objects.create_user("ann", password="hush")
def enter(password, to="/scoreline/jobs/", name="ann", **more):
    form = {"username": name, "password": password, "next": to}
    return Client(**host, **more).post("/scoreline/log-in/", form)
assert b"correct username and password" in enter("wrong").content
assert enter("hush", enforce_csrf_checks=True).status_code == 403
assert enter("hush")["Location"] == "/scoreline/jobs/"
assert enter("hush", to="//evil.example/")["Location"] == "/scoreline/"
assert [enter("wrong", name=name).status_code for name in ("ann", " ann", "ANN", "ann" + 300 * " ", "\uff41nn")] == [200] * 5
refused = enter("hush")
assert refused.status_code == 429 and b"Try again in 5 minutes." in refused.content and "sessionid" not in refused.cookies
# Whoever is logged in has no more attempts for the password of another user
browser = Client(**host)
browser.force_login(ann)
guess = {"username": "boss", "password": "wrong"}
assert [browser.post("/scoreline/log-in/", guess).status_code for _ in range(6)] == [200] * 5 + [429]
left = browser.get("/scoreline/")
assert left.status_code == 403 and b'action="/scoreline/log-out/"' in left.content
assert browser.post("/scoreline/log-out/")["Location"] == "/scoreline/log-in/"
assert browser.get("/scoreline/")["Location"] == "/scoreline/log-in/?next=/scoreline/"
from django.test import override_settings
with override_settings(LOGIN_URL="admin:login"):
    assert visitor.get("/scoreline/")["Location"] == "/admin/login/?next=/scoreline/"
    assert visitor.get("/scoreline/log-in/").status_code == 404
    assert visitor.post("/scoreline/log-in/", {"username": "reader", "password": "x"}).status_code == 404
    browser.force_login(ann)
    assert b"log-out" not in browser.get("/scoreline/").content
browser.force_login(reader)
assert browser.get("/scoreline/").status_code == 403
assert b"/admin/scoreline/access/" not in browser.get("/admin/").content
reader.user_permissions.add(Permission.objects.get(codename="view", content_type__app_label="scoreline"))
assert browser.get("/scoreline/").status_code == 200
assert browser.get("/scoreline/submit/").status_code == 403
# The admin leads to the pages
assert b'<a href="/admin/scoreline/access/"' in browser.get("/admin/").content
assert browser.get("/admin/scoreline/access/")["Location"] == "/scoreline/"
assert browser.get("/admin/scoreline/access/add/").status_code == 403
browser.force_login(boss)
for path in ("", "jobs/", "models/", "schedules/", "submit/"):
    answer = browser.get(f"/scoreline/{path}")
    assert answer.status_code == 200, (path, answer.content)
    assert b"/static/scoreline/scoreline.css" in answer.content
from django.contrib.staticfiles import finders
assert finders.find("scoreline/scoreline.css")
assert browser.get("/scoreline/assets/htmx-%s.js" % __import__("importlib.metadata").metadata.version("django-htmx")).status_code == 200
"""  # noqa: E501
SCORED = """
import time
from django.contrib.auth.models import User
from django.test import Client
from scoring.models import Prediction
{receiver}
row = Prediction.submit("shop@champion", "s3://scoreline/shop/", customer="ann")
waiting = Prediction(model="shop@champion", inputs=["s3://scoreline/shop/"], customer="bob"); waiting.save()
boss = User.objects.create_superuser("boss")
browser = Client(headers={{"host": "localhost"}})
browser.force_login(boss)
page = browser.get(row.page)
assert page.status_code == 200, page.content
def admin(action, *rows, **more):
    fields = {{"action": action, "_selected_action": [row.pk for row in rows], **more}}
    return browser.post("/admin/scoring/prediction/", fields, follow=True).content.decode()
until = time.monotonic() + {hang_s}
while Prediction.objects.filter(ended=None).exists():
    assert time.monotonic() < until
    said = admin("refresh", row, waiting)
    assert "2 jobs refreshed." in said, said
assert all(one.state == "succeeded" for one in Prediction.objects.all()), list(Prediction.objects.values())
listed = browser.get("/admin/scoring/prediction/").content.decode()
assert f'<a href="{{row.page}}">{{row.job_id}}</a>' in listed, listed
assert "By state" in listed
while "succeeded" not in browser.get(row.page).content.decode():  # what the page has read is shared for a while
    assert time.monotonic() < until
detail = browser.get(f"/admin/scoring/prediction/{{row.pk}}/change/").content.decode()
assert 'name="customer"' in detail and 'name="state"' not in detail, detail
assert browser.get("/admin/scoring/prediction/add/").status_code == 403
assert "All selected jobs have ended." in admin("cancel", row)
# A job under way is cancelled after a confirmation, in the name of the user
last = Prediction(model="shop@champion", inputs=["s3://scoreline/shop/"], customer="cat"); last.save()
asked = admin("cancel", last)
assert "1 job will end now." in asked and last.job_id in asked, asked
last.refresh_from_db()
assert last.state == "submitting"
said = admin("cancel", last, confirmed="yes")
last.refresh_from_db()
# A job may end by itself meanwhile, and the answer says so
assert ("1 job cancelled." if last.state == "cancelled" else f"{{last.job_id}} is not cancelled") in said, said
while last.ended is None:  # its results are being completed
    assert time.monotonic() < until
    last.refresh()
# Who may only look cannot cancel
reader = User.objects.create_user("reader", is_staff=True)
from django.contrib.auth.models import Permission
reader.user_permissions.add(Permission.objects.get(codename="view_prediction"))
browser.force_login(reader)
assert 'value="refresh"' in browser.get("/admin/scoring/prediction/").content.decode()
assert 'value="cancel"' not in browser.get("/admin/scoring/prediction/").content.decode()
"""
TRAINED = """
from sklearn.linear_model import LogisticRegression
import pandas as pd
model = LogisticRegression().fit(pd.DataFrame({"age": [1.0, 2.0]}), ["stays", "leaves"])
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    subprocess.run([sys.executable, "-m", "django", "startproject", "shop", str(tmp_path)], check=True, timeout=HANG_S)
    for name, text in (("settings", SETTINGS + QUICK_HASHES), ("urls", URLS)):
        with (tmp_path / f"shop/{name}.py").open("a") as file:
            file.write(text)
    return tmp_path


def run(project: Path, *words: str, **settings: str) -> subprocess.CompletedProcess[str]:
    environ = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)} | settings
    return run_script(str(project / "manage.py"), *words, environ=environ, folder=project)


def manage(project: Path, *words: str, settings: Mapping[str, str] | None = None) -> str:
    places = {"ENVIRONMENT": "development", "STORE_DIR": str(project / "store"), "R2_BUCKET": "scoreline"}
    done = run(project, *words, **(places if settings is None else settings))
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_lines_of_the_docs_add_the_pages_to_a_new_project(project: Path) -> None:
    own = [line for line in (SETTINGS + URLS).splitlines() if line.strip()]
    assert len(own) <= 6
    assert "no issues" in manage(project, "check")
    assert "No changes detected" in manage(project, "makemigrations", "--check", "--dry-run")
    assert "scoreline.0001_access... OK" in manage(project, "migrate")
    manage(project, "shell", "-c", VISITS)


def test_a_job_of_the_docs_is_on_its_page_and_in_the_admin(project: Path, worker: Stack, tmp_path: Path) -> None:
    # Given the app of the docs, a model and an input
    manage(project, "startapp", "scoring")
    for name, text in (("models", MODELS), ("admin", ADMIN), ("views", SUBMIT), ("tests", TRAINED + TESTS)):
        (project / f"scoring/{name}.py").write_text(text)
    with (project / "shop/settings.py").open("a") as file:
        file.write('INSTALLED_APPS += ["scoring"]\n')
    settings = worker.environ
    manage(project, "makemigrations", "scoring", settings=settings)
    manage(project, "migrate", settings=settings)
    assert "No changes" in manage(project, "makemigrations", "--check", "--dry-run", settings=settings)
    joblib.dump(LinearRegression().fit(pd.DataFrame({"x": [0.0, 1.0]}), [0.0, 2.0]), tmp_path / "model.joblib")
    sink = io.BytesIO()
    pd.DataFrame({"x": [1.0, 2.0]}).to_parquet(sink, index=False)
    Client.from_env(worker.environ).buckets.main.put("shop/in.parquet", sink.getvalue())
    # When the model is published by the command line of the project, then a form's job ends on its page
    publish = ("models", "publish", "shop", "--model", str(tmp_path / "model.joblib"), "--alias", "champion")
    assert "shop@" in manage(project, "scoreline", *publish, settings=settings)
    code = SCORED.format(receiver=RECEIVER, hang_s=HANG_S)
    said = manage(project, "shell", "-c", code, settings=settings)
    assert re.search(r"ann succeeded s3://scoreline/results/shop/job_id=", said)
    # And the tests of the docs pass, without services
    done = run(project, "test", ENVIRONMENT="development")
    assert done.returncode == 0, done.stderr
    assert "Ran 1 test" in done.stderr
    # And the command line keeps its options and exit codes, and Django keeps its own
    assert "Usage: manage.py scoreline [OPTIONS] COMMAND" in manage(project, "scoreline", "--help")
    assert "Usage: manage.py scoreline jobs" in manage(project, "scoreline", "--no-color", "jobs", "--help")
    assert "Usage: manage.py scoreline [OPTIONS] COMMAND" in manage(project, "help", "scoreline")
    jobs = manage(project, "scoreline", "jobs", "--model", "shop", "--settings", "shop.settings", settings=settings)
    assert len(re.findall("succeeded", jobs)) >= 2
    assert run(project, "scoreline", "status", "no-such-job", **settings).returncode == 2
    # After its command, an option is the command's, which does not have this one
    assert run(project, "scoreline", "jobs", "--no-color", **settings).returncode == 2
    assert "serves the pages itself" in run(project, "scoreline", "web", **settings).stderr
    call = 'from django.core.management import call_command; call_command("scoreline", "status", "no-such-job")'
    assert "CommandError" in run(project, "shell", "-c", call, **settings).stderr
    assert "0 jobs submitted, 0 refused, 0 ended" in manage(project, "scoreline_resend", "--refresh", settings=settings)


def test_missing_settings_are_named_by_the_check(project: Path) -> None:
    said = run(project, "check")
    assert said.returncode == 1
    assert "scoreline.E001) R2_BUCKET is not set" in said.stderr
    assert "HINT: Set it in settings.py or in the environment" in said.stderr


def test_services_are_asked_only_before_a_deployment(project: Path) -> None:
    nowhere = {
        "R2_BUCKET": "scoreline",
        "R2_ENDPOINT_URL": "http://127.0.0.1:9",
        "R2_ACCESS_KEY_ID": "k",
        "R2_SECRET_ACCESS_KEY": "hush",
        "CELERY_BROKER_URL": "redis://:hush@127.0.0.1:9/0",
    }
    assert "no issues" in manage(project, "check", settings=nowhere)
    said = run(project, "check", "--deploy", **nowhere).stderr
    for expected in ("E010) cannot reach Redis at 127.0.0.1:9", "E011) cannot reach the broker", "E012) "):
        assert f"scoreline.{expected}" in said
    assert "hush" not in said
    guessed = {name: value for name, value in nowhere.items() if name != "CELERY_BROKER_URL"}
    assert (
        "scoreline.W001) No setting gives the address of Redis, so redis://127.0.0.1:6379/0"
        in run(project, "check", **guessed).stderr
    )
