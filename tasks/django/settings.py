"""Settings of the pages, read from a project and the environment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from scoreline.storage.settings import Environment

Downloads = Literal["auto", "presigned", "streamed"]


@dataclass(frozen=True, kw_only=True)
class PageSettings:
    """The settings of the pages, wherever they run."""

    downloads: Downloads = "auto"
    """How a browser gets a file: ``presigned`` leads it to the store, and ``streamed`` sends the bytes through this
    process. ``auto`` leads it to a store that is reached by HTTPS; a store without HTTPS is within a network of its
    own."""

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> PageSettings:
        """Read the settings; raises `InvalidSettings`."""
        env = Environment(environ)
        downloads: Downloads = env.choice("WEB_DOWNLOADS", ("auto", "presigned", "streamed"), "auto")
        env.finish()
        return cls(downloads=downloads)
