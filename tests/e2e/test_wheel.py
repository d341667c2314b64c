"""The wheel works in its own environment, beside an application whose packages are named like Scoreline's folders."""

from __future__ import annotations

import functools
import io
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import textwrap
import zipfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from sklearn.linear_model import LinearRegression

from scoreline.storage.models.manager import ModelStorageManager
from scoreline.tasks.client import Client
from scoreline.worker.dev.stack import ROOT, Stack
from tests.support.waiting import HANG_S, wait_until

FOLDERS = ("storage", "tasks", "worker")
SITE = {
    "settings.py": """
        INSTALLED_APPS = ["tasks", "storage", "worker"]
        DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}
        SECRET_KEY = "of-a-test"
        """,
    "tasks/__init__.py": "",
    "tasks/scoring.py": """
        from scoreline.tasks.django import client
        from storage.places import INPUT

        def score():
            return client().submit("doubled@champion", INPUT, job_id="own-apps")
        """,
    "storage/__init__.py": "",
    "storage/places.py": """
        INPUT = "s3://scoreline/in/"
        """,
    "worker/__init__.py": "",
    "score.py": """
        import json
        import django, pyarrow, pyarrow.parquet
        django.setup()
        import scoreline, storage, tasks, tasks.scoring, worker
        from django.apps import apps
        from scoreline.tasks.django import client

        tasks.scoring.score()
        *_, last = client().watch("own-apps", timeout_s=240)
        store = client().buckets.main
        parts = sorted(info.key for info in store.list(f"results/doubled/job_id=own-apps/part-"))
        buffers = [pyarrow.BufferReader(store.get(key).data) for key in parts]  # Arrow's threads survive no Python file
        tables = [pyarrow.parquet.ParquetFile(buffer).read(use_threads=False) for buffer in buffers]
        print(json.dumps({
            "files": {module.__name__: module.__file__ for module in (scoreline, storage, tasks, worker)},
            "apps": {app.label: app.path for app in apps.get_app_configs()},
            "state": last.state,
            "predictions": pyarrow.concat_tables(tables)["prediction"].to_pylist(),
        }))
        """,
}
"""A Django project whose three apps are named like Scoreline's folders."""


@dataclass(frozen=True)
class Installed:
    """A virtual environment with the wheel and the packages of the current environment, but without the checkout."""

    folder: Path
    wheel: Path

    @property
    def python(self) -> str:
        return str(self.folder / "bin" / "python")

    def command(self, cwd: Path, *arguments: str) -> list[str]:
        """Return a command that runs this Python in `cwd`, without a PYTHONPATH that leads to the checkout."""
        return ["sh", "-c", 'unset PYTHONPATH; cd "$0"; exec "$@"', str(cwd), self.python, *arguments]

    def run(self, cwd: Path, *arguments: str, **environ: str) -> str:
        done = subprocess.run(
            self.command(cwd, *arguments),
            env={"PATH": os.defpath, **environ},
            capture_output=True,
            text=True,
            timeout=HANG_S,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    folder = tmp_path_factory.mktemp("wheel")
    # Given a copy of the source without the folder `build`; setuptools would add old modules in that folder to the
    # wheel
    source = folder / "source"
    source.mkdir()
    for name in ("scoreline", *FOLDERS):
        shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    # When the wheel is built and installed without a network
    build = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "--no-index", "-w"]
    # The extensions are not optimized, because that takes the compiler half a minute
    compiler = folder / "cc"
    compiler.write_text('#!/bin/sh\nexec cc "$@" -O0\n')
    compiler.chmod(0o755)
    subprocess.run([*build, folder / "dist", source], env=os.environ | {"CC": str(compiler)}, check=True)
    (wheel,) = (folder / "dist").iterdir()
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "venv"], check=True)
    found = Installed(folder / "venv", wheel)
    install = [sys.executable, "-m", "pip", "--python", found.python, "install", "-q", "--no-deps", "--no-index"]
    subprocess.run([*install, wheel], check=True)
    # Then the environment can also import the packages of this Python. The environment ignores the .pth files of these
    # packages, among them the file that makes the checkout importable
    (site,) = found.folder.glob("lib/python*/site-packages")
    (site / "required.pth").write_text(sysconfig.get_path("purelib"))
    return found


def test_the_wheel_has_each_file_of_the_packages_once_and_nothing_else(installed: Installed) -> None:
    def kept(path: Path) -> bool:
        is_of_pages = {"templates", "static"} & set(path.parts) and path.is_file()
        return path.suffix in (".py", ".pyi", ".lua", *built) or path.name == "py.typed" or bool(is_of_pages)

    built = [".so"] if shutil.which("cc") else []

    own = [*(ROOT / "scoreline").glob("*"), *(ROOT / "scoreline/django").glob("*")]
    source = [path.relative_to(ROOT) for path in own if path.is_file()]
    source += [
        Path("scoreline", path.relative_to(ROOT))
        for folder in FOLDERS
        for path in (ROOT / folder).rglob("*")
        if kept(path)
    ]
    names = [Path(name) for name in zipfile.ZipFile(installed.wheel).namelist()]
    packaged = [name for name in names if not name.parts[0].endswith(".dist-info")]
    assert Counter(packaged) == Counter(source)
    assert {name.suffix for name in packaged} >= {".lua", ".typed", ".pyi", *built}


def test_an_application_with_packages_of_the_same_names_scores_a_job(
    installed: Installed, own: Stack, tmp_path: Path
) -> None:
    # Given a model and rows, and a project with packages of its own named tasks, storage and worker
    models = ModelStorageManager.from_env(own.environ)
    models.publish("doubled", LinearRegression().fit(pd.DataFrame({"x": [0.0, 1.0]}), [0.0, 2.0]), alias="champion")
    sink = io.BytesIO()
    pd.DataFrame({"x": [1.0, 2.0, 3.0]}).to_parquet(sink, index=False)
    Client.from_env(own.environ).buckets.main.put("in/all.parquet", sink.getvalue())
    site = tmp_path / "site"
    for name, text in SITE.items():
        (site / name).parent.mkdir(parents=True, exist_ok=True)
        (site / name).write_text(textwrap.dedent(text))
    # And a worker that runs the installed wheel in the folder of that project
    log = own.folder / "wheel.log"
    worker = ("-m", "celery", "-A", "scoreline", "worker", "-c", "1", "-n", "wheel@embedded", "-l", "INFO")
    guard = own.run(installed.command(site, *worker), log, own.environ)
    said = functools.partial(log.read_text, errors="replace")
    wait_until(lambda: "wheel@embedded ready" in said() or guard.poll() is not None, "the worker", said)
    assert guard.poll() is None, said()
    # When the project submits a job and reads its results
    environ = own.environ | {"DJANGO_SETTINGS_MODULE": "settings", "HOME": str(tmp_path)}
    found: dict[str, Any] = json.loads(installed.run(site, "score.py", **environ))
    # Then the results contain every row
    assert found["state"] == "succeeded", log.read_text(errors="replace")
    assert found["predictions"] == pytest.approx([2.0, 4.0, 6.0])
    # And each name is imported from the project, except for `scoreline`, which is imported from the wheel
    assert found["apps"] == {name: str(site / name) for name in FOLDERS}
    files = {name: Path(file) for name, file in found["files"].items()}
    assert {name: files[name].parent for name in FOLDERS} == {name: site / name for name in FOLDERS}
    assert files["scoreline"].is_relative_to(installed.folder)
