"""Reads and sets the number of dynos of a process type, by version 3 of Heroku's Platform API.

An account may send 4,500 requests, and gets 75 more each minute. Requests beyond that are answered with 429. Errors
have a body such as ``{"id": "rate_limit", "message": "..."}``.
"""

from __future__ import annotations

import email.utils
import http.client
import json
import logging
import time
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import quote, urlsplit

from scoreline.storage.errors import PlatformRefused, PlatformUnavailable
from scoreline.storage.wording import printable
from scoreline.worker.heroku.settings import HerokuSettings
from scoreline.worker.version import __version__

log = logging.getLogger(__name__)

API_URL = "https://api.heroku.com"
TIMEOUT_S = 15.0
"""Seconds to wait for a connection, and for the next bytes of an answer."""
RATE_LIMIT_S = 60.0
"""Seconds without requests after a 429 that does not say how long to wait. An account gets 75 requests in this time."""
LONGEST_WAIT_S = 3_600.0
_FEW_REQUESTS = 100
"""If fewer requests are left, this is logged, because other programs with the same account may use them up."""
_MAX_BODY = 1 << 20
_SHOWN_CHARS = 200
_REMEDIES = {
    401: "HEROKU_API_KEY is wrong or has expired: make another with `heroku authorizations:create -s read,write`",
    402: "the account has to be paid or confirmed in Heroku's dashboard",
    403: "the account of HEROKU_API_KEY must be allowed to scale the app",
    404: "check HEROKU_APP_NAME, and that the Procfile of the app has the process type",
    422: "the size of the app's dynos may not allow this number: see `heroku ps:type`",
}


class Formation:
    """The dynos of one process type of an app.

    Both methods raise `PlatformUnavailable` (transient) if the API does not answer or limits the rate, and
    `PlatformRefused` if it refuses the request. No message contains the key.

    Parameters
    ----------
    settings : HerokuSettings
        The key and the app.
    kind : str
        The process type, as in the Procfile.
    url : str
        Address of the API. Redirects are not followed, because they could lead the key elsewhere.
    clock : callable
        Returns the time in seconds, from any origin.
    now : callable
        Returns the time in seconds since 1970.
    """

    def __init__(
        self,
        settings: HerokuSettings,
        kind: str,
        *,
        url: str = API_URL,
        timeout_s: float = TIMEOUT_S,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.kind = kind
        self._app = settings.app
        self._api_key = settings.api_key
        self._address = urlsplit(url)
        self._path = f"/apps/{quote(settings.app, safe='')}/formation/{quote(kind, safe='')}"
        self._timeout_s = timeout_s
        self._clock = clock
        self._now = now
        self._blocked_until_s = 0.0

    @property
    def wait_s(self) -> float:
        """Seconds for which the API wants no request."""
        return max(0.0, self._blocked_until_s - self._clock())

    def quantity(self) -> int:
        """Return the number of dynos that the app should have now."""
        return self._ask("GET", None)

    def scale(self, quantity: int) -> int:
        """Set the number of dynos, and return the number that the API has accepted. Repeated calls do no harm."""
        return self._ask("PATCH", {"quantity": quantity})

    def _ask(self, method: str, body: Mapping[str, int] | None) -> int:
        if (left := self.wait_s) > 0:
            raise PlatformUnavailable(f"Heroku limits the rate of requests: it wants none for another {left:.0f} s")
        status, headers, data = self._exchange(method, body)
        try:
            answer = json.loads(data)
        except ValueError:
            answer = None
        if status != 200:
            raise self._error(status, headers, answer)
        self._warn_of_few(headers.get("RateLimit-Remaining"))
        quantity = answer.get("quantity") if isinstance(answer, dict) else None
        if type(quantity) is not int or quantity < 0:
            raise PlatformUnavailable(
                "Heroku's answer does not say how many dynos there are: another server may answer"
            )
        return quantity

    def _exchange(self, method: str, body: Mapping[str, int] | None) -> tuple[int, http.client.HTTPMessage, bytes]:
        place = self._address
        kind = http.client.HTTPSConnection if place.scheme == "https" else http.client.HTTPConnection
        connection = kind(place.hostname or "", place.port, timeout=self._timeout_s)
        headers = {
            "Accept": "application/vnd.heroku+json; version=3",
            "Authorization": f"Bearer {self._api_key}",
            "User-Agent": f"scoreline/{__version__}",
            "Connection": "close",
        }
        if body is not None:
            headers["Content-Type"] = "application/json"
        try:
            connection.request(method, self._path, None if body is None else json.dumps(body), headers)
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read(_MAX_BODY)
        except (OSError, http.client.HTTPException) as error:
            why = (
                f"does not answer within {self._timeout_s:g} s" if isinstance(error, TimeoutError) else self._say(error)
            )
            raise PlatformUnavailable(f"Heroku's API at {place.hostname}: {why}") from None  # its frames have the key
        finally:
            connection.close()

    def _error(
        self, status: int, headers: http.client.HTTPMessage, answer: Any
    ) -> PlatformRefused | PlatformUnavailable:
        said = answer if isinstance(answer, dict) else {}
        what = f"HTTP {status}"
        if isinstance(said.get("id"), str) and isinstance(said.get("message"), str):
            what = self._say(f"{said['id']}: {said['message'].rstrip('.')}")
        if status == 429:
            wait_s = self._seconds_to_wait(headers)
            self._blocked_until_s = self._clock() + wait_s
            return PlatformUnavailable(f"Heroku limits the rate of requests for {wait_s:.0f} s ({what})")
        if status >= 500 or status in (408, 409):
            return PlatformUnavailable(f"Heroku's API cannot answer now ({what})")
        remedy = _REMEDIES.get(status, "see https://status.heroku.com and try a later release of Scoreline")
        return PlatformRefused(f"Heroku refuses to scale {self.kind!r} of {self._app!r} ({what}): {remedy}")

    def _seconds_to_wait(self, headers: http.client.HTTPMessage) -> float:
        """Return how long to wait after a 429: what the answer says, as seconds or as a date, within limits."""
        text = (headers.get("Retry-After") or headers.get("RateLimit-Reset") or "").strip()
        seconds = RATE_LIMIT_S
        if text.isascii() and text.isdigit():
            seconds = float(text[:9])
        elif text:
            try:
                seconds = email.utils.parsedate_to_datetime(text).timestamp() - self._now()
            except ValueError:
                log.info("heroku.wait_unknown", extra={"header": printable(text[:_SHOWN_CHARS])})
        return min(LONGEST_WAIT_S, max(1.0, seconds))

    def _warn_of_few(self, left: str | None) -> None:
        if left is not None and left.isascii() and left.isdigit() and int(left[:9]) < _FEW_REQUESTS:
            log.warning("heroku.few_requests", extra={"left": int(left[:9])})

    def _say(self, what: object) -> str:
        """Return a text from outside for a message, without the key."""
        text = str(what).replace(self._api_key, "(hidden)") if self._api_key else str(what)
        return printable(text[:_SHOWN_CHARS]) or type(what).__name__

    def __repr__(self) -> str:
        return f"Formation({self._app!r}, {self.kind!r})"
