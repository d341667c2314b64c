"""What a worker process keeps in memory, read from the environment once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from storage.errors import InvalidRequest
from storage.models.manifest import parse_ref
from storage.settings import Environment

DEFAULT_CACHE_MB = 1024


@dataclass(frozen=True, kw_only=True)
class WorkerSettings:
    """What a worker keeps in memory."""

    cache_bytes: int
    """Of models, for each process."""
    preload: tuple[str, ...]
    """Models to load before the fork, as ``name``, ``name@alias`` or ``name@version``."""

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> WorkerSettings:
        """Read the settings; raises `InvalidSettings` naming every fault at once."""
        env = Environment(environ)
        cache_bytes = env.number("MODEL_CACHE_MB", DEFAULT_CACHE_MB, minimum=1) << 20
        preload = tuple(ref.strip() for ref in env.text("PRELOAD_MODELS").split(",") if ref.strip())
        for ref in preload:
            try:
                parse_ref(ref)
            except InvalidRequest as error:
                env.faults.append(f"PRELOAD_MODELS: {error}")
        env.finish()
        return cls(cache_bytes=cache_bytes, preload=preload)
