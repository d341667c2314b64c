"""The Django site of `scoreline web`: its settings, and the WSGI application."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import django
from django.conf import settings

from scoreline.worker.web.settings import WebSettings
from scoreline.worker.web.users import SESSION_S

_HERE = Path(__file__).resolve().parent
_PAGES = _HERE.parents[1] / "tasks" / "django"
_YEAR_S = 365 * 24 * 3600
LOCAL = ("127.0.0.1", "localhost", "[::1]")


def configure(chosen: WebSettings, *, is_local: bool) -> None:
    """Configure Django for the site.

    Parameters
    ----------
    is_local : bool
        Whether only this machine reaches the site.
    """
    https = chosen.https if chosen.https is not None else not is_local
    static = f"/static/{_digest_of_files()}/"
    hosts = list(chosen.hosts) or (list(LOCAL) if is_local else ["*"])
    settings.configure(
        SCORELINE_WEB=chosen,
        DEBUG=False,
        SECRET_KEY=chosen.secret_key,
        ALLOWED_HOSTS=hosts,
        ROOT_URLCONF="scoreline.worker.web.urls",
        INSTALLED_APPS=["scoreline.django", "django.contrib.sessions"],
        DATABASES={},
        MIDDLEWARE=[
            "django.middleware.security.SecurityMiddleware",
            "scoreline.worker.web.login.HealthCheck",  # before the name of the host is checked
            "django.middleware.gzip.GZipMiddleware",
            "django.contrib.sessions.middleware.SessionMiddleware",
            "django.middleware.common.CommonMiddleware",
            "django.middleware.csrf.CsrfViewMiddleware",
            "scoreline.worker.web.users.FindUser",
            "django.middleware.clickjacking.XFrameOptionsMiddleware",
        ],
        TEMPLATES=[
            {
                "BACKEND": "django.template.backends.django.DjangoTemplates",
                "DIRS": [_HERE / "templates"],
                "APP_DIRS": True,
                "OPTIONS": {"context_processors": ["django.template.context_processors.request"]},
            }
        ],
        STATIC_URL=static,
        STATIC_ROOT=None,
        LOGIN_URL="log-in",
        SESSION_ENGINE="django.contrib.sessions.backends.signed_cookies",
        SESSION_COOKIE_AGE=SESSION_S,
        SESSION_COOKIE_HTTPONLY=True,
        SESSION_COOKIE_SAMESITE="Lax",
        SESSION_COOKIE_SECURE=https,
        CSRF_COOKIE_HTTPONLY=True,
        CSRF_COOKIE_SAMESITE="Lax",
        CSRF_COOKIE_SECURE=https,
        CSRF_FAILURE_VIEW="scoreline.worker.web.faults.forged",
        SECURE_SSL_REDIRECT=https,
        SECURE_REDIRECT_EXEMPT=[r"^healthz$"],
        SECURE_PROXY_SSL_HEADER=("HTTP_X_FORWARDED_PROTO", "https") if https else None,
        SECURE_HSTS_SECONDS=_YEAR_S if https else 0,
        SECURE_HSTS_INCLUDE_SUBDOMAINS=https,
        SECURE_HSTS_PRELOAD=https,
        SECURE_CONTENT_TYPE_NOSNIFF=True,
        SECURE_REFERRER_POLICY="same-origin",
        X_FRAME_OPTIONS="DENY",
        DATA_UPLOAD_MAX_MEMORY_SIZE=1 << 20,
        DATA_UPLOAD_MAX_NUMBER_FIELDS=200,
        USE_TZ=True,
        TIME_ZONE="UTC",
        USE_I18N=False,
        LOGGING_CONFIG=None,
    )
    django.setup()


def application() -> Callable[..., Any]:
    """Return the WSGI application, which also sends the static files."""
    from django.core.wsgi import get_wsgi_application
    from whitenoise import WhiteNoise

    pages = get_wsgi_application()
    return WhiteNoise(
        pages,
        root=str(_PAGES / "static"),
        prefix=settings.STATIC_URL,
        max_age=_YEAR_S,  # the address contains a digest of the files
        immutable_file_test=lambda path, url: True,
        add_headers_function=_add_headers,
    )


def _add_headers(headers: Any, path: str, url: str) -> None:
    headers["X-Content-Type-Options"] = "nosniff"


def _digest_of_files() -> str:
    digest = hashlib.sha256()
    for file in sorted((_PAGES / "static").rglob("*")):
        if file.is_file():
            digest.update(file.name.encode())
            digest.update(file.read_bytes())
    return digest.hexdigest()[:12]
