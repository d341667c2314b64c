"""Where the schedules are, read from the environment once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from scoreline.storage.settings import Environment


@dataclass(frozen=True, kw_only=True)
class ScheduleSettings:
    """Where the schedules are."""

    file: Path
    """The file of the working directory; if it does not exist, the schedules are in the bucket."""

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> ScheduleSettings:
        """Read the settings."""
        return cls(file=Path(Environment(environ).text("SCHEDULES_FILE", default="schedules.toml")))
