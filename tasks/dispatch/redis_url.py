"""Reads Redis URLs as add-ons and deployments write them, and returns one form that every client library can read.

redis-py, kombu and Celery each have their own options in a URL, and fail on options of the others.
"""

from __future__ import annotations

import difflib
import ssl
from collections.abc import Callable
from typing import Any
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlsplit

_SCHEMES = {"redis": "redis", "rediss": "rediss", "valkey": "redis", "valkeys": "rediss"}
_TLS = {"ssl_cert_reqs", "ssl_ca_certs", "ssl_check_hostname"}
_READ = _TLS | {"db", "username", "password"}
_IGNORED = {
    "client_name",
    "connection_pool_class",
    "credential_provider",
    "decode_responses",
    "encoding",
    "encoding_errors",
    "family",
    "health_check_interval",
    "lib_name",
    "lib_version",
    "max_connections",
    "pool_timeout",
    "protocol",
    "retry_on_error",
    "retry_on_timeout",
    "socket_connect_timeout",
    "socket_keepalive",
    "socket_timeout",
    "timeout",
    "virtual_host",
    "visibility_timeout",
}
"""Options of redis-py and kombu for the use of a connection. Scoreline ignores these options in a URL."""


def is_redis_url(url: str) -> bool:
    """Return whether a URL has a scheme of Redis or Valkey."""
    return url.partition("://")[0] in _SCHEMES


def normalize(name: str, url: str, ca_file: str, fault: Callable[[str], None]) -> tuple[str, dict[str, Any]]:
    """Split a Redis URL into a URL without options, and TLS options under the names of redis-py and Celery.

    Certificates are verified only if the URL has ``ssl_cert_reqs=required``, or if the settings name a CA bundle.
    Heroku's certificates are self-signed, so no authority can verify them.

    Parameters
    ----------
    name : str
        The environment variable of the URL. Messages name the variable, and never quote the URL, which may contain a
        password.
    url : str
        A URL for which `is_redis_url` is true.
    ca_file : str
        The CA bundle that the settings name; empty if they name none.
    fault : callable
        Function that records the message of a fault.

    Returns
    -------
    url, tls : str, dict of str to object
        The URL without options, and the TLS options, which are empty without TLS.
    """
    parts = _split(url)
    if parts is None:
        fault(f"{name} cannot be read: if its password contains # / ? or [, write them as %23 %2F %3F and %5B")
        return "", {}
    scheme = _SCHEMES[parts.scheme]
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    for option in options.keys() - _READ - _IGNORED:
        near = difflib.get_close_matches(option, _READ | _IGNORED, n=1)
        fault(f"{name} has an unknown option {option!r}{f', did you mean {near[0]!r}?' if near else ': remove it'}")
    database = unquote(options.get("db") or parts.path).strip("/") or "0"
    if not (database.isascii() and database.isdigit()):
        fault(f"{name} ends with {database!r}, which is not the number of a database, such as 0")
    tls = _tls(name, scheme, options, ca_file, fault)
    return f"{scheme}://{_credentials(parts, options)}{parts.netloc.rpartition('@')[2]}/{database}", tls


def _split(url: str) -> SplitResult | None:
    """Split a URL. Return None if an unescaped character in the password makes the host or port unreadable."""
    try:
        parts = urlsplit(url)
        return parts if parts.hostname is not None or (not parts.netloc and parts.port is None) else None
    except ValueError:
        return None


def _credentials(parts: SplitResult, options: dict[str, str]) -> str:
    if not ("username" in options or "password" in options):
        return "".join(parts.netloc.rpartition("@")[:2])
    user = quote(options["username"], safe="") if "username" in options else parts.username or ""
    password = quote(options["password"], safe="") if "password" in options else parts.password or ""
    return f"{user}:{password}@"


def _tls(name: str, scheme: str, options: dict[str, str], ca_file: str, fault: Callable[[str], None]) -> dict[str, Any]:
    asked = options.get("ssl_cert_reqs", "").lower().removeprefix("cert_")
    if asked not in ("", "none", "optional", "required"):
        fault(f"{name} has ssl_cert_reqs={asked!r}, which must be none or required")
    if scheme == "redis":
        if asked in ("optional", "required"):
            fault(f"{name} asks for a verified certificate, but redis:// does not use TLS: write rediss://")
        return {}
    if asked == "optional":  # like "required", because every TLS server has a certificate
        asked = "required"
    if (asked or ("required" if ca_file else "none")) != "required":
        return {"ssl_cert_reqs": ssl.CERT_NONE}
    check = options.get("ssl_check_hostname", "true").lower() not in ("false", "0", "no", "f", "n")
    found = {"ssl_cert_reqs": ssl.CERT_REQUIRED, "ssl_check_hostname": check}
    ca_file = options.get("ssl_ca_certs") or ca_file
    return found | {"ssl_ca_certs": ca_file} if ca_file else found
