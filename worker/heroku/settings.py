"""The access to Heroku's Platform API, read once from the environment."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from scoreline.storage.settings import Environment


@dataclass(frozen=True, kw_only=True)
class HerokuSettings:
    """The key for Heroku's Platform API, and the app to scale."""

    api_key: str = field(repr=False)
    app: str
    """Name or id of the app."""

    @property
    def given(self) -> bool:
        """Whether both settings are set."""
        return bool(self.api_key and self.app)

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> HerokuSettings:
        """Read the settings, which may be missing. Raises `InvalidSettings`; the message does not show the key."""
        env = Environment(environ)
        api_key, app = env.text("HEROKU_API_KEY"), env.text("HEROKU_APP_NAME")
        if api_key and not re.fullmatch(r"[!-~]{1,500}", api_key):  # anything else could become another header
            env.faults.append("HEROKU_API_KEY contains a space or another character that no key has")
        env.check("HEROKU_APP_NAME", app, lambda name: bool(re.fullmatch(r"[A-Za-z0-9-]{1,64}", name)), "an app's name")
        env.finish()
        return cls(api_key=api_key, app=app)
