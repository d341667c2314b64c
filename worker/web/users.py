"""Finds the user of a request: by a signed session, by a proxy, or because the request comes from this machine."""

from __future__ import annotations

import getpass
import hashlib
import hmac
import ipaddress
from collections.abc import Callable
from dataclasses import dataclass

from django.conf import settings
from django.http import HttpRequest, HttpResponse

from scoreline.worker.web.sessions import EndedSessions
from scoreline.worker.web.settings import ANYONE, ROLES, KnownUser, Role, WebSettings

SESSION_NAME, SESSION_MARK, SESSION_ID = "name", "mark", "id"
SESSION_S = 12 * 3600
"""Seconds after which a session ends."""
ended_sessions = EndedSessions(SESSION_S)
_MOST_NAME = 150


@dataclass(frozen=True, kw_only=True)
class WebUser:
    """A user of the pages, with what Django's templates and the views ask of one."""

    name: str
    role: Role
    by_session: bool = False
    """Whether the user can log out."""
    is_authenticated: bool = True
    is_anonymous: bool = False
    is_active: bool = True

    def get_username(self) -> str:
        """Return the name."""
        return self.name

    def has_perm(self, permission: str) -> bool:
        """Return whether the role includes a permission such as ``scoreline.operate``."""
        app, _, name = permission.partition(".")
        return app == "scoreline" and name in ROLES[: ROLES.index(self.role) + 1]


@dataclass(frozen=True, kw_only=True)
class Nobody:
    """A visitor who is not logged in."""

    is_authenticated: bool = False
    is_anonymous: bool = True

    def get_username(self) -> str:
        """Return an empty name."""
        return ""

    def has_perm(self, permission: str) -> bool:
        """Return False."""
        return False


class FindUser:
    """Middleware that gives each request its user."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self._get_response = get_response
        self._settings: WebSettings = settings.SCORELINE_WEB

    def __call__(self, request: HttpRequest) -> HttpResponse:
        """Find the user, and answer the request."""
        request.user = self._find(request)
        return self._get_response(request)

    def _find(self, request: HttpRequest) -> WebUser | Nobody:
        chosen = self._settings
        if not chosen.knows_users:
            return WebUser(name=_person_here(), role="promote")
        if chosen.proxy_header and is_proxy(request, chosen):
            name = request.headers.get(chosen.proxy_header, "").strip()[:_MOST_NAME]
            known = chosen.users.get(name) or chosen.users.get(ANYONE) if name and name != ANYONE else None
            if known is not None:
                return WebUser(name=name, role=known.role)
        session = request.session
        known = chosen.users.get(str(session.get(SESSION_NAME, "")))
        mark = str(session.get(SESSION_MARK, ""))
        if known is None or not known.hash or not hmac.compare_digest(mark, mark_of(known)):
            return Nobody()
        if str(session.get(SESSION_ID, "")) in ended_sessions:
            return Nobody()
        return WebUser(name=known.name, role=known.role, by_session=True)


def mark_of(user: KnownUser) -> str:
    """Return a text in the sessions of a user. It changes with the password, which ends the sessions."""
    return hashlib.sha256(f"{user.name}\0{user.hash}".encode()).hexdigest()[:32]


def is_proxy(request: HttpRequest, chosen: WebSettings) -> bool:
    """Return whether a request comes from a trusted proxy."""
    try:
        address = ipaddress.ip_address(request.META.get("REMOTE_ADDR", ""))
    except ValueError:
        return False
    return any(address in network for network in chosen.proxies)


def _person_here() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "somebody at this machine"
