"""The settings of the backlog, read once from the environment."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from scoreline.storage.settings import Environment
from scoreline.tasks.backlog.prices import Prices


@dataclass(frozen=True, kw_only=True)
class HireFireSettings:
    """How HireFire reads the backlog."""

    token: str = field(repr=False)
    """The secret in the address that HireFire asks for; empty if HireFire is not used."""

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> HireFireSettings:
        """Read the settings; raises `InvalidSettings`."""
        env = Environment(environ)
        token = env.text("HIREFIRE_TOKEN")
        if token and not re.fullmatch(r"[A-Za-z0-9._~-]{8,200}", token):  # the token is a secret: it is not shown
            env.faults.append("HIREFIRE_TOKEN is not a token of at least 8 letters, digits, '.', '_', '~' or '-'")
        env.finish()
        return cls(token=token)


@dataclass(frozen=True, kw_only=True)
class CostSettings:
    """What work costs the user."""

    prices: Prices | None
    """None if no prices are given."""

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> CostSettings:
        """Read the settings and the file of prices; raises `InvalidSettings`."""
        env = Environment(environ)
        path = env.text("PRICES_FILE")
        return cls(prices=Prices.read(Path(path)) if path else None)
