"""What goes wrong in production, looked for before it does: each check finds one thing and says how to mend it."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from storage import keys
from storage.errors import InvalidSettings, ModelError, ObjectNotFound, ScorelineError, describe
from storage.ledger.redis_ledger import RedisLedger
from storage.models.registry import ModelRegistry
from storage.models.settings import ModelSettings
from storage.objects.buckets import Buckets
from storage.settings import StorageSettings
from tasks.settings import QueueSettings
from worker.settings import WorkerSettings

Severity = Literal["ok", "warning", "error"]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What a check saw."""

    check: str
    severity: Severity
    message: str
    remedy: str = ""


def examine(environ: Mapping[str, str] | None = None) -> list[Finding]:
    """Run every check, in an order where each may rely on those before it; a check that itself fails is an error."""
    environ = os.environ if environ is None else environ
    findings = [_settings(environ)]
    if findings[0].severity != "error":
        findings += [check(environ) for check in (_redis, _bucket, _packages, _keys, _preloaded)]
    return findings


def _settings(environ: Mapping[str, str]) -> Finding:
    faults = []
    readers: tuple[Callable[[Mapping[str, str]], object], ...] = (
        StorageSettings.from_env, QueueSettings.from_env, ModelSettings.from_env, WorkerSettings.from_env)  # fmt: skip
    for read in readers:
        try:
            read(environ)
        except InvalidSettings as error:
            faults.append(str(error).removeprefix("invalid settings: "))
    if faults:
        return Finding(check="settings", severity="error", message="; ".join(faults), remedy="mend these variables")
    return Finding(check="settings", severity="ok", message="every variable can be read")


def _redis(environ: Mapping[str, str]) -> Finding:
    try:
        queue = QueueSettings.from_env(environ)
        RedisLedger(queue.redis_url, namespace="", tls=queue.redis_tls, connect_timeout_s=4, timeout_s=5).ping()
    except ScorelineError as error:
        return Finding(check="redis", severity="error", message=describe(error),
                       remedy="set REDIS_URL to a server that runs")  # fmt: skip
    return Finding(check="redis", severity="ok", message="answers")


def _bucket(environ: Mapping[str, str]) -> Finding:
    store = Buckets.from_env(environ, patient=False).main
    try:
        next(iter(store.list(keys.MODELS)), None)
    except ScorelineError as error:
        remedy = "make the bucket" if isinstance(error, ObjectNotFound) else "see the R2_* variables in README.md"
        return Finding(check="bucket", severity="error", message=describe(error), remedy=remedy)
    return Finding(check="bucket", severity="ok", message=f"{store.bucket!r} can be listed")


def _packages(_: Mapping[str, str]) -> Finding:
    modules = ("sklearn", "joblib", "cryptography", "psutil", "pyarrow", "pandas", "numpy")
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        return Finding(check="packages", severity="warning", message=f"not installed: {', '.join(missing)}",
                       remedy="pip install -r ml-requirements.txt, unless this process only enqueues")  # fmt: skip
    return Finding(check="packages", severity="ok", message="what a worker needs is installed")


def _keys(environ: Mapping[str, str]) -> Finding:
    trusted = ModelSettings.from_env(environ).verify_keys
    if not trusted:
        return Finding(
            check="model keys", severity="warning",
            message="MODEL_VERIFY_KEYS is not set: whoever can write the bucket can run code in the workers",
            remedy="scoreline models keygen; MODEL_SIGNING_KEY where models are published, MODEL_VERIFY_KEYS here",
        )  # fmt: skip
    return Finding(check="model keys", severity="ok", message=f"{len(trusted)} trusted")


def _preloaded(environ: Mapping[str, str]) -> Finding:
    settings = WorkerSettings.from_env(environ)
    registry = ModelRegistry(
        Buckets.from_env(environ, patient=False).main, verify_keys=ModelSettings.from_env(environ).verify_keys
    )
    size = 0
    for ref in settings.preload:
        try:
            size += registry.show(ref).memory_bytes
        except (ScorelineError, ModelError) as error:
            return Finding(check="preloaded models", severity="error", message=f"{ref}: {describe(error)}",
                           remedy="mend PRELOAD_MODELS")  # fmt: skip
    return Finding(check="preloaded models", severity="ok",
                   message=f"{len(settings.preload)} take {size / 2**20:,.0f} MiB")  # fmt: skip
