"""Code in a published file can neither read keys nor reach the network, and cannot block its publisher."""

from __future__ import annotations

import importlib
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from scoreline.storage.errors import InvalidRequest, ModelUnloadable
from scoreline.storage.hashing import sha256_hex
from scoreline.storage.models import signatures, trial_load
from scoreline.storage.models.bundle import dump
from scoreline.storage.models.confinement import environment
from scoreline.storage.models.manager import ModelStorageManager
from scoreline.storage.models.trial_load import NewArtifact
from scoreline.worker.cli.main import cli
from tests.support.one_model import LINE
from tests.support.proving import try_loading
from tests.support.waiting import wait_until

SPY = """
import os, resource, socket, time
reading, writing = os.pipe()
if os.fork() == 0:  # a process that is left behind, and holds the pipes
    os.write(writing, os.readlink("/proc/self").encode())  # its id for all others, also in a namespace
    time.sleep(600)
child = os.read(reading, 20).decode()
found = [f"{name}={value}" for name, value in os.environ.items() if "hush" in value]
for process in filter(str.isdigit, os.listdir("/proc")):
    try:
        found += [item for item in open(f"/proc/{process}/environ").read().split(chr(0)) if "hush" in item]
    except OSError as error:
        found.append(f"environ: {type(error).__name__}")
try:
    socket.create_connection(("127.0.0.1", PORT), timeout=10)
    found.append("connected")
except OSError as error:
    found.append(f"network: {type(error).__name__}")
found.append(f"core {resource.getrlimit(resource.RLIMIT_CORE)[1]}")
found += [name for name in ("CPU", "FSIZE", "DATA") if resource.getrlimit(getattr(resource, "RLIMIT_" + name))[1] < 0]
raise RuntimeError(f"child={child} " + " ".join(found))
"""


NO_NAMESPACES = """
import os

def refuse(flags):
    raise PermissionError(1, "Operation not permitted")

os.unshare = refuse
"""


class Code:
    """An object whose pickle runs code."""

    def __init__(self, code: str) -> None:
        self.code = code

    def __reduce__(self) -> Any:
        return exec, (self.code,)


def load(code: str) -> str:
    """Load on trial a file that runs code, and return the error."""
    with pytest.raises(ModelUnloadable) as caught:
        try_loading("m", [NewArtifact(role="model", name="model", data=dump(Code(code)))])
    return str(caught.value)


@pytest.fixture
def port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.mark.skipif(sys.platform != "linux", reason="namespaces and /proc are Linux's")
def test_code_in_a_file_finds_no_key_and_no_network_and_leaves_no_process(
    port: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("MODEL_SIGNING_KEY", "R2_SECRET_ACCESS_KEY", "AWS_SECRET_ACCESS_KEY", "REDIS_URL", "GITHUB_TOKEN"):
        monkeypatch.setenv(name, "hush-hush")
    said = load(SPY.replace("PORT", str(port)))
    found = re.search(r"child=(\d+)", said)
    assert found
    wait_until(lambda: _has_ended(int(found[1])), "the process that was left behind has ended")
    assert "hush" not in said
    assert "core 0" in said
    assert not {"CPU", "FSIZE", "DATA"} & set(said.split())
    if "trial.unconfined" not in caplog.messages:  # the platform allows namespaces
        assert "environ: PermissionError" in said
        assert "network: OSError" in said


PRIVATE = "from sklearn.linear_model import LinearRegression\n\nclass Private(LinearRegression):\n    pass\n"


@pytest.mark.skipif(sys.platform == "win32", reason="permissions of files are those of Unix")
@pytest.mark.parametrize("name", ["", "private_model.py"], ids=["folder", "module"])
def test_a_module_that_a_confined_root_may_not_read_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    # Given a module that only root may read, because its file or its folder is private to another user
    folder = tmp_path / "app"
    folder.mkdir()
    (folder / "private_model.py").write_text(PRIVATE)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    module = importlib.import_module("private_model")
    monkeypatch.setenv("PYTHONPATH", str(folder))
    if os.getuid() == 0:
        os.chown(folder / name, 65_534, 65_534)
    (folder / name).chmod(0)
    try:
        # When a model of a class in this module is loaded on trial
        with pytest.raises(ModelUnloadable) as caught:
            try_loading("m", [NewArtifact(role="model", name="model", data=dump(module.Private()))])
    finally:
        (folder / name).chmod(0o700)
        sys.modules.pop("private_model")
    # Then the error names the file or folder that cannot be read, and how to publish the model nevertheless
    said = str(caught.value)
    assert f"may not read {folder / name}" in said
    assert said.endswith("publish as the user who may read it, or make it readable for all (chmod -R a+rX)")


def test_an_import_that_fails_for_another_reason_says_nothing_of_permissions() -> None:
    assert load("import no_such_module").endswith("needs the module 'no_such_module': install it where workers run")
    assert "may not read" not in load("open('/no/such/file')")


DETACHED = """
import os, time
reading, writing = os.pipe()
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:  # in a session of its own, and an orphan once its parent has ended
        os.setsid()
        os.write(writing, os.readlink("/proc/self").encode())  # its id for all others, also in a namespace
        time.sleep(600)
    os._exit(0)
os.wait()
detached = os.read(reading, 20).decode()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux hands orphans over")
@pytest.mark.parametrize("namespaces", [True, False], ids=["namespaces", "none allowed"])
@pytest.mark.parametrize("end", ["fails", "crashes", "hangs"])
def test_a_process_that_a_file_detaches_ends_with_the_trial(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, end: str, namespaces: bool
) -> None:
    note = tmp_path / "detached"
    ends = {"fails": "raise RuntimeError('no')", "crashes": "os.abort()", "hangs": "time.sleep(600)"}
    if not namespaces:
        (tmp_path / "sitecustomize.py").write_text(NO_NAMESPACES)
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    if end == "hangs":
        monkeypatch.setattr(trial_load, "_wait", lambda child: _give_up_once(note))
    said = load(
        f"{DETACHED}\nopen({str(note)!r} + '.new', 'w').write(detached)\n"
        f"os.rename({str(note)!r} + '.new', {str(note)!r})\n{ends[end]}"
    )
    assert _has_ended(int(note.read_text()))
    assert {"fails": "RuntimeError: no", "crashes": "exit code -6", "hangs": "did not load within"}[end] in said


def _give_up_once(note: Path) -> None:
    """Simulate the time limit of a trial: raise the timeout as soon as the loaded file has detached a process."""
    wait_until(note.exists, "a process was detached")
    raise subprocess.TimeoutExpired("trial", 0)


def test_only_named_variables_are_passed_on() -> None:
    kept = {"PATH": "/bin", "HOME": "/home/me", "LC_ALL": "C", "OMP_NUM_THREADS": "1", "PYTHONPATH": "/x"}
    secret = {"MODEL_SIGNING_KEY": "x", "R2_SECRET_ACCESS_KEY": "x", "REDIS_URL": "x", "ANYTHING": "x", "PATHX": "x"}
    assert environment(kept | secret) == kept | {"PYTHONDONTWRITEBYTECODE": "1"}
    assert environment(secret, also="ANY.*").keys() == {"ANYTHING", "PYTHONDONTWRITEBYTECODE"}


def _has_ended(pid: int) -> bool:
    """Return whether a process has ended, even if its parent has not collected its exit code."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


REPORTS = {
    "an attribute that is no error": (b'{"error": "contextlib", "message": "x"}', "^x$"),
    "an error that is no text": (b'{"error": ["x"], "message": 5}', "^5$"),
    "values of other types": (b'{"outputs": 5}', "sent a malformed report"),
    "no object": (b"[]", r"\(exit code 3\): last words$"),
    "nothing": (b"", r"\(exit code 3\): last words$"),
    "too deep": (b"[" * 100_000, r"\(exit code 3\): last words$"),
}


@pytest.mark.parametrize(("report", "message"), REPORTS.values(), ids=list(REPORTS))
def test_a_report_that_code_in_a_file_may_have_written_is_checked(report: bytes, message: str) -> None:
    with pytest.raises(ModelUnloadable, match=message):
        trial_load._decode(3, report, b"first\nlast words\n", "m")


def test_endless_output_is_not_kept() -> None:
    def keep(**limit: int) -> bytes:
        source, sink = os.pipe()
        reader = trial_load._Reader(os.fdopen(source, "rb", 0), **limit)
        with os.fdopen(sink, "wb", 0) as pipe:
            for _ in range(200):
                pipe.write(b"x" * 10_000)
            pipe.write(b"last words")
        return reader.result()

    assert keep(last=1_000) == b"x" * 990 + b"last words"
    assert 1_000 <= len(keep(first=1_000)) < 100_000


@pytest.fixture
def publish(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that publishes ``old/rf.joblib`` of a bucket by the command line."""
    monkeypatch.setenv("ENVIRONMENT", "development")
    monkeypatch.setenv("STORE_DIR", str(tmp_path / "store"))
    ModelStorageManager.from_env().save("old/rf.joblib", LINE)

    def run(*options: str, signing_key: str = "") -> Result:
        environ = {"MODEL_SIGNING_KEY": signing_key}
        source = ("--from-bucket", "model:rf=old/rf.joblib")
        return CliRunner(env=environ).invoke(cli, ["models", "publish", "m", *source, *options])

    return run


def test_a_file_from_a_bucket_is_signed_only_by_its_digest(publish: Any) -> None:
    sha256, (signing, _) = sha256_hex(dump(LINE)), signatures.generate_keys()
    done = publish(signing_key=signing)
    assert isinstance(done.exception, InvalidRequest)
    assert "--sha256 rf=DIGEST" in str(done.exception)
    for given in (sha256, f"rf={sha256.upper()}"):
        assert publish("--sha256", given, signing_key=signing).stdout.startswith("m@")
    assert publish().stdout.startswith("m@")


@pytest.mark.parametrize("given", ["0" * 64, "rf=" + "0" * 64])
def test_a_file_with_another_digest_is_not_published(publish: Any, given: str) -> None:
    done = publish("--sha256", given)
    assert "does not have the SHA-256 that is given for 'rf'" in str(done.exception)
    assert publish("--sha256", "other=" + "0" * 64).exit_code == 2
    assert ModelStorageManager.from_env().list() == {}
