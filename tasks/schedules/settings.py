"""The location of the schedules, read once from the environment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from scoreline.storage.settings import Environment


@dataclass(frozen=True, kw_only=True)
class ScheduleSettings:
    """The location of the schedules."""

    file: Path
    """The schedule file in the working directory. If the file does not exist, the schedules are read from the
    bucket."""
    required: bool = False
    """Whether the file must exist, because a setting names the file."""

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> ScheduleSettings:
        """Read the settings."""
        named = Environment(environ).text("SCHEDULES_FILE", default="schedules.toml")
        return cls(file=Path(named), required=bool(environ.get("SCHEDULES_FILE", "").strip()))
