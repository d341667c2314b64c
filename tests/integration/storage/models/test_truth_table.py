"""The truth table in ``unit/storage/test_settings`` decides where models come from, and whether models are written to
disk."""

from __future__ import annotations

import logging
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import LinearRegression

from scoreline.storage import keys
from scoreline.storage.errors import StoreUnavailable
from scoreline.storage.models.bundle import Bundle
from scoreline.storage.models.manager import ModelStorageManager
from scoreline.storage.models.manifest import Manifest
from scoreline.worker.dev.stack import Stack
from tests.support.waiting import HANG_S

LINE = LinearRegression().fit([[0.0], [1.0]], [0.0, 2.0])

LOAD = """
import logging, resource, sys
logging.basicConfig(level=logging.WARNING)
from scoreline.storage.models.manager import ModelStorageManager
models = ModelStorageManager.from_env()
if "no-files" in sys.argv:
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))  # the kernel refuses every byte that goes into a file
bundle = models.load(sys.argv[1])
print(models.cloud_only, round(bundle.models["model"].predict([[3.0]])[0], 6))
"""


@pytest.fixture(scope="module")
def published(stack: Stack) -> Manifest:
    line = LinearRegression().fit([[0.0], [1.0]], [0.0, 2.0])
    line.padding = np.zeros(1_200_000)  # several chunks
    return ModelStorageManager.from_env(stack.environ).publish("truth", line, alias="champion")


def right(bundle: Bundle) -> bool:
    return bool(bundle.models["model"].predict([[3.0]])[0] == pytest.approx(6.0))


def load_without_a_disk(stack: Stack, ref: str, folder: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", LOAD, ref, "no-files"]
    settings = stack.environ | {"MODEL_CACHE_DIR": str(folder)} | environ
    return subprocess.run(command, env=settings, capture_output=True, text=True, check=False, timeout=HANG_S)


@pytest.mark.parametrize("environ", [{}, {"DYNO": "worker.1", "ML_CLOUD_ONLY": "false"}])
def test_cloud_only_needs_no_byte_of_disk(
    stack: Stack, published: Manifest, tmp_path: Path, environ: dict[str, str]
) -> None:
    done = load_without_a_disk(stack, published.ref, tmp_path / "copies", **environ)
    assert (done.returncode, done.stdout.strip()) == (0, "True 6.0"), done.stderr
    assert not (tmp_path / "copies").exists()
    assert ("settings.overridden" in done.stderr) == bool(environ)


def test_a_copy_that_cannot_be_written_costs_a_warning(stack: Stack, published: Manifest, tmp_path: Path) -> None:
    done = load_without_a_disk(stack, published.ref, tmp_path / "copies", ML_CLOUD_ONLY="false")
    assert (done.returncode, done.stdout.strip()) == (0, "False 6.0"), done.stderr
    assert "models.copy_failed" in done.stderr  # the warning shows that the file size limit prevented the write
    assert [path for path in (tmp_path / "copies").rglob("*") if path.is_file()] == []


@pytest.fixture
def with_copies(stack: Stack, tmp_path: Path) -> dict[str, str]:
    return stack.environ | {"ML_CLOUD_ONLY": "false", "MODEL_CACHE_DIR": str(tmp_path / "copies")}


def gets_of(stack: Stack, manifest: Manifest) -> int:
    return (stack.folder / "s3.log").read_text().count(f"{manifest.version}/model.joblib")


def test_a_local_copy_is_read_instead_of_r2_and_healed(
    stack: Stack, published: Manifest, with_copies: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    models = ModelStorageManager.from_env(with_copies)
    models.load("truth@champion")
    (copy,) = (Path(with_copies["MODEL_CACHE_DIR"]) / "artifacts").iterdir()
    assert copy.stat().st_size == published.size
    before = gets_of(stack, published)
    assert right(models.load("truth@champion"))
    assert gets_of(stack, published) == before
    damaged = bytearray(copy.read_bytes())
    damaged[6_000_000] ^= 1
    copy.write_bytes(damaged)
    with caplog.at_level(logging.WARNING):
        assert right(models.load("truth@champion"))
    assert "models.copy_corrupt" in caplog.text
    assert gets_of(stack, published) > before
    healed = bytearray(copy.read_bytes())
    healed[6_000_000] ^= 1
    assert healed == damaged


def test_local_copies_serve_when_r2_is_down_and_say_so(
    published: Manifest, with_copies: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    ModelStorageManager.from_env(with_copies).load("truth@champion")
    cut_off = ModelStorageManager.from_env(with_copies | {"R2_ENDPOINT_URL": "http://127.0.0.1:9"})
    with caplog.at_level(logging.WARNING):
        assert cut_off.load("truth@champion").manifest == published
        assert right(cut_off.load("truth"))
    assert "models.served_from_copy" in caplog.text
    with pytest.raises(StoreUnavailable):
        cut_off.load("never-seen@champion")


def test_local_copies_are_bounded(stack: Stack, with_copies: dict[str, str]) -> None:
    models = ModelStorageManager.from_env(with_copies | {"MODEL_CACHE_DIR_MB": "5"})
    folder = Path(with_copies["MODEL_CACHE_DIR"]) / "artifacts"
    made = []
    for size, number in ((300_000, 0), (300_001, 1), (1_000_000, 2)):
        line = LinearRegression().fit([[0.0], [1.0]], [0.0, float(number)])
        line.padding = np.zeros(size)
        made.append(models.publish("bounded", line))
        models.load(made[-1].ref)
        os.utime(folder / made[0].artifacts[0].sha256)  # mark the first model as recently used
    assert {path.name for path in folder.iterdir()} == {made[0].artifacts[0].sha256, made[1].artifacts[0].sha256}
    line.padding = np.zeros(300_002)
    made.append(models.publish("bounded", line))
    models.load(made[-1].ref)
    assert {path.name for path in folder.iterdir()} == {made[0].artifacts[0].sha256, made[-1].artifacts[0].sha256}


def test_a_killed_writer_leaves_nothing_that_is_served(with_copies: dict[str, str], published: Manifest) -> None:
    folder = Path(with_copies["MODEL_CACHE_DIR"]) / "artifacts"
    folder.mkdir(parents=True)
    (folder / ".half").write_bytes(b"half")
    os.utime(folder / ".half", (0, 0))
    ModelStorageManager.from_env(with_copies).load(published.ref)
    assert [path.name for path in folder.iterdir()] == [published.artifacts[0].sha256]


def test_development_reads_a_directory(tmp_path: Path) -> None:
    environ = {"ENVIRONMENT": "development", "STORE_DIR": str(tmp_path / "store"), "ML_CLOUD_ONLY": "true"}
    models = ModelStorageManager.from_env(environ)
    manifest = models.publish("local", LINE)
    assert not models.use_r2
    assert (tmp_path / "store" / "scoreline" / keys.artifact("local", manifest.version, "model.joblib")).is_file()
    assert right(models.load("local"))


@pytest.mark.skipif(
    shutil.which("strace") is None, reason="the kernel's limit above shows it where strace is not there"
)
def test_a_load_opens_no_file_for_writing(stack: Stack, published: Manifest, tmp_path: Path) -> None:
    """Trace every open of every thread with strace; files below /dev and /proc are left out."""

    def opened_for_writing(**environ: str) -> list[str]:
        trace = tmp_path / "trace"
        subprocess.run(
            [
                "strace",
                "-f",
                "-e",
                "trace=open,openat,creat,memfd_create,rename",
                "-o",
                str(trace),
                sys.executable,
                "-B",
                "-c",
                LOAD,
                published.ref,
            ],
            env=stack.environ | {"MODEL_CACHE_DIR": str(tmp_path / "copies")} | environ,
            check=True,
            timeout=HANG_S,
            capture_output=True,
        )
        lines = [line for line in trace.read_text().splitlines() if "ENOENT" not in line]
        wrote = [line for line in lines if re.search(r"O_WRONLY|O_RDWR|O_CREAT| (creat|memfd_create|rename)\(", line)]
        return [line for line in wrote if '"/dev/' not in line and '"/proc/' not in line]

    assert opened_for_writing() == []
    assert any(published.artifacts[0].sha256 in line for line in opened_for_writing(ML_CLOUD_ONLY="false"))
