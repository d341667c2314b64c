"""What people with a role see on the pages."""

from __future__ import annotations

import html
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pandas as pd
import pytest
from django.template.loader import render_to_string
from django.test import Client as Browser
from django.test import RequestFactory, override_settings
from sklearn.linear_model import LinearRegression

from scoreline.storage.errors import StoreUnavailable
from scoreline.storage.objects.base import ObjectInfo
from scoreline.storage.objects.directory import DirectoryStore
from scoreline.tasks.django.process import overview
from scoreline.tasks.job.documents import Status
from scoreline.tasks.overview.workers import Worker
from scoreline.tasks.rejects.report import Example, ReasonCount
from scoreline.tasks.schedules.scheduler import Scheduler
from scoreline.testing import EagerClient, eager
from tests.support.pages import log_in, serving, text_of

PAGES = (
    "/",
    "/jobs/",
    "/jobs/scored/",
    "/jobs/scored/rejects/",
    "/jobs/scored/rows/",
    "/schedules/",
    "/schedules/nightly/",
    "/models/",
    "/models/churn/",
    "/workers/",
    "/backlog/",
)
OPERATE = ("/submit/", "/jobs/scored/do/resume-rejected/", "/schedules/nightly/do/run/", "/schedules/nightly/do/pause/")
PROMOTE = (
    "/jobs/scored/do/reject/",
    "/models/churn/aliases/champion/",
    "/results/rollback/?output=s3://scoreline/results/churn/",
)


@pytest.mark.parametrize("path", [*PAGES, "/jobs/scored/files/_manifest.json", *OPERATE, *PROMOTE])
@pytest.mark.parametrize("method", ["get", "post"])
def test_nobody_sees_or_does_anything_without_a_user(client: EagerClient, job: str, path: str, method: str) -> None:
    answer = getattr(Browser(), method)(path)
    assert answer.status_code in (302, 405)
    assert "churn@" not in answer.content.decode()
    if answer.status_code == 302:
        assert answer["Location"].startswith("/log-in/")


@pytest.mark.parametrize("path", PAGES)
def test_a_user_who_may_view_sees_every_page(client: EagerClient, job: str, path: str) -> None:
    answer = log_in("vera").get(path)
    assert answer.status_code == 200, text_of(answer)
    assert "New job" not in answer.content.decode()


@pytest.mark.parametrize(
    ("paths", "allowed"), [(OPERATE, ("oscar", "paula")), (PROMOTE, ("paula",))], ids=["operate", "promote"]
)
@pytest.mark.parametrize("method", ["get", "post"])
def test_each_action_needs_its_permission(
    client: EagerClient, job: str, paths: tuple[str, ...], allowed: tuple[str, ...], method: str
) -> None:
    for name in ("vera", "oscar", "paula"):
        browser = log_in(name)
        for path in paths:
            status = getattr(browser, method)(path).status_code
            assert (status != 403) == (name in allowed), f"{name} {method} {path}: {status}"


def test_the_page_of_a_job_says_what_became_of_it(client: EagerClient, job: str) -> None:
    text = text_of(log_in("vera").get(f"/jobs/{job}/"))
    assert "partial Rows scored 3 Rejected 1 Parts 1 of 1" in text
    assert "asked for as churn@champion" in text
    assert "part-00000.parquet" in text


def test_the_page_of_the_workers_says_which_versions_are_at_work(
    client: EagerClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    versions = {"scoreline": "9.1", "scikit-learn": "1.7"}
    worker = Worker(name="ours@a", processes=2, busy=(), cache_bytes=0, versions=versions)
    monkeypatch.setattr("scoreline.tasks.overview.overview.ask_workers", lambda queue, names: (worker,))
    assert "ours@a 2 processes · 0 B of models in memory scoreline 9.1 · scikit-learn 1.7" in text_of(
        log_in("vera").get("/workers/")
    )


def test_rejected_rows_are_shown_by_reason_with_examples(client: EagerClient, job: str) -> None:
    text = text_of(log_in("vera").get(f"/jobs/{job}/rejects/"))
    assert "1 row decode age" in text
    assert "'age' is 'oops'" in text


def test_the_first_rows_of_the_results_are_shown(client: EagerClient, job: str) -> None:
    text = text_of(log_in("vera").get(f"/jobs/{job}/rows/"))
    assert "prediction proba_leaves proba_stays" in text


def test_jobs_are_found_by_state_model_label_schedule_and_time(client: EagerClient, job: str) -> None:
    client.submit(
        "churn@champion", "s3://scoreline/in/", job_id="labelled", max_rejected="50%", labels={"team": "risk"}
    )
    browser = log_in("vera")

    def found(query: str) -> set[str]:
        text = text_of(browser.get(f"/jobs/?{query}"))
        return {name for name in ("scored", "labelled") if f"{name} " in text.partition("Submitted")[2]}

    assert found("") == {"scored", "labelled"}
    assert found("state=partial&model=churn") == {"scored", "labelled"}
    assert found("label=team%3Drisk") == {"labelled"}
    assert found("state=failed") == found("model=other") == found("group=x") == found("schedule=nightly") == set()
    assert found("until=2020-01-01") == set()
    assert "is not a time" in text_of(browser.get("/jobs/?since=soon"))


def test_pages_of_jobs_follow_each_other_without_gaps(client: EagerClient) -> None:
    for number in range(30):
        client.submit("churn@champion", "s3://scoreline/in/", job_id=f"job-{number:02}", max_rejected="50%")
    browser, seen, address = log_in("vera"), [], "/jobs/"
    while address:
        page = browser.get(address).content.decode()
        seen += [part.split('"')[0].strip("/") for part in page.split('href="/jobs/job-')[1:]]
        following = page.partition('href="?')[2].partition('">Older')
        address = f"/jobs/?{following[0].replace('&amp;', '&')}" if following[1] else ""
    assert seen == [f"{number:02}" for number in reversed(range(30))]


def test_the_home_page_says_what_needs_attention(client: EagerClient) -> None:
    scheduler = overview().scheduler
    scheduler.tick(datetime(2020, 1, 1, tzinfo=UTC))
    text = text_of(log_in("vera").get("/"))
    assert "1 of 1 schedule needs attention" in text
    assert "has not begun. Is beat running?" in text
    overview().forget()
    scheduler.tick()
    text = text_of(log_in("vera").get("/"))
    assert "All is well" in text
    assert "3 rows, 1 rejected" in text


def test_a_bucket_that_is_away_is_said_and_is_not_a_defect(
    client: EagerClient, job: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    browser = log_in("paula")

    def away(*_: Any, **__: Any) -> Any:
        raise StoreUnavailable("s3://scoreline cannot be reached: connection refused")

    for method in ("get", "head", "list", "folders"):
        monkeypatch.setattr(DirectoryStore, method, away)
    overview().forget()
    for path in (*PAGES, *OPERATE[1:], *PROMOTE):
        if path == "/workers/":  # it asks the workers alone
            continue
        answer = browser.get(path)
        assert answer.status_code == 503, f"{path}: {text_of(answer)}"
        assert "cannot be reached" in text_of(answer)


def test_a_part_of_a_page_is_sent_again_only_if_it_has_changed(client: EagerClient, job: str) -> None:
    browser = log_in("vera")
    whole = browser.get("/jobs/").content.decode()
    seen = whole.partition("X-Scoreline-Seen&quot;: &quot;")[2].partition("&quot;")[0]
    part = {"headers": {"HX-Request": "true", "X-Scoreline-Seen": seen}}
    assert browser.get("/jobs/", **part).status_code == 204
    client.submit("churn@champion", "s3://scoreline/in/", job_id="another", max_rejected="50%")
    overview().forget()
    answer = browser.get("/jobs/", **part)
    assert answer.status_code == 200
    assert "another" in answer.content.decode()
    assert "<html" not in answer.content.decode()


def test_a_browser_that_watches_a_job_loads_the_whole_page_once_it_has_ended(client: EagerClient, job: str) -> None:
    answer = log_in("vera").get(f"/jobs/{job}/", headers={"HX-Request": "true"})
    assert (answer.status_code, answer["HX-Refresh"]) == (204, "true")


def test_files_beside_the_results_can_be_downloaded_and_nothing_else(client: EagerClient, job: str) -> None:
    browser = log_in("vera")
    answer: Any = browser.get(f"/jobs/{job}/files/_manifest.json")
    assert b'"rows": 3' in b"".join(answer.streaming_content)
    assert answer["Content-Disposition"].startswith("attachment")
    for name in ("../latest.json", "..%2Flatest.json", "%2e%2e/latest.json", "a//b", ".", "x" * 2_000, "nothing.json"):
        assert browser.get(f"/jobs/{job}/files/{name}").status_code == 404, name


@pytest.mark.parametrize(
    ("way", "uses_https", "leads_away"),
    [("auto", True, True), ("auto", False, False), ("presigned", False, True), ("streamed", True, False)],
)
def test_a_store_with_https_sends_downloads_itself_for_minutes(
    client: EagerClient, job: str, monkeypatch: pytest.MonkeyPatch, way: str, uses_https: bool, leads_away: bool
) -> None:
    store: Any = client.buckets.main
    signed: list[tuple[str, int, str]] = []

    def presign_read(key: str, *, seconds: int, disposition: str) -> str:
        signed.append((key, seconds, disposition))
        return "https://store.example.com/signed"

    monkeypatch.setattr(store, "uses_https", uses_https, raising=False)
    monkeypatch.setattr(store, "presign_read", presign_read, raising=False)
    monkeypatch.setenv("WEB_DOWNLOADS", way)
    browser = log_in("vera")
    answer: Any = browser.get(f"/jobs/{job}/files/_manifest.json")
    if not leads_away:
        assert b'"rows": 3' in b"".join(answer.streaming_content)
        return
    assert (answer.status_code, answer["Location"]) == (302, "https://store.example.com/signed")
    assert (answer["Cache-Control"], answer["Referrer-Policy"]) == ("private, no-store", "no-referrer")
    name = "attachment; filename*=UTF-8''scored-_manifest.json"
    assert signed == [(f"results/churn/job_id={job}/_manifest.json", 300, name)]
    # And nobody gets an address without a log-in, of another object, or of an object that does not exist
    assert Browser().get(f"/jobs/{job}/files/_manifest.json")["Location"].startswith("/log-in/")
    assert browser.get(f"/jobs/{job}/files/%2e%2e/latest.json").status_code == 404
    assert browser.get(f"/jobs/{job}/files/nothing.json").status_code == 404
    assert len(signed) == 1


def test_objects_whose_names_no_address_can_have_do_not_break_the_page_of_a_job(
    client: EagerClient, job: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The first is a folder, as consoles of object stores create them
    names = ("", "a\nb", "a//b", "below/", "../latest.json", "good/a.csv")
    listed = DirectoryStore.list

    def with_others(self: DirectoryStore, prefix: str) -> Any:
        found = [ObjectInfo(key=prefix + name, size=1, etag="x") for name in names if "job_id" in prefix]
        yield from (*found, *listed(self, prefix))

    monkeypatch.setattr(DirectoryStore, "list", with_others)
    answer = log_in("vera").get(f"/jobs/{job}/")
    assert answer.status_code == 200
    links = re.findall(r'/files/([^"]*)"', answer.content.decode())
    assert "good/a.csv" in links
    assert "_manifest.json" in links
    assert not {"", "a//b", "below/", "../latest.json"} & set(links)


def test_any_name_of_a_file_can_be_downloaded(client: EagerClient, job: str) -> None:
    name = """q"; filename="evil.html'%41 😀?#&.csv"""
    client.put(f"results/churn/job_id={job}/{name}", "a")
    browser = log_in("vera")
    links = re.findall(r'href="([^"]*/files/q[^"]*)"', browser.get(f"/jobs/{job}/").content.decode())
    answer: Any = browser.get(html.unescape(links[0]))
    assert b"".join(answer.streaming_content) == b"a"
    given = answer["Content-Disposition"].removeprefix("attachment; filename*=UTF-8''")
    assert re.fullmatch(r"[A-Za-z0-9._%~-]+", given)
    assert unquote(given) == f"{job}-{name}"


def test_asking_for_the_size_of_a_file_neither_reads_it_nor_leads_to_the_store(
    client: EagerClient, job: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store: Any = client.buckets.main

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("the object was read or its address was signed")

    path = f"/jobs/{job}/files/_manifest.json"
    browser = log_in("vera")
    size = len(b"".join(browser.get(path).streaming_content))
    monkeypatch.setattr(store, "uses_https", True, raising=False)
    monkeypatch.setattr(store, "presign_read", refuse, raising=False)
    read = store.get
    monkeypatch.setattr(store, "get", lambda key, **more: refuse() if "_manifest" in key else read(key, **more))
    answer: Any = browser.head(path)
    assert (answer.status_code, answer["Content-Length"]) == (200, str(size))
    assert b"".join(answer.streaming_content) == b""


def test_a_wrong_way_to_download_is_named(client: EagerClient, job: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEB_DOWNLOADS", "by mail")
    answer = log_in("vera").get(f"/jobs/{job}/files/_manifest.json")
    assert answer.status_code == 503
    assert "WEB_DOWNLOADS" in text_of(answer)


def test_the_page_of_a_job_compares_its_challenger(client: EagerClient) -> None:
    older, newer = sorted(client.registry.versions("churn"))
    job = client.submit(
        "churn@champion", "s3://scoreline/in/", job_id="compared", max_rejected="50%", challenger=f"churn@{older}"
    ).job_id
    browser = log_in("vera")
    page = text_of(browser.get(f"/jobs/{job}/"))
    assert f"churn@{older} scored 3 rows that churn@{newer} scored, too." in page
    assert "prediction the same class for 100% of the rows" in page
    assert "proba_stays rank correlation 1, mean difference" in page
    # And a comparison that somebody has damaged is named, beside everything else
    key = f"results/churn/job_id={job}/_challenger/_comparison.json"
    client.buckets.main.put(key, b"{")
    overview().forget()
    page = text_of(browser.get(f"/jobs/{job}/"))
    assert "_comparison.json is damaged" in page
    assert "_manifest.json" in page
    assert newer in page


def test_a_report_is_shown_as_a_foreign_page_without_scripts(client: EagerClient, job: str, tmp_path: Path) -> None:
    client.put(f"results/churn/job_id={job}/_report.html", "<script>alert(1)</script><h1>Report</h1>")
    overview().forget()
    browser = log_in("vera")
    assert f"/jobs/{job}/report/" in browser.get(f"/jobs/{job}/").content.decode()
    answer = browser.get(f"/jobs/{job}/report/")
    assert answer["Content-Security-Policy"].endswith("; sandbox")
    assert "script-src 'none'" in answer["Content-Security-Policy"]


def test_scheduler_reads_the_schedules_of_the_deployment(client: EagerClient) -> None:
    Scheduler(client, Path("nowhere")).tick()
    text = text_of(log_in("vera").get("/schedules/nightly/"))
    assert "30 2 * * *" in text


def test_a_label_a_column_and_a_group_may_be_called_items(client: EagerClient, tmp_path: Path) -> None:
    """A template that asks a mapping for its items gets the value of that key instead."""
    client.submit(
        "churn@champion",
        "s3://scoreline/in/",
        job_id="listed",
        max_rejected="50%",
        labels={"items": "x", "team": "risk"},
        group="items",
    )
    browser = log_in("vera")
    for path in ("/", "/jobs/", "/jobs/listed/"):
        assert "items=x" in text_of(browser.get(path)), path
    example = Example(source="a.csv", row=1, message="no", columns={"items": "few"})
    reasons = [ReasonCount(stage="predict", column="", message="no", rows=1, examples=[example])]
    page = render_to_string("scoreline/_rejects.html", {"rejected": {"reasons": reasons}}, RequestFactory().get("/"))
    assert "<dt>items</dt><dd>few</dd>" in page
    with eager(tmp_path / "waits", run=False) as waiting:
        waiting.models.publish("m", LinearRegression().fit(pd.DataFrame({"x": [1.0, 2.0]}), [1.0, 2.0]))
        waiting.put("in/a.csv", "x\n1\n")
        waiting.submit("m", "s3://scoreline/in/", job_id="waits", group="items")
        assert "items 1" in text_of(browser.get("/backlog/"))


@pytest.mark.parametrize(
    "query",
    [
        "since=0001-01-01T00:00%2B14:00",
        "until=9999-12-31T23:59-14:00",
        "after=9999-12-31T23:59:59-14:00~scored",
        "after=0001-01-01T00:00%2B14:00~scored",
    ],
)
def test_a_time_at_the_end_of_the_calendar_is_no_defect(client: EagerClient, job: str, query: str) -> None:
    answer = log_in("vera").get(f"/jobs/?{query}")
    assert answer.status_code in (200, 400)


def test_hours_are_in_utc_in_a_project_with_another_time_zone(tmp_path: Path) -> None:
    with serving(tmp_path, TIME_ZONE="Asia/Tokyo"):
        before = datetime.now(UTC)
        page = log_in("vera").get("/backlog/").content.decode()
        expected = {f"{at:%H}:00" for at in (before, datetime.now(UTC))}
    assert re.findall(r"<title>(\d\d:\d\d) UTC", page)[-1] in expected


def test_numbers_that_a_browser_reads_have_no_separators(client: EagerClient) -> None:
    status = Status(
        job_id="big", state="running", model="churn@v", output="", rows=1_000, total_rows=10_000, parts=2_000
    )
    with override_settings(USE_THOUSAND_SEPARATOR=True, USE_I18N=True):
        page = render_to_string("scoreline/_job_table.html", {"jobs": [status]}, RequestFactory().get("/"))
    assert '<progress value="1000" max="10000"' in page


def test_results_that_are_damaged_are_said_and_are_no_defect(client: EagerClient, job: str) -> None:
    key = f"results/churn/job_id={job}/part-00000.parquet"
    data = bytearray(client.buckets.main.get(key).data)
    for broken in (b"PAR1" + b"x" * 200 + b"PAR1", bytes(data[:4] + bytes(len(data) - 12) + data[-8:]), b"", b"PAR1"):
        client.put(key, broken)
        overview().forget()
        assert log_in("vera").get(f"/jobs/{job}/rows/").status_code in (200, 503)


def test_an_object_whose_name_no_address_can_have_is_left_out(client: EagerClient, job: str) -> None:
    client.put(f"results/churn/job_id={job}/a\nb.txt", "x")
    overview().forget()
    page = log_in("vera").get(f"/jobs/{job}/")
    assert page.status_code == 200
    assert "part-00000.parquet" in text_of(page)


def test_an_empty_list_says_whether_a_filter_is_why(client: EagerClient) -> None:
    browser = log_in("vera")
    assert "There are no jobs yet." in text_of(browser.get("/jobs/"))
    assert "No job matches." in text_of(browser.get("/jobs/", {"state": "failed"}))
