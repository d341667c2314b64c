"""Real services for the tests: a Valkey server, an S3 server, and worker processes, each started once in a run.

``HYPOTHESIS_PROFILE`` chooses how hypothesis draws examples. With "suite" (the default), every run draws the same
examples on every machine. With "fuzz", which ``make fuzz`` uses, each run draws more examples from a random seed.
"""

from __future__ import annotations

import atexit
import gc
import io
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import joblib
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, settings
from sklearn.datasets import load_breast_cancer
from sklearn.ensemble import RandomForestClassifier
from sklearn.preprocessing import LabelEncoder, StandardScaler

from scoreline.storage.models import publisher, trial_load
from scoreline.storage.models.manager import ModelStorageManager
from scoreline.storage.objects.base import ObjectStore
from scoreline.tasks.client import Client
from scoreline.worker.dev.stack import SEAWEED, Stack
from tests.support.ending import killed_at_end
from tests.support.postgres import Database, Postgres
from tests.support.proving import proved_here
from tests.support.rig import Rig
from tests.support.start import compile_modules, modules_of_tests, processes_of, spread, waits
from tests.support.warm import WarmStack, read_s3_once, run_scoreline

_ANY_SPEED = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
settings.register_profile("suite", derandomize=True, max_examples=250, deadline=None, suppress_health_check=_ANY_SPEED)
settings.register_profile("fuzz", max_examples=1_000, deadline=None, suppress_health_check=_ANY_SPEED, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "suite"))

SCORELINE = str(Path(sys.executable).with_name("scoreline"))


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Run two test processes per available core, because a test spends half of its time waiting for services."""
    return 2 * joblib.cpu_count()


def pytest_sessionstart(session: pytest.Session) -> None:
    """Share the compiling of test modules among the processes of a run."""
    number, processes = processes_of(session.config)
    if processes > 1:
        compile_modules(session.config, modules_of_tests()[number::processes])


def pytest_collectstart() -> None:
    """Import test modules without garbage collection, which would walk all of them again and again, and find little.

    The process that hands out the tests to others collects none, and keeps its garbage collection.
    """
    gc.disable()


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Let all processes of a run but one begin with tests that wait."""
    items[:] = spread(items, processes_of(config)[1], waits, lambda item: item.path)


def pytest_collection_finish() -> None:
    """Keep the collector of garbage from walking all test modules again and again.

    At the end, modules must not stay frozen, or DuckDB reports that its types were leaked.
    """
    gc.freeze()
    gc.enable()
    atexit.register(gc.unfreeze)


@pytest.fixture(autouse=True)
def _no_settings_of_mine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ENVIRONMENT", "DYNO", "FORCE_R2", "ML_CLOUD_ONLY", "R2_BUCKET", "REDIS_URL", "R2_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(autouse=True, scope="session")
def _quick_proofs() -> Iterator[None]:
    with proved_here():
        yield


@pytest.fixture(autouse=True, scope="session")
def _read_s3_once() -> None:
    read_s3_once()


@pytest.fixture
def fresh_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let publishing load each model in a fresh process on trial, as it does in production."""
    monkeypatch.setattr(publisher, "open_trial", trial_load.open_trial)


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with killed_at_end(WarmStack(tmp_path_factory.mktemp("stack"))) as running:
        yield running


@pytest.fixture(scope="session")
def worker(stack: Stack) -> Stack:
    stack.start_worker(2)
    return stack


@pytest.fixture(scope="session")
def seaweed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A second stack, whose S3 server is SeaweedFS."""
    with killed_at_end(WarmStack(tmp_path_factory.mktemp("seaweed"), s3_module=SEAWEED)) as running:
        yield running


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL server. A test that stops it starts it again."""
    with Postgres() as running:
        yield running


@pytest.fixture
def database(postgres: Postgres) -> Iterator[Database]:
    """An empty database."""
    name = postgres.create()
    yield Database(postgres, name)
    postgres.drop(name)


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Stack]:
    """Start services for a single test; the test sets the settings of its own workers."""
    with killed_at_end(Stack(tmp_path)) as running:
        yield running


@pytest.fixture(scope="session")
def _at_work(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    with Rig(tmp_path_factory.mktemp("rig")) as running:
        running.start_worker(2)
        yield running


@pytest.fixture
def rig_at_work(_at_work: Rig) -> Rig:
    """A rig with two worker processes, for tests that leave its services unchanged."""
    _at_work.reset()
    return _at_work


@pytest.fixture(scope="session")
def _services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    with Rig(tmp_path_factory.mktemp("services")) as running:
        yield running


@pytest.fixture
def rig(_services: Rig) -> Iterator[Rig]:
    """A rig without workers. A test may start workers, and stop every process except the services."""
    yield _services
    _services.renew()


@pytest.fixture
def client(stack: Stack) -> Client:
    return Client.from_env(stack.environ)


@pytest.fixture
def store(client: Client) -> ObjectStore:
    return client.buckets.main


@pytest.fixture
def models(stack: Stack) -> ModelStorageManager:
    return ModelStorageManager.from_env(stack.environ)


@pytest.fixture
def put_table(store: ObjectStore) -> Callable[..., str]:
    """Return a function that writes a DataFrame as Parquet and returns its URI."""

    def put(key: str, frame: pd.DataFrame, row_group_size: int = 1_000_000) -> str:
        sink = io.BytesIO()
        pq.write_table(pa.Table.from_pandas(frame, preserve_index=False), sink, row_group_size=row_group_size)
        store.put(key, sink.getvalue())
        return store.uri(key)

    return put


@pytest.fixture
def cli(stack: Stack) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Return a function that runs ``scoreline`` as a user does."""

    def run(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
        return run_scoreline(*arguments, environ={"PATH": "/usr/bin:/bin"} | stack.environ | environ)

    return run


@pytest.fixture(scope="session")
def cells() -> pd.DataFrame:
    """Breast cancer Wisconsin: 569 rows, 30 features."""
    return load_breast_cancer(as_frame=True).data


@pytest.fixture(scope="session")
def trained(cells: pd.DataFrame) -> tuple[StandardScaler, RandomForestClassifier, LabelEncoder]:
    """A fitted scaler, forest and label encoder."""
    data = load_breast_cancer(as_frame=True)
    labels = data.target.map(dict(enumerate(data.target_names)))
    scaler, encoder = StandardScaler().fit(cells), LabelEncoder().fit(labels)
    forest = RandomForestClassifier(10, random_state=0).fit(scaler.transform(cells), encoder.transform(labels))
    return scaler, forest, encoder
