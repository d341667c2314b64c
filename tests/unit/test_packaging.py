"""Dockerfile, docker-compose.yml, Procfile, app.json and Heroku's hooks agree with each other and with the settings."""

from __future__ import annotations

import contextlib
import json
import os
import pkgutil
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement

import scoreline
from scoreline.storage.errors import InvalidSettings
from scoreline.storage.settings import StorageSettings
from scoreline.worker import logs
from tests.support.installed import ROOT, pins

COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
OURS = ("worker", "beat", "web")
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
APP = json.loads((ROOT / "app.json").read_text())
REQUIREMENTS = ("requirements.txt", "ml-requirements.txt", "web-requirements.txt")
R2 = {"R2_ACCOUNT_ID": "abc", "R2_ACCESS_KEY_ID": "key", "R2_SECRET_ACCESS_KEY": "hush", "R2_BUCKET": "models"}
READ_BY_OTHERS = {
    "PATH": "the shell",
    "PYTHONUNBUFFERED": "Python",
    "PYTHONDONTWRITEBYTECODE": "Python",
    "REMAP_SIGTERM": "Celery",
    "OMP_NUM_THREADS": "OpenMP",
    "OPENBLAS_NUM_THREADS": "OpenBLAS",
    "INSTALL_ML": "bin/pre_compile",
}
ON_NO_DYNO = {
    "DYNO": "Heroku sets it",
    "SUBMITTER": "it names a person, who gives it with a command",
    "REDIS_URL": "the add-on sets it",
    "REDIS_TLS_URL": "the add-on sets it",
    "REDIS_CA_FILE": "certificates of the add-on are signed by no authority",
    "R2_ENDPOINT_URL": "R2_ACCOUNT_ID says where R2 is",
    "ENVIRONMENT": "a dyno keeps objects in R2, whatever it says",
    "FORCE_R2": "it does",
    "STORE_DIR": "it has no disk that stays",
    "ML_CLOUD_ONLY": "models are in memory alone, whatever it says",
    "MODEL_CACHE_DIR": "they are",
    "MODEL_CACHE_DIR_MB": "they are",
    "SCORELINE_COMPILED_TREES": "compiled trees give the same results",
    "PRICES_FILE": "costs are shown where a person submits jobs or looks at them",
    "DATABASE_URL": "the add-on sets it",
    "DATABASES_FILE": "it is part of the application",
    "SOURCE_CONNECTIONS": "one connection for each process fits the smallest plan",
    "LOAD_CONNECTIONS": "four connections fit the smallest plan",
    "MODEL_SIGNING_KEY": "only whoever publishes has it: with it, whoever gets at a dyno could sign",
}
"""Settings that are not in app.json, and why."""


class Asked(dict[str, str]):
    """An environment that records which variables are read."""

    def __init__(self) -> None:
        super().__init__(R2)
        self.names: set[str] = set()

    def get(self, name: str, default: Any = None) -> Any:
        self.names.add(name)
        return super().get(name, default)


def settings() -> Iterator[Any]:
    """Yield every class in a module named ``settings`` that reads the environment."""
    for found in pkgutil.walk_packages(scoreline.__path__, "scoreline."):
        if found.name.endswith(".settings"):
            yield from (kind for kind in vars(import_module(found.name)).values() if hasattr(kind, "from_env"))


def names_read() -> set[str]:
    """Return every variable that some settings read."""
    environ = Asked()
    for kind in settings():
        with contextlib.suppress(InvalidSettings):
            kind.from_env(environ)
    logs.form_from_env(environ)
    return environ.names


def procfile() -> dict[str, tuple[dict[str, str], list[str]]]:
    """Return the variables and the command of each process type."""
    processes = {}
    for line in (ROOT / "Procfile").read_text().splitlines():
        name, _, text = line.partition(": ")
        words = shlex.split(text)
        first = next(i for i, word in enumerate(words) if not re.match(r"[A-Z_]+=", word))
        processes[name] = dict(word.split("=", 1) for word in words[:first]), words[first:]
    return processes


def stages() -> list[list[tuple[str, str]]]:
    """Return the instructions of each stage of the Dockerfile."""
    found: list[list[tuple[str, str]]] = []
    for line in re.sub(r"\\\n\s*", "", (ROOT / "Dockerfile").read_text()).splitlines():
        if line and not line.startswith("#"):
            keyword, _, rest = line.partition(" ")
            if keyword == "FROM":
                found.append([])
            found[-1].append((keyword, rest))
    return found


def last(keyword: str) -> str:
    """Return the last `keyword` instruction of the last stage."""
    return [rest for name, rest in stages()[-1] if name == keyword][-1]


def image_environment() -> dict[str, str]:
    return dict(pair.split("=", 1) for pair in shlex.split(last("ENV")))


def copied_from_checkout() -> Iterator[str]:
    for stage in stages():
        for keyword, rest in stage:
            if keyword == "COPY" and not rest.startswith("--from"):
                yield from rest.split()[:-1]


@pytest.mark.parametrize("name", OURS)
def test_a_container_runs_what_a_dyno_runs(name: str) -> None:
    variables, command = procfile()[name]
    service = COMPOSE[name]
    assert shlex.split(service["command"]) == command
    assert (image_environment() | service["environment"]).items() >= variables.items()


def test_the_image_is_a_worker_that_gets_its_signals_itself_and_is_not_root() -> None:
    assert json.loads(last("CMD")) == procfile()["worker"][1]  # exec form, so that no shell receives the signals
    assert "ENTRYPOINT" not in dict(stages()[-1])
    assert int(last("USER")) > 0
    assert json.loads(last("HEALTHCHECK").partition("CMD ")[2])[:2] == ["sh", "-c"]


@pytest.mark.parametrize(
    ("file", "names"),
    [
        ("docker-compose.yml", {name for service in OURS for name in COMPOSE[service]["environment"]}),
        ("Dockerfile", set(image_environment())),
        ("app.json", set(APP["env"])),
        ("Procfile", {name for variables, _ in procfile().values() for name in variables}),
    ],
)
def test_every_variable_that_is_set_is_one_that_is_read(file: str, names: set[str]) -> None:
    assert names - names_read() - READ_BY_OTHERS.keys() == set()


def test_app_json_asks_for_what_has_no_default_and_sets_what_can_be_read() -> None:
    asked = {name for name, variable in APP["env"].items() if variable["required"]}
    assert asked == R2.keys()
    for name in asked:
        with pytest.raises(InvalidSettings, match=name):
            StorageSettings.from_env({key: value for key, value in R2.items() if key != name})
    defaults = {name: variable["value"] for name, variable in APP["env"].items() if "value" in variable}
    assert defaults.keys() & names_read()
    for kind in settings():
        kind.from_env(R2 | defaults)
    assert all(variable["description"] for variable in APP["env"].values())


def test_app_json_names_every_setting_that_means_something_on_a_dyno() -> None:
    assert names_read() - APP["env"].keys() == ON_NO_DYNO.keys()


def test_every_variable_that_is_read_is_in_the_reference_of_settings() -> None:
    page = (ROOT / "docs/reference/settings.md").read_text()
    named = set(re.findall(r"^\| `([A-Z][A-Z0-9_]+)` \|", page, re.MULTILINE))
    assert {"WEBHOOK_SECRET", "TICK_SECONDS", "ALLOWED_BUCKETS"} <= named
    assert names_read() - named == set()


def test_heroku_scales_processes_that_the_procfile_has() -> None:
    assert APP["formation"].keys() == procfile().keys() - {"release"}


@pytest.mark.parametrize("name", OURS)
def test_the_bucket_that_is_made_is_the_one_that_is_used(name: str) -> None:
    environ = COMPOSE[name]["environment"]
    found = StorageSettings.from_env(environ)
    assert found.r2 is not None
    assert f"'{found.r2.endpoint_url}/{found.bucket_name}', method='PUT'" in COMPOSE["bucket"]["entrypoint"][-1]


def test_each_service_waits_until_what_it_needs_is_healthy() -> None:
    for name in OURS:
        needed = {on: how["condition"] for on, how in COMPOSE[name]["depends_on"].items()}
        assert needed == {
            "valkey": "service_healthy",
            "s3": "service_healthy",
            "bucket": "service_completed_successfully",
            "postgres": "service_healthy",
        }
        assert COMPOSE[name]["restart"] == "unless-stopped"
    # And every long-running service has a health check: the worker uses the check of the image, and beat has its own
    checked = {name for name, service in COMPOSE.items() if "healthcheck" in service}
    assert checked == COMPOSE.keys() - {"worker", "bucket"}


def test_images_are_pinned_by_version() -> None:
    bases = [rest.split()[0] for stage in stages() for keyword, rest in stage if keyword == "FROM"]
    images = [service["image"] for service in COMPOSE.values() if "build" not in service]
    for image in {*bases, *images}:
        assert re.fullmatch(r"[a-z/]+:\d+\.\d+[a-z0-9.-]*", image)


def test_deployments_run_one_version_of_python_and_it_is_the_lowest_that_is_allowed() -> None:
    version = (ROOT / ".python-version").read_text().strip()
    # the lowest version that the package allows
    assert PYPROJECT["project"]["requires-python"].startswith(f">={version},")
    assert PYPROJECT["tool"]["ruff"]["target-version"] == f"py{version.replace('.', '')}"
    assert sys.version.startswith(f"{version}.")
    (built_on,) = {stage[0][1].split()[0] for stage in stages()} - {f"python:{version}-slim-trixie"}
    assert built_on == f"python:{version}-trixie"  # the same system, with a compiler
    assert "-slim-" in stages()[-1][0][1]


@pytest.mark.parametrize(
    ("file", "lines"),
    [
        ("requirements.txt", PYPROJECT["project"]["dependencies"]),
        ("ml-requirements.txt", PYPROJECT["project"]["optional-dependencies"]["ml"]),
        ("web-requirements.txt", PYPROJECT["project"]["optional-dependencies"]["web"]),
    ],
)
def test_versions_that_a_deployment_pins_are_inside_the_ranges_of_the_wheel(file: str, lines: list[str]) -> None:
    pinned = {pin.name: pin for pin in pins(file)}
    allowed = {requirement.name: requirement for requirement in map(Requirement, lines)}
    assert list(pinned) == list(allowed)  # packages are in the same order, so that both files are easy to compare
    for name, pin in pinned.items():
        (version,) = pin.specifier
        assert version.operator == "=="
        assert allowed[name].specifier.contains(version.version), f"{pin} is outside {allowed[name]}"
        assert allowed[name].extras == pin.extras
        assert any(bound.operator == ">=" for bound in allowed[name].specifier)


def test_the_first_release_in_the_changelog_is_the_version_of_the_wheel() -> None:
    headings = re.findall(r"^## \[(.*?)\](.*)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[0] == ("Unreleased", "")
    assert headings[1][0] == PYPROJECT["project"]["version"]
    assert all(re.fullmatch(r" - \d{4}-\d\d-\d\d", date) for _, date in headings[1:])


def test_contributing_names_files_tests_and_targets_that_exist() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    paths = re.findall(r"(?:tests|storage|tasks|worker|scripts|benchmarks)/[\w/]*(?:\.py)?", text)
    assert [path for path in paths if not (ROOT / path).exists()] == []
    for file, words in re.findall(r"(tests/\S+\.py) -k (\w+)", text):
        assert re.search(rf"^def test_\w*{words}", (ROOT / file).read_text(), re.MULTILINE), f"{file} -k {words}"
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(re.findall(r"(?:`|^ {4})make ([a-z-]+)", text, re.MULTILINE)) <= set(targets)


def test_hooks_run_the_tools_of_the_checkout_and_fetch_nothing() -> None:
    (repository,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert repository["repo"] == "local"
    tools = set((ROOT / "Makefile").read_text().split())
    for hook in repository["hooks"]:
        assert hook["language"] == "system"
        assert hook["entry"].split()[0].replace(".venv/bin", "@$(BIN)") in tools  # `make lint` runs the same tool


def test_hosted_ci_runs_what_everybody_runs_and_may_write_nothing() -> None:
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
    assert workflow["permissions"] == {"contents": "read"}
    assert workflow["jobs"]["test"]["steps"][-1] == {"run": ".ci/run"}
    for job in workflow["jobs"].values():
        assert job["timeout-minutes"] <= 90
        assert "permissions" not in job
        actions = [step["uses"] for step in job["steps"] if "uses" in step]
        assert [name for name in actions if not re.fullmatch(r"actions/[a-z-]+@v\d+\.\d+\.\d+", name)] == []
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(workflow["jobs"]["longer"]["strategy"]["matrix"]["target"]) <= set(targets)


def test_a_change_of_code_installs_no_package_again() -> None:
    # Given the Dockerfile's stage from which the image copies its packages
    assert any(rest.startswith("--from=packages ") for keyword, rest in stages()[-1] if keyword == "COPY")
    packages = next(stage for stage in stages() if stage[0][1].endswith(" AS packages"))
    # Then this stage installs all requirement files, and before that, it copies only these files
    installs = next(i for i, (_, rest) in enumerate(packages) if all(f"-r {file}" in rest for file in REQUIREMENTS))
    assert [rest for keyword, rest in packages[:installs] if keyword == "COPY"] == [f"{' '.join(REQUIREMENTS)} ./"]
    assert not {"scoreline", "storage", "tasks", "worker", "."} & {
        rest.split()[0] for keyword, rest in packages if keyword == "COPY"
    }


def test_the_wheel_is_built_with_the_pinned_tools() -> None:
    pinned = {pin.name: pin for pin in pins("dev-requirements.txt")}
    required = [Requirement(line) for line in PYPROJECT["build-system"]["requires"]]
    for tool in required:
        (version,) = pinned[tool.name].specifier
        assert tool.specifier.contains(version.version)
    install = " ".join(str(pinned[tool.name]) for tool in required)
    assert f"pip install {install}\n" in (ROOT / "Dockerfile").read_text()


def extensions() -> list[Path]:
    return [path for folder in ("storage", "tasks", "worker") for path in (ROOT / folder).rglob("*.pyx")]


def test_each_extension_has_a_stub() -> None:
    assert extensions()
    assert [path for path in extensions() if not path.with_suffix(".pyi").exists()] == []


@pytest.mark.skipif(not shutil.which("cc"), reason="needs a C compiler")
def test_setup_has_built_each_extension_from_its_source_of_today() -> None:
    for source in extensions():
        built = source.with_suffix(sysconfig.get_config_var("EXT_SUFFIX"))
        assert built.exists(), f"{source.relative_to(ROOT)} is not built: run `make setup`"
        for file in (*source.parent.glob("*.px[id]"), source):
            assert built.stat().st_mtime > file.stat().st_mtime, f"{built.name} is outdated: run `make setup`"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Make a checkout with a built extension of two files. The Python of the checkout only records its arguments."""
    folder = tmp_path / "checkout"
    for name in ("scripts", "storage/fast", "tasks", "worker", ".venv/bin"):
        (folder / name).mkdir(parents=True)
    shutil.copy(ROOT / "scripts/setup", folder / "scripts/setup")
    files = (*REQUIREMENTS, "dev-requirements.txt", "pyproject.toml", "setup.py")
    for number, name in enumerate(
        (*files, "storage/fast/walk.pyx", "storage/fast/part.pxi", "storage/fast/walk.cpython-312-ours.so")
    ):
        (folder / name).touch()
        os.utime(folder / name, (number, number))
    stamp = subprocess.run(["cksum"], input="", capture_output=True, text=True, check=True).stdout
    (folder / ".venv/.installed").write_text(stamp)
    executable(
        folder / ".venv/bin/python",
        'case "$*" in *EXT_SUFFIX*) echo .cpython-312-ours.so ;; *) echo "$*" >> asked ;; esac',
    )
    return folder


def executable(path: Path, script: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def newer_include(folder: Path) -> None:
    os.utime(folder / "storage/fast/part.pxi", (99, 99))


def newer_options(folder: Path) -> None:
    os.utime(folder / "setup.py", (99, 99))


def built_for_another_platform(folder: Path) -> None:
    (folder / "storage/fast/walk.cpython-312-ours.so").rename(folder / "storage/fast/walk.cpython-312-other.so")


@pytest.mark.parametrize(
    ("change", "builds"),
    [(lambda _: None, False), (newer_include, True), (newer_options, True), (built_for_another_platform, True)],
)
def test_setup_builds_an_extension_again_if_any_of_its_files_is_newer(
    checkout: Path, change: Callable[[Path], None], builds: bool
) -> None:
    change(checkout)
    environment = {"PATH": "/usr/bin:/bin", "CC": "true"}
    done = subprocess.run([checkout / "scripts/setup"], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    asked = checkout / "asked"
    assert ("setup.py build_ext" in (asked.read_text() if asked.exists() else "")) is builds


def test_the_source_distribution_has_each_file_of_an_extension(tmp_path: Path) -> None:
    for name in ("setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path / name)
    sources = [
        path.relative_to(ROOT)
        for suffix in ("pyx", "pxd", "pxi", "pyi")
        for folder in ("storage", "tasks")
        for path in (ROOT / folder).rglob(f"*.{suffix}")
    ]
    for source in sources:
        (tmp_path / source).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / source, tmp_path / source)
    subprocess.run([sys.executable, "setup.py", "-q", "sdist"], cwd=tmp_path, check=True, capture_output=True)
    (archive,) = (tmp_path / "dist").iterdir()
    with tarfile.open(archive) as packed:
        names = {name.partition("/")[2] for name in packed.getnames()}
    assert {str(source) for source in sources} - names == set()


def test_an_extension_is_built_again_if_a_file_that_it_includes_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr("setuptools.setup", lambda **options: given.update(options))
    runpy.run_path("setup.py")
    depends = {file for extension in given["ext_modules"] for file in extension.depends}
    included = [path for folder in ("storage", "tasks", "worker") for path in (ROOT / folder).rglob("*.px[id]")]
    assert depends == {str(path.relative_to(ROOT)) for path in included} != set()


def test_docker_sees_what_it_copies_and_nothing_else() -> None:
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    shown = {line.removeprefix("!") for line in lines if line.startswith("!")}
    assert lines[0] == "*"
    assert {path.rstrip("/") for path in copied_from_checkout()} == shown
    assert all((ROOT / path).exists() for path in shown)


def test_the_slug_lacks_only_what_never_runs() -> None:
    ignored = {line.removeprefix("/") for line in (ROOT / ".slugignore").read_text().splitlines()}
    assert all((ROOT / path).exists() for path in ignored)
    assert not ignored & {
        "Procfile",
        ".python-version",
        "bin",
        "scoreline",
        "storage",
        "tasks",
        "worker",
        "LICENSE",
        *REQUIREMENTS,
    }


@pytest.fixture
def build(tmp_path: Path) -> Path:
    """Copy to a folder the files that Heroku's hooks read."""
    shutil.copytree(ROOT / "bin", tmp_path / "bin")
    for file in REQUIREMENTS:
        shutil.copy(ROOT / file, tmp_path / file)
    return tmp_path


@pytest.mark.parametrize(
    ("config", "files"),
    [
        ({}, REQUIREMENTS),
        ({"INSTALL_ML": "true"}, REQUIREMENTS),
        ({"INSTALL_ML": "FALSE"}, REQUIREMENTS[::2]),
        ({"INSTALL_ML": "0"}, REQUIREMENTS[::2]),
    ],
)
def test_heroku_installs_all_files_unless_a_setting_forbids_it(
    build: Path, config: dict[str, str], files: tuple[str, ...]
) -> None:
    done = subprocess.run(
        [build / "bin/pre_compile"], env={"PATH": "/usr/bin:/bin"} | config, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    expected = [pin for file in files for pin in pins(file)]
    assert pins(str(build / "requirements.txt")) == expected


def test_a_word_that_is_not_a_boolean_fails_the_build(build: Path) -> None:
    done = subprocess.run(
        [build / "bin/pre_compile"],
        env={"PATH": "/usr/bin:/bin", "INSTALL_ML": "maybe"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "INSTALL_ML=maybe is not a boolean" in done.stderr
    assert pins(str(build / "requirements.txt")) == pins("requirements.txt")


def test_a_missing_file_fails_the_build(build: Path) -> None:
    (build / "ml-requirements.txt").unlink()
    done = subprocess.run([build / "bin/pre_compile"], env={"PATH": "/usr/bin:/bin"}, capture_output=True, check=False)
    assert done.returncode != 0


def test_tests_of_the_large_packages_are_removed_and_nothing_else(build: Path) -> None:
    # Given an environment in which numpy has folders with tests at two depths, and a small package has tests, too
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", build / "venv"], check=True)
    (site,) = (build / "venv").glob("lib/python*/site-packages")
    for path in ("numpy/tests/a.py", "numpy/core/tests/data/b.npy", "numpy/core/c.py", "small/tests/d.py"):
        (site / path).parent.mkdir(parents=True, exist_ok=True)
        (site / path).touch()
    # When Heroku runs the hook
    subprocess.run([build / "bin/post_compile"], env={"PATH": f"{build}/venv/bin:/usr/bin:/bin"}, check=True)
    # Then only the tests of numpy are removed
    left = sorted(str(path.relative_to(site)) for path in site.rglob("*") if path.is_file())
    assert left == ["numpy/core/c.py", "small/tests/d.py"]


@pytest.mark.parametrize(
    ("built", "said"),
    [
        (2, "built the extensions: 2\n"),
        (1, "warning: 1 of 2 extensions could not be built (see above)"),
        (0, "warning: 2 of 2"),
    ],
)
def test_heroku_warns_of_each_extension_that_was_not_built(build: Path, built: int, said: str) -> None:
    # Given extensions that are optional, so that setup.py succeeds without them, and a file of another platform
    (build / "site/sklearn").mkdir(parents=True)
    (build / "setup.py").touch()
    for name in ("one", "two"):
        (build / f"scoreline/{name}.pyx").parent.mkdir(exist_ok=True)
        (build / f"scoreline/{name}.pyx").touch()
        (build / f"scoreline/{name}.other.so").touch()
    for name in ("one", "two")[:built]:
        (build / f"scoreline/{name}.ours.so").touch()
    answers = "*platlib*) echo site ;; *EXT_SUFFIX*) echo .ours.so ;; *pip*) cat > /dev/null ;;"
    executable(build / "fake/python", f'case "$*" in {answers} esac')
    # When Heroku runs the hook
    done = subprocess.run(
        [build / "bin/post_compile"],
        cwd=build,
        env={"PATH": f"{build}/fake:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (done.stdout + done.stderr).startswith(said)


def test_every_test_that_a_script_names_exists() -> None:
    named = {
        path for script in (ROOT / "scripts").iterdir() for path in re.findall(r"\btests/[\w/.]+", script.read_text())
    }
    assert named
    assert sorted(path for path in named if not (ROOT / path).exists()) == []
