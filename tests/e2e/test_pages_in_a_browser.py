"""A real browser opens the pages of a running deployment."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, Request
from sklearn.linear_model import LogisticRegression

from scoreline.storage import keys
from scoreline.storage.models.manager import ModelStorageManager
from scoreline.storage.models.manifest import PinnedModel
from scoreline.storage.objects.directory import DirectoryStore
from scoreline.storage.settings import DEFAULT_BUCKET
from scoreline.tasks.client import Client
from scoreline.tasks.job.documents import Job, Outcome
from scoreline.tasks.job.index_entry import entry_of
from scoreline.tasks.job.spec import JobSpec
from scoreline.worker.dev.stack import Stack
from scoreline.worker.web.passwords import hash_password
from tests.support.waiting import HANG_S, wait_until

PASSWORD = "a long enough password"
ROLES = {"vera": "view", "oscar": "operate", "paula": "promote"}
MANY = 10_000
PAGES = (
    "/",
    "/jobs/",
    "/jobs/?state=failed",
    "/jobs/browsed/",
    "/jobs/browsed/rejects/",
    "/jobs/browsed/rows/",
    "/jobs/browsed/do/reject/",
    "/schedules/",
    "/schedules/nightly/",
    "/schedules/nightly/do/run/",
    "/models/",
    "/models/browsed/",
    "/models/browsed/aliases/champion/",
    "/workers/",
    "/backlog/",
    "/submit/",
    "/nowhere/",
)
COLOURS = ("color-contrast", "link-in-text-block")
LOOKS: tuple[tuple[int, Literal["light", "dark"], tuple[str, ...]], ...] = (
    (1280, "light", ()),
    (1280, "dark", COLOURS),
    (360, "dark", ()),
    (360, "light", COLOURS),
)
"""Widths, colour schemes, and the rules of axe to check, or all; only the rules of colours depend on the scheme."""
SCHEDULES = b"""
[nightly]
cron = "30 2 * * *"
model = "browsed@champion"
input = "s3://scoreline/browsed/"
"""


@dataclass(frozen=True)
class Site:
    """The pages of a deployment of their own, with a model, a job and a schedule."""

    address: str
    bucket: str
    crowded: Callable[[], str]
    """Starts the pages of a bucket with 10,000 jobs, and returns their address."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with Stack(tmp_path_factory.mktemp("pages")) as stack:
        stack.start_worker(1)
        client = Client.from_env(stack.environ)
        store = client.buckets.main
        rows = pd.DataFrame({"age": [1.0, 2.0, 3.0, 4.0], "plan": [0.0, 1.0, 0.0, 1.0]})
        model = LogisticRegression().fit(rows, ["a", "b", "a", "b"])
        ModelStorageManager.from_env(stack.environ).publish("browsed", model, alias="champion")
        store.put("browsed/a.csv", b"age,plan\n1,2\n3,4\n5,6\noops,1\n")
        store.put("schedules.toml", SCHEDULES)
        client.submit("browsed@champion", "s3://scoreline/browsed/", job_id="browsed", max_rejected="50%")
        list(client.watch("browsed", HANG_S))
        hashed = hash_password(PASSWORD)
        users = " ".join(f"{name}:{role}:{hashed}" for name, role in ROLES.items())
        settings = {"WEB_USERS": users, "WEB_SECRET_KEY": "k" * 60, "WEB_HTTPS": "false"}

        def crowded() -> str:
            folder = tmp_path_factory.mktemp("crowded")
            write_many(DirectoryStore(folder, DEFAULT_BUCKET), folder / DEFAULT_BUCKET)
            of_folder = {"ENVIRONMENT": "development", "STORE_DIR": str(folder), "R2_BUCKET": ""}
            return stack.start_web(settings | of_folder).rstrip("/")

        address = stack.start_web(settings).rstrip("/")
        yield Site(address=address, bucket=store.bucket, crowded=crowded)


def write_many(store: DirectoryStore, folder: Path) -> None:
    """Write the index of 10,000 jobs that have ended; every hundredth failed. The folder is that of the store."""
    begin = datetime(2026, 11, 25, tzinfo=UTC)
    model = PinnedModel(name="churn", version="20261101T120000Z-0a1b2", manifest_sha256="0" * 64)
    for number in range(MANY):
        spec = JobSpec(job_id=f"job-{number:05}", model="churn", inputs=("s3://in/",), output="s3://out/")
        at = (begin + timedelta(seconds=8 * number)).isoformat(timespec="milliseconds")
        outcome = Outcome(state="succeeded" if number % 100 else "failed", rows=number, failures={})
        entry = entry_of(Job(spec=spec, model=model, submitted=at), outcome)
        if not number:  # makes the folder of the day
            store.put(entry.key, entry.to_json())
        (folder / entry.key).write_bytes(entry.to_json())
    store.put(keys.JOBS_INDEX_BUILT, json.dumps({"at": begin.isoformat(), "jobs": MANY}).encode())


class Visit:
    """A logged-in page, and what the browser complained about."""

    def __init__(self, page: Page, address: str, name: str = "paula") -> None:
        self.page, self.address = page, address
        self.complaints: list[str] = []
        page.set_default_timeout(HANG_S * 1000)
        page.on("console", lambda message: self.complaints.append(message.text))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.goto(f"{address}/jobs/")
        page.get_by_label("Name").fill(name)
        page.get_by_label("Password").fill(PASSWORD)
        page.get_by_role("button", name="Log in").click()
        page.wait_for_url(f"{address}/jobs/")

    def violations(self, *rules: str) -> list[str]:
        """Return the rules of axe that the page breaks, of all rules or of some."""
        options = {"resultTypes": ["violations"]} | ({"runOnly": list(rules)} if rules else {})
        axe = Axe("0") if self.page.evaluate("'axe' in window") else Axe()  # parsing it takes as long as some rules
        found = axe.run(self.page, options=options).response["violations"]
        return [f"{rule['id']}: {rule['nodes'][0]['html']}" for rule in found]


@pytest.fixture
def visit(browser: Browser, site: Site) -> Iterator[Callable[..., Visit]]:
    contexts = []

    def begin(width: int = 1280, *, address: str = "", name: str = "paula", **options: Any) -> Visit:
        context = browser.new_context(viewport={"width": width, "height": 900}, **options)
        contexts.append(context)
        return Visit(context.new_page(), address or site.address, name)

    yield begin
    for context in contexts:
        context.close()


def test_every_page_is_usable_by_everyone_wide_and_narrow_in_light_and_dark(visit: Callable[..., Visit]) -> None:
    opened = visit(reduced_motion="reduce")  # so that colours change at once
    for path in PAGES:
        opened.page.goto(opened.address + path)
        for width, scheme, rules in LOOKS:
            opened.page.set_viewport_size({"width": width, "height": 900})
            opened.page.emulate_media(color_scheme=scheme)
            where = f"{path} at {width} px, {scheme}"
            assert opened.violations(*rules) == [], where
            assert opened.page.evaluate("document.documentElement.scrollWidth") <= width, where
    assert [text for text in opened.complaints if "404" not in text] == []  # the console notes /nowhere/


def test_a_page_is_light_to_load(visit: Callable[..., Visit]) -> None:
    opened = visit()
    for path in ("/", "/jobs/", "/jobs/browsed/", "/submit/"):
        sent: list[int] = []
        context = opened.page.context
        page = context.browser.new_context(storage_state=context.storage_state()).new_page()  # type: ignore[union-attr]
        session = page.context.new_cdp_session(page)
        session.send("Network.enable")
        session.on("Network.loadingFinished", lambda event, sent=sent: sent.append(event["encodedDataLength"]))
        page.goto(opened.address + path, wait_until="load")
        assert sum(sent) < 100_000, path
        page.context.close()


def test_a_job_is_seen_from_submission_to_outcome(visit: Callable[..., Visit], site: Site) -> None:
    opened = visit()
    page = opened.page
    # When a person tries a job and submits it
    page.get_by_role("link", name="New job").click()
    page.get_by_label("Model").fill("browsed@champion")
    page.get_by_label("Input").fill(f"s3://{site.bucket}/browsed/")
    page.get_by_label("Max rejected").fill("50%")
    page.get_by_role("button", name="Try it out").click()
    page.get_by_role("heading", name="This is what the job would do").wait_for()
    page.get_by_role("button", name="Submit the job").click()
    page.get_by_text("The job is submitted.").wait_for()
    # Then the page shows the outcome without being loaded by hand, and says it aloud
    page.locator("[data-state=partial]").wait_for()
    job_id = page.get_by_role("heading", level=1).inner_text()
    # And what is in sight is loaded at once, and what is further down when it comes into sight
    page.locator("#rejects + div .card").wait_for()
    page.get_by_role("heading", name="First rows").scroll_into_view_if_needed()
    page.get_by_role("table", name="First rows of part-00000.parquet").wait_for()
    # When the person rejects the results with a reason
    page.get_by_role("link", name="Reject", exact=True).click()
    page.get_by_label("Reason").fill("the input was wrong")
    page.get_by_role("button", name="Reject the results").click()
    page.locator("[data-state=blocked]").wait_for()
    page.get_by_text("paula withdrew the results").wait_for()
    assert job_id in page.title()
    assert opened.complaints == []


def test_a_hidden_tab_asks_for_nothing(visit: Callable[..., Visit]) -> None:
    opened = visit()
    page = opened.page
    page.goto(f"{opened.address}/workers/")
    asked: list[str] = []

    def note(request: Request) -> None:
        if not request.url.endswith("/mark.svg"):  # the icon, which the browser fetches some time after the page
            asked.append(request.url)

    page.on("request", note)
    # Given a tab that is hidden, whose clock then runs on for a minute
    page.clock.install()
    page.goto(f"{opened.address}/workers/")
    page.evaluate("Object.defineProperty(document, 'visibilityState', {value: 'hidden', configurable: true})")
    asked.clear()
    page.clock.run_for(60_000)
    assert asked == []
    # When it is seen again, then it asks for the part that is seen
    page.evaluate("Object.defineProperty(document, 'visibilityState', {value: 'visible', configurable: true})")
    page.clock.run_for(6_000)
    wait_until(lambda: asked, "a request for the part of the page")


def test_the_pages_can_be_read_without_javascript(visit: Callable[..., Visit]) -> None:
    opened = visit(java_script_enabled=False)
    opened.page.goto(f"{opened.address}/jobs/browsed/")
    opened.page.get_by_role("link", name="rejected rows by reason").click()
    opened.page.get_by_text("'age' is 'oops'").first.wait_for(state="attached")


def test_ten_thousand_jobs_are_searched_and_paged_through(visit: Callable[..., Visit], site: Site) -> None:
    opened = visit(address=site.crowded())
    page = opened.page
    # The newest jobs come first, and each page leads to older ones
    jobs = page.get_by_role("table").get_by_role("rowheader")
    assert jobs.first.inner_text().startswith("job-09999")
    page.get_by_role("link", name="Older jobs").click()
    page.get_by_role("link", name="Newest jobs").wait_for()
    assert jobs.first.inner_text().startswith("job-09974")
    # When a person asks for failed jobs until a time, then those are found among all
    page.get_by_text("Filter", exact=True).click()
    page.get_by_label("failed").check()
    page.get_by_label("Submitted until").fill("2026-11-25T03:00")
    page.get_by_role("button", name="Show").click()
    page.get_by_text("job-01300").wait_for()
    page.wait_for_load_state()
    assert jobs.all_inner_texts() == [f"job-{number:05}" for number in range(1_300, -1, -100)]
    assert opened.violations() == []
    assert opened.complaints == []


def test_a_person_sees_and_may_do_what_the_role_allows(visit: Callable[..., Visit]) -> None:
    seen = {}
    for name in ROLES:
        opened = visit(name=name)
        page = opened.page
        page.goto(f"{opened.address}/jobs/browsed/")
        found = page.locator(".actions .button").all_inner_texts()
        page.goto(f"{opened.address}/models/browsed/")
        seen[name] = [*found, *page.locator("main .button").all_text_contents()]
        # And a form without its token is refused, whoever sends it
        answer = page.request.post(f"{opened.address}/jobs/browsed/do/reject/", form={"reason": "no"})
        assert answer.status == 403
    rescore = "Score the rejected rows again"
    assert seen["vera"] == []
    assert seen["oscar"] == [rescore]
    assert seen["paula"] == [rescore, "Reject", "Go back to an earlier run", "Move this alias"]
