"""How long results are kept by default, read once from the environment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from scoreline.storage.errors import InvalidRequest
from scoreline.storage.settings import Environment
from scoreline.tasks.job.results_keep import ResultsKeep


@dataclass(frozen=True, kw_only=True)
class RetentionSettings:
    """How long results are kept by default."""

    results_keep: ResultsKeep | None = None
    """Applies to jobs of schedules without `results_keep`, and to all other jobs. If None, these are kept forever."""

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> RetentionSettings:
        """Read the settings; raises `InvalidSettings`."""
        env = Environment(environ)
        text = env.text("RESULTS_KEEP")
        keep: ResultsKeep | None = None
        if text:
            try:
                keep = ResultsKeep.parse(text)
            except InvalidRequest as error:
                env.faults.append(f"RESULTS_KEEP: {error}")
        env.finish()
        return cls(results_keep=keep)
