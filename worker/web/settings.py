"""Who may use the pages of `scoreline web`, read once from the environment."""

from __future__ import annotations

import ipaddress
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

from scoreline.storage.errors import InvalidSettings
from scoreline.storage.settings import Environment

Role = Literal["view", "operate", "promote"]
"""What a user may do. Each role includes the roles before it."""
ROLES: tuple[Role, ...] = get_args(Role)
ANYONE = "*"
"""The name in WEB_USERS that stands for every user whom the proxy names."""
_HEADER = re.compile(r"[A-Za-z][A-Za-z0-9-]*")
_NAME = re.compile(r"[^\s:,]{1,150}")
_SECRET_CHARS = 50

type Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, kw_only=True)
class KnownUser:
    """A user in WEB_USERS."""

    name: str
    role: Role
    hash: str = field(default="", repr=False)
    """The hash of the password; empty if only the proxy can name the user."""


@dataclass(frozen=True, kw_only=True)
class WebSettings:
    """The settings of the pages."""

    users: Mapping[str, KnownUser] = field(default_factory=dict)
    proxy_header: str = ""
    """The header in which a proxy names the user; empty if there is no proxy."""
    proxies: tuple[Network, ...] = ()
    """The addresses from which the header is believed."""
    secret_key: str = field(default="", repr=False)
    hosts: tuple[str, ...] = ()
    """The names under which the pages are reached; empty for any name."""
    https: bool | None = None
    """Whether browsers reach the pages by HTTPS; None if the address to listen on decides."""

    @property
    def knows_users(self) -> bool:
        """Whether users are known. Otherwise, only people at this machine may use the pages."""
        return bool(self.users)

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> WebSettings:
        """Read the settings; raises `InvalidSettings` with all faults."""
        env = Environment(environ)
        faults: list[str] = []
        users = _users(env.text("WEB_USERS"), faults)
        header = env.text("WEB_PROXY_HEADER")
        if header and not _HEADER.fullmatch(header):
            faults.append(f"WEB_PROXY_HEADER={header!r} is no name of a header, such as X-Forwarded-User")
        proxies = _networks(env.text("WEB_PROXIES"), faults)
        if header and not proxies:
            faults.append("WEB_PROXY_HEADER is set without WEB_PROXIES: name the addresses of the proxy, 10.0.0.0/8")
        if header and not users:
            faults.append("WEB_PROXY_HEADER is set without WEB_USERS: name who may use the pages, or *:view")
        if ANYONE in users and not header:
            faults.append("WEB_USERS names '*', which needs a proxy that knows its users: set WEB_PROXY_HEADER")
        for user in users.values():
            if not user.hash and not header:
                faults.append(f"WEB_USERS has no password for {user.name!r}: `scoreline web adduser` prints an entry")
        secret = env.text("WEB_SECRET_KEY")
        if secret and len(secret) < _SECRET_CHARS:
            faults.append(f"WEB_SECRET_KEY is shorter than {_SECRET_CHARS} characters: choose a random text")
        said = env.choice("WEB_HTTPS", ("auto", "true", "false"), "auto")
        https = None if said == "auto" else said == "true"
        hosts = tuple(host.strip() for host in env.text("WEB_HOSTS").split(",") if host.strip())
        if env.text("DYNO"):  # the router of Heroku ends TLS
            https = True if https is None else https
        env.finish()
        if faults:
            raise InvalidSettings.from_faults(faults)
        return cls(
            users=users,
            proxy_header=header,
            proxies=proxies,
            secret_key=secret or secrets.token_urlsafe(64),
            hosts=hosts,
            https=https,
        )


def _users(text: str, faults: list[str]) -> dict[str, KnownUser]:
    found: dict[str, KnownUser] = {}
    for item in re.split(r"[\s,]+", text):
        if not item:
            continue
        name, _, rest = item.partition(":")
        role, _, password = rest.partition(":")
        if not _NAME.fullmatch(name) or role not in ROLES:
            faults.append(
                f"WEB_USERS has {name!r} without a role: write NAME:ROLE:HASH, with one of {', '.join(ROLES)}"
            )
        elif name in found:
            faults.append(f"WEB_USERS has {name!r} twice")
        else:
            found[name] = KnownUser(name=name, role=next(known for known in ROLES if known == role), hash=password)
    return found


def _networks(text: str, faults: list[str]) -> tuple[Network, ...]:
    found = []
    for item in filter(None, (part.strip() for part in text.split(","))):
        try:
            found.append(ipaddress.ip_network(item, strict=False))
        except ValueError:
            faults.append(f"WEB_PROXIES has {item!r}, which is no address or network such as 10.0.0.0/8")
    return tuple(found)
