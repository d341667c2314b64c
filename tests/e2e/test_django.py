"""A Django site in a separate process enqueues jobs for a client that behaves like a browser."""

from __future__ import annotations

import contextlib
import http.cookiejar
import io
import re
import shlex
import signal
import sqlite3
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import pandas as pd
import pyarrow.parquet as pq
import pytest
from sklearn.linear_model import LinearRegression

from scoreline.storage import keys
from scoreline.storage.models.manager import ModelStorageManager
from scoreline.storage.objects.base import ObjectStore
from scoreline.tasks.client import Client
from scoreline.worker.dev.stack import Guard, Stack, free_port
from tests.support.waiting import HANG_S, wait_until

MANAGE = Path(__file__).with_name("djangosite") / "manage.py"
NOWHERE = "redis://:hush@127.0.0.1:9/0"
ONE_SECOND = '<meta http-equiv="refresh" content="1">'


@dataclass(frozen=True)
class Page:
    code: int
    path: str
    text: str

    @property
    def hidden(self) -> dict[str, str]:
        """The hidden fields of the page: the CSRF token and the key of the row."""
        return dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]+)"', self.text))

    @property
    def job_id(self) -> str:
        return re.findall(r'<dd id="job">([^<]+)</dd>', self.text)[0]


class Browser:
    """An HTTP client that keeps cookies and follows redirects."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._open = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar())).open

    def get(self, path: str) -> Page:
        return self._ask(path, None)

    def post(self, path: str, **fields: str) -> Page:
        return self._ask(path, urllib.parse.urlencode(fields).encode())

    def ask_for(self, model: str, input: str) -> Page:
        """Open the page with the form, fill it in and send it."""
        return self.post("/new/", **self.get("/new/").hidden, model=model, input=input)

    def follow(self, page: Page) -> Page:
        """Reload a page until it no longer refreshes itself, without the page's pause of a second."""

        def still() -> Page | None:
            now = self.get(page.path)
            return None if ONE_SECOND in now.text else now

        return wait_until(still, "a page that does not refresh itself") if ONE_SECOND in page.text else page

    def _ask(self, path: str, data: bytes | None) -> Page:
        try:
            with self._open(self._address + path, data, timeout=HANG_S) as answer:
                return Page(answer.status, urllib.parse.urlsplit(answer.url).path, answer.read().decode())
        except urllib.error.HTTPError as error:
            with error:
                return Page(error.code, path, error.read().decode())


class Site:
    """Runs the project by ``manage.py runserver`` until its `with` block ends."""

    def __init__(self, stack: Stack, folder: Path, environ: dict[str, str]) -> None:
        self._stack = stack
        self.database = folder / "site.sqlite3"
        self._log = folder / "site.log"
        self._environ = {"SECRET_KEY": "of-a-test", "DATABASE": str(self.database)} | environ
        self.address = f"http://127.0.0.1:{free_port()}"
        self.hook = f"{self.address}/scored/"
        if "HOOK_SECRET" in environ:
            self._environ["HOOK_URL"] = self.hook

    def __enter__(self) -> Self:
        manage = shlex.join([sys.executable, str(MANAGE)])
        script = f"{manage} migrate -v 0 && exec {manage} runserver --noreload {self.address[7:]}"
        command = ["sh", "-c", script]
        self._guard: Guard = self._stack.run(command, self._log, self._environ)
        wait_until(self._answers, "the site", self._log.read_text)
        return self

    def _answers(self) -> bool:
        try:
            assert self.browser().get("/").code == 200
        except urllib.error.URLError:
            assert self._guard.poll() is None, self._log.read_text()
            return False
        return True

    def __exit__(self, *_: object) -> None:
        self._stack.stop(self._guard)

    def browser(self) -> Browser:
        return Browser(self.address)

    def manage(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a command of the project."""
        environ = self._stack.environ_of_commands(self._environ)
        command = [sys.executable, str(MANAGE), *words]
        return subprocess.run(command, env=environ, capture_output=True, text=True, timeout=HANG_S, check=False)

    def rows(self) -> list[dict[str, Any]]:
        """Return the rows of the site, the oldest first."""
        with contextlib.closing(sqlite3.connect(self.database)) as connection:
            connection.row_factory = sqlite3.Row
            return [dict(row) for row in connection.execute("select * from scoring_prediction order by created")]


@pytest.fixture(scope="module")
def site(worker: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Run the site with the django-storages settings of settings.py, while the environment has other values."""
    environ = dict.fromkeys(worker.environ, "") | {
        "UPLOADS_URL": worker.environ["R2_ENDPOINT_URL"],
        "UPLOADS_BUCKET": worker.environ["R2_BUCKET"],
        "UPLOADS_KEY": worker.environ["R2_ACCESS_KEY_ID"],
        "UPLOADS_SECRET": worker.environ["R2_SECRET_ACCESS_KEY"],
        "QUEUE_URL": worker.environ["REDIS_URL"],
        **dict.fromkeys(("REDIS_URL", "REDIS_TLS_URL", "CELERY_BROKER_URL", "CELERY_RESULT_BACKEND"), NOWHERE),
    }
    with Site(worker, tmp_path_factory.mktemp("site"), environ) as running:
        yield running


@pytest.fixture
def browser(site: Site) -> Browser:
    return site.browser()


@pytest.fixture(scope="module")
def line(stack: Stack) -> str:
    """Publish a model that doubles, and return the URI of two rows for it."""
    models = ModelStorageManager.from_env(stack.environ)
    models.publish("site", LinearRegression().fit(pd.DataFrame({"x": [0.0, 1.0]}), [0.0, 2.0]), alias="champion")
    sink = io.BytesIO()
    pd.DataFrame({"id": [7, 8], "x": [1.0, 2.0]}).to_parquet(sink, index=False)
    store = Client.from_env(stack.environ).buckets.main
    store.put("site/in.parquet", sink.getvalue())
    return store.uri("site/in.parquet")


def jobs(store: ObjectStore) -> list[str]:
    """Return the ids of the site's jobs."""
    found = (info.key.split("/") for info in store.list("jobs/2"))
    return [job_id for _, job_id, file in found if file == "job.json"]


def assert_scored(store: ObjectStore, page: Page) -> None:
    folder = keys.output_folder("results/site/", page.job_id)
    table = pq.read_table(io.BytesIO(store.get(keys.result_part(folder, 0)).data))
    assert table.to_pydict() == {"id": [7, 8], "prediction": [pytest.approx(2.0), pytest.approx(4.0)]}


def test_a_form_submits_a_job_and_its_page_follows_the_job_to_its_end(
    browser: Browser, store: ObjectStore, line: str
) -> None:
    page = browser.ask_for("site@champion", line)
    done = browser.follow(page)
    assert 'class="state succeeded"' in done.text
    assert "2 scored, 0 rejected, of 2" in done.text
    assert_scored(store, done)
    overview = browser.get("/")
    assert f'<a href="{done.path}">site@champion</a>' in overview.text
    assert 'value="100"' in overview.text


def test_a_form_sent_twice_at_once_is_one_job(
    site: Site, browser: Browser, client: Client, store: ObjectStore, line: str
) -> None:
    before = set(jobs(store))
    fields = browser.get("/new/").hidden | {"model": "site@champion", "input": line}
    with ThreadPoolExecutor(2) as threads:
        first, second = threads.map(lambda _: browser.post("/new/", **fields), range(2))
    assert first.path == second.path
    assert browser.follow(first).text.count("2 scored, 0 rejected, of 2") == 1
    assert set(jobs(store)) - before == {first.job_id}
    with sqlite3.connect(site.database) as connection:
        assert connection.execute(
            "select count(*) from scoring_prediction where job_id = ?", [first.job_id]
        ).fetchone() == (1,)
    # And the same page is refused if it is submitted again with another value
    changed = browser.post("/new/", **fields | {"input": f"{line}.other"})
    assert "This page was sent before" in changed.text


@pytest.mark.parametrize(
    ("model", "input", "expected"),
    [
        ("../../etc", "s3://scoreline/site/", "not a valid name"),
        ("site", "s3://elsewhere/site/", "bucket &#x27;elsewhere&#x27; is not in ALLOWED_BUCKETS"),
        ("site", "file:///etc/passwd", "not of the form s3://bucket/key"),
        ("site", "s3://scoreline/../secrets", "between its slashes"),
        ("site", "", "This field is required"),
    ],
)
def test_a_refused_submission_shows_a_message_and_makes_no_job(
    site: Site, browser: Browser, store: ObjectStore, line: str, model: str, input: str, expected: str
) -> None:
    before = jobs(store), browser.get("/").text.count("<tr>")
    page = browser.ask_for(model, input)
    assert page.code == 200
    assert expected in page.text
    assert f'value="{model}"' in page.text  # the form shows the user's value again, for correction
    assert (jobs(store), browser.get("/").text.count("<tr>")) == before


def test_a_job_that_only_the_bucket_refuses_has_a_row_that_says_why(
    site: Site, browser: Browser, store: ObjectStore, line: str
) -> None:
    before = jobs(store)
    for model in ("nobody", "site@nobody"):
        page = browser.ask_for(model, line)
        assert 'class="state refused"' in page.text
        assert "nobody" in page.text
        assert ONE_SECOND not in page.text
    assert jobs(store) == before


def test_markup_in_the_form_is_escaped(browser: Browser, line: str) -> None:
    for page in (
        browser.ask_for("<script>alert(1)</script>", line),
        done := browser.follow(browser.ask_for("site", "s3://scoreline/site/<script>alert(1)</script>.parquet")),
        browser.get("/"),
        browser.get(f"{done.path}<script>alert(1)</script>"),
    ):
        assert "<script>" not in page.text
    assert 'class="state failed"' in done.text
    assert "&lt;script&gt;" in done.text


def test_a_form_from_another_site_is_refused(site: Site, browser: Browser, store: ObjectStore, line: str) -> None:
    before = jobs(store)
    fields = browser.get("/new/").hidden | {"csrfmiddlewaretoken": "x" * 64}
    assert browser.post("/new/", **fields, model="site", input=line).code == 403
    assert jobs(store) == before


KILLED = """
import os, signal
from django.db import transaction
from scoring.models import Prediction
with transaction.atomic():
    transaction.on_commit(lambda: os.kill(os.getpid(), signal.SIGKILL))
    Prediction.submit("site", "{line}")
"""
"""Submits a job in a process that dies after the commit, before the job is submitted."""
ROLLED_BACK = """
from django.db import transaction
from scoring.models import Prediction
with transaction.atomic():
    Prediction.submit("site", "{line}")
    transaction.set_rollback(True)
"""


def test_a_row_of_a_process_that_died_after_the_commit_is_sent_once(
    site: Site, browser: Browser, store: ObjectStore, line: str
) -> None:
    before = jobs(store)
    assert site.manage("shell", "-c", ROLLED_BACK.format(line=line)).returncode == 0
    assert site.manage("shell", "-c", KILLED.format(line=line)).returncode == -signal.SIGKILL
    (row,) = [row for row in site.rows() if row["state"] == "submitting"]
    page = browser.get(f"/{uuid.UUID(row['id'])}/")
    assert jobs(store) == before
    assert "Send again" in page.text
    # When a person and a command send it at once
    with ThreadPoolExecutor(2) as threads:
        command = threads.submit(site.manage, "scoreline_resend")
        done = browser.follow(browser.post(f"{page.path}send/", **page.hidden))
        assert command.result().returncode == 0, command.result().stderr
    assert_scored(store, done)
    assert set(jobs(store)) - set(before) == {row["job_id"]}


def test_rows_outlast_an_outage_and_a_webhook_tells_the_site_once(own: Stack, tmp_path: Path) -> None:
    # Given a site and a worker that share a secret
    secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    with Site(own, tmp_path, own.environ | {"HOOK_SECRET": secret}) as site:
        browser, hook = site.browser(), {"WEBHOOK_SECRET": secret, "ALLOWED_WEBHOOKS": site.hook}
        models = ModelStorageManager.from_env(own.environ)
        models.publish("site", LinearRegression().fit(pd.DataFrame({"x": [0.0, 1.0]}), [0.0, 2.0]))
        client = Client.from_env(own.environ)
        client.buckets.main.put("site/in.csv", b"x\n1\n2\n")
        uri = client.buckets.main.uri("site/in.csv")
        # When Redis is away, rows are saved, and the pages say why their jobs wait
        own.stop_valkey()
        page = browser.ask_for("site", uri)
        assert "The job is not submitted yet. cannot reach the broker" in page.text
        done = site.manage("scoreline_resend")
        assert done.returncode == 1
        assert "1 row still waiting to be submitted: cannot reach the broker" in done.stderr
        assert jobs(client.buckets.main) == []
        # When it is back, a command submits them, and the worker tells the site of the end
        own.restart_valkey()
        own.start_worker(1, hook)
        assert "1 job submitted, 0 refused" in site.manage("scoreline_resend").stdout
        wait_until(lambda: all(row["ended"] for row in site.rows()), "the notification")
        (row,) = site.rows()
        assert (row["state"], row["rows"], row["told"]) == ("succeeded", 2, 1)
        assert jobs(client.buckets.main) == [row["job_id"]]
        # Then asking for the state finds nothing new
        assert "0 jobs submitted, 0 refused, 0 ended" in site.manage("scoreline_resend", "--refresh").stdout
        assert [row["told"] for row in site.rows()] == [1]


def test_a_django_site_needs_nothing_but_environment_variables(
    worker: Stack, store: ObjectStore, line: str, tmp_path: Path
) -> None:
    with Site(worker, tmp_path, worker.environ) as site:
        assert_scored(store, site.browser().follow(site.browser().ask_for("site", line)))


def test_pages_report_that_redis_is_down_without_showing_its_password(
    stack: Stack, store: ObjectStore, line: str, tmp_path: Path
) -> None:
    before = jobs(store)
    with Site(stack, tmp_path, stack.environ | {"REDIS_URL": NOWHERE}) as site:
        browser = site.browser()
        page = browser.ask_for("site", line)
        again = browser.post(f"{page.path}send/", **page.hidden)
        pages = [page, again, browser.get("/"), browser.get("/nowhere"), browser.get(f"/{uuid.uuid4()}/")]
        with sqlite3.connect(site.database) as connection:
            connection.execute("drop table scoring_prediction")
        pages.append(browser.get("/"))
    assert [page.code for page in pages] == [200, 200, 200, 404, 404, 500]
    for page in pages[:2]:
        assert "The job is not submitted yet. cannot reach the broker at 127.0.0.1:9" in page.text
        assert "Send again" in page.text
    assert 'class="state submitting"' in pages[2].text
    for page in pages:
        assert not re.search(f"hush|of-a-test|{stack.environ['R2_SECRET_ACCESS_KEY']}", page.text)
    assert jobs(store) == before
