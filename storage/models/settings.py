"""Settings for caching, signing and trusting models, read once from the environment."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from scoreline.storage.errors import InvalidRequest
from scoreline.storage.models.signatures import check_key
from scoreline.storage.settings import Environment

DEFAULT_CACHE_DIR = ".scoreline/models"
DEFAULT_CACHE_DIR_MB = 4096


@dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """Settings for loading, signing and caching models."""

    cache_dir: Path = Path(DEFAULT_CACHE_DIR)
    """Directory of the local cache, which is used only with ``ML_CLOUD_ONLY=false``."""
    cache_dir_bytes: int = DEFAULT_CACHE_DIR_MB << 20
    signing_key: str = field(default="", repr=False)
    """Key that signs published versions. If empty, versions are not signed."""
    verify_keys: tuple[str, ...] = ()
    """Trusted keys. A version is loaded only if at least one of these keys has signed it. If empty, signatures are not
    checked."""
    compile_trees: bool = True
    """Whether to compile ensembles of trees, text vectorizers and scalers: they are faster, with the same results."""
    allow_version_skew: bool = False
    """Whether to load models that were saved with another version of scikit-learn. If so, loading such a model gives a
    warning."""

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> ModelSettings:
        """Read the settings from `environ`, or raise `InvalidSettings` with a list of all faults."""
        env = Environment(environ)
        signing_key = env.text("MODEL_SIGNING_KEY")
        listed = env.text("MODEL_VERIFY_KEYS")
        verify_keys = tuple(key for key in re.split(r"[\s,]+", listed) if key)
        if listed and not verify_keys:  # an empty list would turn off verification
            env.faults.append("MODEL_VERIFY_KEYS contains no key: unset it if signatures are not to be checked")
        for name, kind, values in (
            ("MODEL_SIGNING_KEY", "signing", (signing_key,) if signing_key else ()),
            ("MODEL_VERIFY_KEYS", "verify", verify_keys),
        ):
            for value in values:
                try:
                    check_key(kind, value)
                except InvalidRequest as error:
                    env.faults.append(f"{name}: {error}")
        settings = cls(
            cache_dir=Path(env.text("MODEL_CACHE_DIR", default=DEFAULT_CACHE_DIR)),
            cache_dir_bytes=env.number("MODEL_CACHE_DIR_MB", DEFAULT_CACHE_DIR_MB, minimum=1) << 20,
            signing_key=signing_key,
            verify_keys=verify_keys,
            allow_version_skew=env.flag("ML_ALLOW_VERSION_SKEW", False),
            compile_trees=env.flag("SCORELINE_COMPILED_TREES", True),
        )
        env.finish()
        return settings
