"""Requests to Heroku's API are those of its version 3, its errors say what to do, and the key is never shown."""

from __future__ import annotations

import email.utils
import logging
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from benchmarks.heroku_api import APP, KEY, MOST_REQUESTS, FakeHeroku, Fault
from scoreline.storage.errors import InvalidSettings, PlatformRefused, PlatformUnavailable, ScorelineError
from scoreline.worker.heroku.formation import LONGEST_WAIT_S, RATE_LIMIT_S, Formation
from scoreline.worker.heroku.settings import HerokuSettings

NOW = 1_800_000_000.0


class Clock:
    now = NOW

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def api(clock: Clock) -> Iterator[FakeHeroku]:
    with FakeHeroku(clock, worker=3) as api:
        yield api


@pytest.fixture
def opened(api: FakeHeroku, clock: Clock) -> Callable[..., Formation]:
    def open_formation(kind: str = "worker", key: str = KEY, app: str = APP) -> Formation:
        settings = HerokuSettings(api_key=key, app=app)
        return Formation(settings, kind, url=api.url, timeout_s=30, clock=clock, now=clock)

    return open_formation


def failed(act: Callable[[], object], kind: type[ScorelineError]) -> str:
    """Return the message of an error, after checking that neither it nor its causes show the key."""
    with pytest.raises(kind) as raised:
        act()
    error: BaseException | None = raised.value
    while error is not None:
        assert KEY not in f"{error!r} {error.__notes__ if hasattr(error, '__notes__') else ''}"
        error = error.__cause__
    return str(raised.value)


def test_the_number_of_dynos_is_read_and_set(api: FakeHeroku, opened: Callable[..., Formation]) -> None:
    formation = opened()
    assert formation.quantity() == 3
    assert [formation.scale(5), formation.scale(5), formation.quantity()] == [5, 5, 5]
    assert api.formation == {"worker": 5}
    assert [(request.method, request.quantity) for request in api.requests] == [
        ("GET", None),
        ("PATCH", 5),
        ("PATCH", 5),
        ("GET", None),
    ]
    assert {headers["Accept"] for headers in api.headers} == {"application/vnd.heroku+json; version=3"}
    assert all(headers["User-Agent"].startswith("scoreline/") for headers in api.headers)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"key": "HRKU-wrong"}, "HTTP 401|unauthorized: Invalid credentials provided.*heroku authorizations:create"),
        ({"app": "other"}, "'worker' of 'other' .*not_found: Couldn't find.*check HEROKU_APP_NAME"),
        ({"kind": "../../account"}, "not_found.*the Procfile of the app has the process type"),
    ],
)
def test_a_refusal_says_what_to_do(given: dict[str, str], said: str, opened: Callable[..., Formation]) -> None:
    with pytest.raises(PlatformRefused, match=said):
        opened(**given).quantity()


def test_a_name_cannot_lead_to_another_part_of_the_api(api: FakeHeroku, opened: Callable[..., Formation]) -> None:
    failed(lambda: opened(kind="../../../account?x").scale(1), PlatformRefused)
    assert [request.path for request in api.requests] == [f"/apps/{APP}/formation/..%2F..%2F..%2Faccount%3Fx"]


def test_a_number_that_heroku_does_not_allow_is_refused(opened: Callable[..., Formation]) -> None:
    assert "invalid_params: Cannot scale to this many dynos" in failed(lambda: opened().scale(101), PlatformRefused)


@pytest.mark.parametrize(
    ("fault", "kind", "said"),
    [
        (Fault(status=402, body=b'{"id": "delinquent", "message": "Pay."}'), PlatformRefused, "delinquent: Pay"),
        (Fault(status=403, body=b'{"id": "forbidden", "message": "No."}'), PlatformRefused, "must be allowed to scale"),
        (Fault(status=301, headers={"Location": "http://127.0.0.1:9/"}), PlatformRefused, "HTTP 301"),
        (Fault(status=409, body=b'{"id": "conflict", "message": "Busy."}'), PlatformUnavailable, "conflict: Busy"),
        (Fault(status=500, body=b"<html>"), PlatformUnavailable, "HTTP 500"),
        (Fault(status=503), PlatformUnavailable, "HTTP 503"),
        (Fault(status=0), PlatformUnavailable, "Heroku's API at 127.0.0.1: Remote end closed"),
        (Fault(status=200, body=b"<html>hello</html>"), PlatformUnavailable, "another server may answer"),
        (Fault(status=200, body=b'{"quantity": true}'), PlatformUnavailable, "another server may answer"),
        (Fault(status=200, body=b'{"quantity": -1}'), PlatformUnavailable, "another server may answer"),
        (Fault(status=500, body=b'{"id": 1, "message": []}'), PlatformUnavailable, "HTTP 500"),
        (
            Fault(status=503, body=f'{{"id": "x", "message": "Bearer {KEY}\\n\\u001b[2J"}}'.encode()),
            PlatformUnavailable,
            r"x: Bearer (hidden)\u000a\u001b[2J",
        ),
    ],
)
def test_an_answer_that_is_no_success_is_an_error(
    fault: Fault, kind: type[ScorelineError], said: str, api: FakeHeroku, opened: Callable[..., Formation]
) -> None:
    api.fault = lambda: fault
    for act in (opened().quantity, lambda: opened().scale(1)):
        assert said in failed(act, kind)
    assert len(api.requests) == 2  # a redirect was not followed


def test_a_request_whose_answer_is_lost_can_be_repeated(api: FakeHeroku, opened: Callable[..., Formation]) -> None:
    api.fault = lambda: Fault(status=0, after=True)
    formation = opened()
    failed(lambda: formation.scale(7), PlatformUnavailable)
    api.fault = lambda: None
    assert formation.quantity() == formation.scale(7) == 7


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry-After": "120"}, 120.0),
        ({"Retry-After": email.utils.formatdate(NOW + 90, usegmt=True)}, 90.0),
        ({"ratelimit-reset": "30"}, 30.0),
        ({}, RATE_LIMIT_S),
        ({"Retry-After": "soon"}, RATE_LIMIT_S),
        ({"Retry-After": "0"}, 1.0),
        ({"Retry-After": "99999999999999999999"}, LONGEST_WAIT_S),
        ({"Retry-After": email.utils.formatdate(NOW - 90, usegmt=True)}, 1.0),
    ],
)
def test_no_request_is_sent_before_a_429_allows_it(
    headers: dict[str, str], seconds: float, api: FakeHeroku, clock: Clock, opened: Callable[..., Formation]
) -> None:
    api.fault = lambda: Fault(status=429, headers=headers)
    formation = opened()
    assert "limits the rate" in failed(formation.quantity, PlatformUnavailable)
    assert formation.wait_s == seconds
    clock.now += seconds - 0.5
    api.fault = lambda: None
    assert "limits the rate" in failed(lambda: formation.scale(1), PlatformUnavailable)
    assert len(api.requests) == 1
    clock.now += 0.5
    assert (formation.wait_s, formation.quantity()) == (0.0, 3)


def test_the_rate_limit_of_an_account_is_kept_and_a_low_rest_is_logged(
    api: FakeHeroku, clock: Clock, opened: Callable[..., Formation], caplog: pytest.LogCaptureFixture
) -> None:
    formation = opened()
    assert api.left == MOST_REQUESTS
    with caplog.at_level(logging.WARNING):
        formation.quantity()
        assert not caplog.records
        api.left = 1.0
        formation.quantity()
    assert [(record.message, vars(record)["left"]) for record in caplog.records] == [("heroku.few_requests", 0)]
    assert "rate_limit" in failed(formation.quantity, PlatformUnavailable)
    clock.now += formation.wait_s
    assert formation.quantity() == 3


def test_an_api_that_does_not_answer_is_unavailable(clock: Clock) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        formation = Formation(HerokuSettings(api_key=KEY, app=APP), "worker", url=url, timeout_s=0.05, clock=clock)
        assert "does not answer within 0.05 s" in failed(formation.quantity, PlatformUnavailable)
    assert "Connection refused" in failed(formation.quantity, PlatformUnavailable)


def test_an_answer_that_ends_too_early_is_unavailable(clock: Clock) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer() -> None:
            connection, _ = listening.accept()
            connection.recv(4_096)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{")
            connection.close()

        thread = threading.Thread(target=answer)
        thread.start()
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        formation = Formation(HerokuSettings(api_key=KEY, app=APP), "worker", url=url, timeout_s=30, clock=clock)
        failed(formation.quantity, PlatformUnavailable)
        thread.join()


@pytest.mark.parametrize("key", ["two words", "line\nX-Other: 1", "schlüssel", "x" * 501])
def test_a_key_that_is_no_header_is_refused_and_not_shown(key: str) -> None:
    with pytest.raises(InvalidSettings, match="HEROKU_API_KEY") as refused:
        HerokuSettings.from_env({"HEROKU_API_KEY": key, "HEROKU_APP_NAME": APP})
    assert key not in str(refused.value)


def test_a_name_that_is_no_app_is_refused() -> None:
    with pytest.raises(InvalidSettings, match="HEROKU_APP_NAME='a/b' is not an app's name"):
        HerokuSettings.from_env({"HEROKU_API_KEY": KEY, "HEROKU_APP_NAME": "a/b"})


def test_nothing_that_is_printed_contains_the_key(opened: Callable[..., Formation]) -> None:
    found: list[Any] = [HerokuSettings.from_env({"HEROKU_API_KEY": KEY, "HEROKU_APP_NAME": APP}), opened()]
    assert all(KEY not in repr(item) for item in found)
