"""Who gets in, and what a hostile request or a hostile document can do: nothing."""

from __future__ import annotations

import re
import secrets
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import hypothesis.strategies as st
import pytest
from django.conf import settings as configured
from django.core.checks.registry import registry
from django.core.management import call_command
from django.test import Client as Browser
from django.test import override_settings
from django.urls import get_resolver
from hypothesis import HealthCheck, given, settings

from scoreline.storage.errors import InvalidSettings
from scoreline.tasks.django import limits
from scoreline.tasks.django.said import sign_text
from scoreline.testing import EagerClient
from scoreline.worker.cli.web import serve
from scoreline.worker.web.passwords import hash_password, verify
from scoreline.worker.web.sessions import EndedSessions
from scoreline.worker.web.settings import KnownUser, WebSettings
from tests.support.pages import PASSWORD, USERS, log_in, serving, text_of
from tests.unit.pages.conftest import HOSTILE

KEY = "k" * 60
HOSTILE_IDS = [
    HOSTILE,
    "x" * 200,
    "..",
    "a'b",
    'a"b',
    "\N{PILE OF POO}",
    "{{ 7*7 }}",
    "a%00b",
    "-",
    "%",
    "a b",
    "\u202e",
]


@pytest.mark.parametrize("name", HOSTILE_IDS)
@pytest.mark.parametrize(
    "path", ["/jobs/{}/", "/jobs/{}/do/cancel/", "/models/{}/", "/schedules/{}/", "/jobs/{}/rows/"]
)
def test_a_hostile_name_is_not_found_and_not_repeated(client: EagerClient, name: str, path: str) -> None:
    answer = log_in("paula").get(path.format(quote(name, safe="")))
    assert answer.status_code in (301, 404)
    assert "<script>alert" not in answer.content.decode()


def test_hostile_texts_of_documents_and_forms_are_shown_as_texts(client: EagerClient) -> None:
    client.put("in/hostile.csv", f'age,plan\n1,2\n"{HOSTILE.replace(chr(34), chr(34) * 2)}",1\n')
    client.submit("churn@champion", "s3://scoreline/in/hostile.csv", job_id="h" * 100, max_rejected="90%")
    client.reject("h" * 100, HOSTILE)
    browser = log_in("paula")
    for path in (f"/jobs/{'h' * 100}/", f"/jobs/{'h' * 100}/rejects/", "/jobs/", "/"):
        page = browser.get(path).content.decode()
        assert "<script>alert" not in page, path
    assert HOSTILE in text_of(browser.get(f"/jobs/{'h' * 100}/"))
    form = {"model": HOSTILE, "input": HOSTILE, "output": HOSTILE, "labels": HOSTILE, "step": "try"}
    assert "<script>alert" not in browser.post("/submit/", form).content.decode()
    assert "<script>alert" not in browser.get("/jobs/", {"model": HOSTILE, "since": HOSTILE}).content.decode()


def test_a_load_balancer_that_asks_by_address_gets_an_answer(client: EagerClient) -> None:
    browser = Browser(headers={"host": "10.1.2.3:8000"})
    assert browser.get("/healthz").status_code == 200
    assert browser.get("/log-in/").status_code == 400


def test_every_answer_forbids_foreign_content(client: EagerClient, job: str) -> None:
    browser = log_in("paula")
    for path in ("/", f"/jobs/{job}/", "/jobs/nothing/", "/submit/", "/log-in/", "/nowhere/"):
        answer = browser.get(path)
        policy = answer["Content-Security-Policy"]
        assert "default-src 'none'; script-src 'self'; style-src 'self'" in policy, path
        assert "unsafe" not in policy
        assert answer["X-Content-Type-Options"] == "nosniff"
        assert answer["X-Frame-Options"] == "DENY"
        page = answer.content.decode()
        assert not re.search(r"\sstyle=|<style|\son\w+=|<script(?! src=)|javascript:", page), path
        assert not re.search(r'(?:src|href)="(?:https?:)?//', page), path


def test_only_the_health_check_needs_no_user(client: EagerClient) -> None:
    assert Browser().get("/healthz").content == b"ok\n"
    names = {"job_id": "a", "name": "b", "action": "cancel", "model": "m", "alias": "x", "schedule": "s"}
    open_paths = set()
    for pattern in get_resolver().url_patterns:
        for leaf in getattr(pattern, "url_patterns", [pattern]):
            path = "/" + re.sub(r"<\w+:(\w+)>", lambda found: names[found[1]], str(leaf.pattern))
            if Browser().get(path).status_code == 200:
                open_paths.add(path)
    assert open_paths - {path for path in open_paths if path.startswith("/assets/htmx-")} == {"/healthz", "/log-in/"}


@pytest.mark.parametrize(
    "wanted", ["https://evil.example/", "//evil.example/", "/\\evil.example", "javascript:alert(1)", ""]
)
def test_the_log_in_leads_to_no_other_site(client: EagerClient, wanted: str) -> None:
    limits.by_user.forget("vera")
    answer = Browser().post("/log-in/", {"name": "vera", "password": PASSWORD, "next": wanted})
    assert answer["Location"] == "/"


def test_nothing_from_before_the_log_in_is_worth_anything_after_it(client: EagerClient) -> None:
    browser = Browser()
    limits.by_user.forget("vera")
    browser.get("/log-in/")
    token = browser.cookies["csrftoken"].value
    browser.post("/log-in/", {"name": "vera", "password": PASSWORD})
    assert browser.cookies["csrftoken"].value != token


def test_a_visitor_comes_back_to_the_page_that_needed_a_user(client: EagerClient) -> None:
    answer = Browser().get("/jobs/?state=failed")
    assert answer["Location"] == "/log-in/?next=/jobs/%3Fstate%3Dfailed"
    limits.by_user.forget("vera")
    form = {"name": "vera", "password": PASSWORD, "next": "/jobs/?state=failed"}
    assert Browser().post("/log-in/", form)["Location"] == "/jobs/?state=failed"


def test_wrong_passwords_are_refused_and_after_five_of_them_the_right_one_too(client: EagerClient) -> None:
    limits.by_user.forget("vera")
    for _ in range(5):
        answer = Browser().post("/log-in/", {"name": "vera", "password": "wrong"})
        assert "The name or the password is wrong." in text_of(answer)
    answer = Browser().post("/log-in/", {"name": "vera", "password": PASSWORD})
    assert answer.status_code == 429
    assert "Try again in 5 minutes." in text_of(answer)
    assert log_in("oscar").get("/").status_code == 200  # another user is not kept out


def test_a_limit_lets_through_again_after_its_period() -> None:
    now = [0.0]
    limit = limits.RateLimit(2, 60, lambda: now[0])
    assert [limit.passes("a"), limit.passes("a"), limit.passes("a"), limit.passes("b")] == [True, True, False, True]
    now[0] = 61
    assert limit.passes("a")


def test_a_session_ends_with_the_password_with_the_user_and_by_logging_out(client: EagerClient) -> None:
    browser = log_in("vera")
    for users in (
        USERS | {"vera": replace(USERS["vera"], hash=hash_password("another password"))},
        {"oscar": USERS["oscar"]},
    ):
        with override_settings(SCORELINE_WEB=WebSettings(users=users, secret_key=KEY)):
            fresh = Browser()
            fresh.cookies = browser.cookies
            assert fresh.get("/jobs/").status_code == 302
    assert browser.get("/jobs/").status_code == 200
    assert browser.get("/log-out/").status_code == 405
    copy, other = Browser(), log_in("vera")
    copy.cookies["sessionid"] = browser.cookies["sessionid"].value
    assert copy.get("/jobs/").status_code == 200
    browser.post("/log-out/")
    assert browser.get("/jobs/").status_code == 302
    assert copy.get("/jobs/").status_code == 302
    assert other.get("/jobs/").status_code == 200


def test_an_ended_session_is_remembered_as_long_as_it_would_have_lasted() -> None:
    now = [0.0]
    ended = EndedSessions(60, lambda: now[0])
    ended.add("a")
    now[0] = 50
    ended.add("b")
    assert ("a" in ended, "b" in ended, "c" in ended) == (True, True, False)
    now[0] = 61
    ended.add("c")
    assert ("a" in ended, "b" in ended, "c" in ended) == (False, True, True)


def test_forms_are_checked_in_a_project_without_the_middleware_for_it(client: EagerClient, job: str) -> None:
    kept = [name for name in configured.MIDDLEWARE if "Csrf" not in name]
    with override_settings(MIDDLEWARE=kept):
        browser = Browser(enforce_csrf_checks=True)
        browser.cookies = log_in("paula").cookies
        for path in (f"/jobs/{job}/do/reject/", "/submit/", "/schedules/nightly/do/pause/"):
            assert browser.post(path, {"reason": "forged"}).status_code == 403, path
    assert client.status(job).state == "partial"


def test_a_forged_cookie_and_a_forged_text_are_ignored(client: EagerClient, job: str) -> None:
    browser = Browser()
    browser.cookies["sessionid"] = "eyJuYW1lIjoicGF1bGEifQ:1xxxxx:forged"
    assert browser.get("/jobs/").status_code == 302
    said = sign_text("The job is submitted.")
    vera = log_in("vera")
    assert "The job is submitted." in text_of(vera.get(f"/jobs/?said={said}"))
    assert "submitted." not in text_of(vera.get(f"/jobs/?said={said}x"))


def test_only_a_trusted_proxy_names_the_user(tmp_path: Path) -> None:
    chosen = WebSettings.from_env(
        {
            "WEB_USERS": "*:view paula:promote",
            "WEB_PROXY_HEADER": "X-Forwarded-User",
            "WEB_PROXIES": "10.1.0.0/16, ::1",
            "WEB_SECRET_KEY": KEY,
        }
    )
    with serving(tmp_path, chosen=chosen):

        def status(path: str, address: str, name: str) -> int:
            return Browser(REMOTE_ADDR=address).get(path, headers={"X-Forwarded-User": name}).status_code

        assert status("/jobs/", "10.1.2.3", "anyone@example.org") == 200
        assert status("/jobs/", "::1", "anyone") == 200
        assert status("/submit/", "10.1.2.3", "anyone") == 403
        assert status("/submit/", "10.1.2.3", "paula") == 200
        assert status("/jobs/", "10.2.0.1", "paula") == 302
        assert status("/jobs/", "10.1.2.3", "") == status("/jobs/", "10.1.2.3", "*") == 302


def test_without_users_the_person_at_this_machine_may_do_everything(tmp_path: Path) -> None:
    with serving(tmp_path, chosen=WebSettings(secret_key=KEY)):
        assert Browser().get("/submit/").status_code == 200
        assert Browser(headers={"host": "evil.example"}).get("/").status_code == 400  # another name for 127.0.0.1


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"WEB_USERS": "alice"}, "'alice' without a role"),
        ({"WEB_USERS": "alice:admin:x"}, "without a role"),
        ({"WEB_USERS": "alice:view:x alice:view:y"}, "twice"),
        ({"WEB_USERS": "alice:view"}, "no password for 'alice'"),
        ({"WEB_USERS": "*:view:x"}, "needs a proxy"),
        ({"WEB_PROXY_HEADER": "X User"}, "no name of a header"),
        ({"WEB_PROXY_HEADER": "X-User", "WEB_USERS": "*:view"}, "WEB_PROXIES"),
        ({"WEB_PROXIES": "everywhere"}, "no address or network"),
        ({"WEB_SECRET_KEY": "short"}, "shorter than 50"),
        ({"WEB_HTTPS": "perhaps"}, "WEB_HTTPS"),
    ],
)
def test_wrong_settings_are_named_without_their_secrets(environ: dict[str, str], expected: str) -> None:
    with pytest.raises(InvalidSettings, match=re.escape(expected)):
        WebSettings.from_env(environ)


def test_on_a_dyno_the_pages_need_users(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WEB_USERS", raising=False)
    monkeypatch.setenv("DYNO", "web.1")
    with pytest.raises(InvalidSettings, match="WEB_USERS is not set"):
        serve(None, 0)


def test_a_password_fits_only_its_own_hash() -> None:
    known = hash_password(PASSWORD)
    assert verify(PASSWORD, known)
    assert not re.search(r"[\s:,$'\"]", known)  # a shell and a compose file leave it alone
    assert hash_password(PASSWORD) != known
    for other in ("", "x", "scrypt.1.2.3", known[:-2], known.replace("scrypt", "plain"), "scrypt.99999999.8.2.a.b"):
        assert not verify(PASSWORD, other)
    assert "hash" not in repr(KnownUser(name="a", role="view", hash="hash"))


def test_djangos_own_check_of_a_deployment_finds_nothing(client: EagerClient, monkeypatch: pytest.MonkeyPatch) -> None:
    # Other tests of this process may have registered the checks of apps that the site does not have
    foreign = ("django.contrib.auth", "django.contrib.admin")
    own = {check for check in registry.registered_checks if not check.__module__.startswith(foreign)}
    monkeypatch.setattr(registry, "registered_checks", own)
    https = dict.fromkeys(("SECURE_SSL_REDIRECT", "SESSION_COOKIE_SECURE", "CSRF_COOKIE_SECURE"), True)
    hsts = {"SECURE_HSTS_SECONDS": 10, "SECURE_HSTS_INCLUDE_SUBDOMAINS": True, "SECURE_HSTS_PRELOAD": True}
    key = {"SECRET_KEY": secrets.token_urlsafe(60)}
    with override_settings(**https, **hsts, **key):
        call_command("check", deploy=True, fail_level="WARNING")


PATHS = st.sampled_from(
    [
        "/",
        "/jobs/",
        "/jobs/{}/",
        "/jobs/{}/rows/",
        "/jobs/{}/rejects/",
        "/jobs/{}/files/{}",
        "/jobs/{}/do/{}/",
        "/models/{}/",
        "/models/churn/aliases/{}/",
        "/schedules/{}/",
        "/schedules/nightly/do/{}/",
        "/submit/",
        "/results/rollback/",
        "/backlog/",
        "/log-in/",
        "/{}",
    ]
)
TEXTS = st.one_of(
    st.text(max_size=60),
    st.sampled_from(
        ["scored", "cancel", "run", "pause", "backfill", "churn", "nightly", HOSTILE, "x" * 200, "../..", "\0"]
    ),
)
_LISTED = [
    "state",
    "model",
    "group",
    "label",
    "since",
    "until",
    "schedule",
    "after",
    "said",
    "output",
    "reason",
    "input",
]
_SENT = [
    "step",
    "slot",
    "first",
    "last",
    "version",
    "tried",
    "types",
    "part_rows",
    "next",
    "name",
    "password",
    "job_id",
]
NAMES = st.sampled_from([*_LISTED, *_SENT])


@given(
    path=PATHS,
    words=st.lists(TEXTS, min_size=2, max_size=2),
    query=st.dictionaries(NAMES, TEXTS, max_size=5),
    method=st.sampled_from(["get", "post", "head", "put", "delete", "options"]),
    asked=st.booleans(),
)
@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_no_request_finds_a_defect(
    client: EagerClient, job: str, path: str, words: list[str], query: dict[str, str], method: str, asked: bool
) -> None:
    browser: Any = _paula()
    address = path.format(*(quote(word, safe="", errors="replace") for word in words))
    headers = {"HX-Request": "true"} if asked else {}
    kind = {} if method in ("get", "head", "post") else {"QUERY_STRING": "&".join(map(quote, query))}
    answer = getattr(browser, method)(address, query if not kind else "", headers=headers, **kind)
    assert answer.status_code < 500, f"{method} {address} {query}: {answer.content[-300:]!r}"
    if "text/html" in answer.get("Content-Type", ""):
        assert "<script>alert" not in answer.content.decode()


_kept: list[Browser] = []


def _paula() -> Browser:
    """Return one browser for all examples. Logging in takes a while, because hashing a password does."""
    if not _kept or _kept[0].get("/jobs/").status_code != 200:
        _kept[:] = [log_in("paula")]
    return _kept[0]
