"""The recipes in README and the docs run unchanged, each with only the packages that it lists."""

from __future__ import annotations

import importlib.metadata
import inspect
import io
import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas as pd
import pytest
from packaging.requirements import Requirement
from sklearn.linear_model import LinearRegression

import scoreline
from scoreline.storage import keys
from scoreline.storage.models.manager import ModelStorageManager
from scoreline.storage.objects.base import ObjectStore
from scoreline.tasks.client import Client
from scoreline.tasks.schedules.scheduler import Scheduler
from scoreline.worker.dev.stack import ROOT, Stack
from tests.support.waiting import HANG_S

ROWS = 3
PYTHON = Path(sys.executable)


def recipes(page: str) -> list[str]:
    """Return the Python and shell blocks of a page."""
    return re.findall(r"^```(?:python|sh)\n(.*?)^```$", (ROOT / page).read_text(), re.MULTILINE | re.DOTALL)


def recipe(page: str, number: int = 0) -> str:
    """Return a Python or shell block of a page, by default the first."""
    return recipes(page)[number]


def only(names: Iterable[str], folder: Path) -> Path:
    """Make a folder that contains only these installed distributions and their dependencies."""
    folder.mkdir()
    waiting, seen = list(names), set[str]()
    while waiting:
        if (name := waiting.pop()) in seen:
            continue
        seen.add(name)
        wanted = Requirement(name)
        found = importlib.metadata.distribution(wanted.name)
        for top in {file.parts[0] for file in found.files or ()} - {"..", "__pycache__"}:
            if not (folder / top).exists():
                (folder / top).symlink_to(str(found.locate_file(top)))
        for need in map(Requirement, found.requires or ()):
            extras = wanted.extras or {""}
            if need.marker is None or any(need.marker.evaluate({"extra": extra}) for extra in extras):
                waiting.append(str(need).partition(";")[0])
    return folder


def requirements() -> list[str]:
    lines = (line.partition("#")[0].strip() for line in (ROOT / "requirements.txt").read_text().splitlines())
    return [line for line in lines if line]


def run(command: list[str], environ: dict[str, str]) -> str:
    path = os.pathsep.join([str(PYTHON.parent), "/usr/bin", "/bin"])
    done = subprocess.run(
        command, env={"PATH": path} | environ, cwd=ROOT, capture_output=True, text=True, timeout=HANG_S, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def run_isolated(code: str, path: list[Path], lacks: list[str], environ: dict[str, str]) -> str:
    """Run code that can import only the standard library and `path`, and check that `lacks` cannot be imported."""
    start = (
        f"import sys, importlib.util as found; sys.path += {list(map(str, path))}\n"
        f"assert not (there := [name for name in {lacks} if found.find_spec(name)]), there\n"
    )
    return run([sys.executable, "-I", "-S", "-c", start + code], environ)


@pytest.fixture(scope="module")
def _customers(worker: Stack) -> None:
    """Publish the model and write the input that the recipes name."""
    models = ModelStorageManager.from_env(worker.environ)
    models.publish("churn", LinearRegression().fit(pd.DataFrame({"x": [0.0, 1.0]}), [0.0, 2.0]), alias="champion")
    sink = io.BytesIO()
    pd.DataFrame({"x": [0.0] * ROWS}).to_parquet(sink, index=False)
    Client.from_env(worker.environ).buckets.main.put("customers/all.parquet", sink.getvalue())


@pytest.fixture
def job_ids(_customers: None, store: ObjectStore) -> Callable[[], list[str]]:
    """Return a function that lists the ids of the jobs submitted since the test began."""

    def made() -> set[str]:
        return {info.key.split("/")[1] for info in store.list("jobs/") if info.key.endswith("/job.json")}

    before = made()
    return lambda: sorted(made() - before)


def assert_scored(client: Client, job_id: str) -> None:
    *_, last = client.watch(job_id, timeout_s=HANG_S)
    assert (last.state, last.rows, last.rejected) == ("succeeded", ROWS, 0)


def test_a_job_without_a_row_is_submitted_by_django_with_only_its_requirements(
    stack: Stack, client: Client, job_ids: Callable[[], list[str]], tmp_path: Path
) -> None:
    path = [ROOT, ROOT / "tests/e2e/djangosite", only([*requirements(), "django", "django-storages"], tmp_path / "lib")]
    before = """
        import django
        from types import SimpleNamespace
        django.setup()
    """
    after = """
        with transaction.atomic():
            score(SimpleNamespace(uri="s3://scoreline/customers/", uuid="7"))
            print([job.job_id for job in client().jobs() if job.job_id == "order-7"])
        score(SimpleNamespace(uri="s3://scoreline/customers/", uuid="7"))
    """
    environ = {"DJANGO_SETTINGS_MODULE": "project.settings", "SECRET_KEY": "x", "DATABASE": ":memory:"}
    (found,) = [block for block in recipes("docs/how-to/django.md") if "def score(order):" in block]
    code = textwrap.dedent(before) + found + textwrap.dedent(after)
    printed = run_isolated(code, path, ["sklearn", "pyarrow"], stack.environ | environ)
    assert (printed.strip(), job_ids()) == ("[]", ["order-7"])
    assert_scored(client, "order-7")


def test_the_celery_recipe_runs_without_scoreline_installed(
    stack: Stack, client: Client, job_ids: Callable[[], list[str]], tmp_path: Path
) -> None:
    code = recipe("docs/how-to/celery.md")
    lib = only(["celery[redis]"], tmp_path / "lib")
    state = run_isolated(code, [lib], ["scoreline", "boto3"], {"REDIS_URL": stack.environ["REDIS_URL"]})
    assert state.strip() in ("submitted", "running", "succeeded")
    assert job_ids() == ["weekly-2026-48"]
    assert_scored(client, "weekly-2026-48")


def test_the_celery_recipe_scores_records_in_the_message(
    stack: Stack, job_ids: Callable[[], list[str]], tmp_path: Path
) -> None:
    lib = only(["celery[redis]"], tmp_path / "lib")
    environ = {"REDIS_URL": stack.environ["REDIS_URL"]}
    printed = run_isolated(recipe("docs/how-to/celery.md", 1), [lib], ["scoreline", "boto3"], environ)
    assert [tuple(map(float, line.split())) for line in printed.splitlines()] == [(1, 1), (2, pytest.approx(2))]
    assert len(job_ids()) == 1


@pytest.mark.parametrize(
    ("page", "job_id"), [("README.md", "customers-2026-11-26"), ("docs/how-to/python.md", "customers-2026-11-25")]
)
def test_the_python_recipe_submits_and_watches_a_job(
    stack: Stack, client: Client, job_ids: Callable[[], list[str]], tmp_path: Path, page: str, job_id: str
) -> None:
    path = [ROOT, only(requirements(), tmp_path / "lib")]
    code = recipe(page) + "import scoreline.tasks.django  # needs Django no sooner than it is asked for a client\n"
    printed = run_isolated(code, path, ["sklearn", "pyarrow", "django"], stack.environ)
    assert printed.splitlines()[-1] == f"succeeded {ROWS} scored, 0 rejected, of {ROWS}"
    assert job_ids() == [job_id]
    assert_scored(client, job_id)


def test_the_recipe_for_records_at_hand_returns_their_scores(
    stack: Stack, job_ids: Callable[[], list[str]], tmp_path: Path
) -> None:
    path = [ROOT, only(requirements(), tmp_path / "lib")]
    printed = run_isolated(recipe("docs/how-to/records.md"), path, ["sklearn", "pyarrow"], stack.environ)
    assert [tuple(map(float, line.split())) for line in printed.splitlines()] == [(1, 1), (2, pytest.approx(2))]
    assert len(job_ids()) == 1


def test_every_call_on_the_python_page_works(
    stack: Stack, client: Client, job_ids: Callable[[], list[str]], tmp_path: Path
) -> None:
    path = [ROOT, only(requirements(), tmp_path / "lib")]
    printed = run_isolated(recipe("docs/reference/python.md"), path, ["sklearn", "pyarrow"], stack.environ)
    assert printed.splitlines() == [f"succeeded [{ROWS}]"]
    assert job_ids() == ["calls-1"]
    # And the table of the page lists every function of the package, with its real arguments and defaults
    text = (ROOT / "docs/reference/python.md").read_text()
    rows = dict(re.findall(r"^\| `(\w+)\(.*?\)` ?(\*?) \|", text, re.MULTILINE))
    functions = {name for name in scoreline.__all__ if inspect.isfunction(getattr(scoreline, name))}
    functions.remove("acting_as")  # a context manager, and no call of a client
    assert {name for name, star in rows.items() if star} == functions
    for name, arguments in re.findall(r"^\| `(\w+)\((.*?)\)`", text, re.MULTILINE):
        takes = inspect.signature(getattr(Client, name)).parameters
        for item in filter(None, arguments.replace("...", "").split(", ")):
            word, _, default = item.partition("=")
            assert word in takes
            assert default in ("", repr(takes[word].default).replace("'", '"'))


def test_the_shell_recipe_submits_and_watches_a_job(
    stack: Stack, client: Client, job_ids: Callable[[], list[str]]
) -> None:
    printed = run(["sh", "-e", "-c", recipe("docs/how-to/shell.md")], stack.environ)
    assert f"{ROWS} scored, 0 rejected, of {ROWS}" in printed
    (job_id,) = job_ids()
    assert re.fullmatch(r"daily-\d{4}-\d\d-\d\d", job_id)
    assert_scored(client, job_id)


@pytest.fixture
def due(client: Client, store: ObjectStore) -> Iterator[None]:
    """Write a schedule whose only slot of the day was five minutes ago and was not run."""
    slot = datetime.now(UTC) - timedelta(minutes=5)
    table = f"""
        [due]
        cron = "{slot.minute} {slot.hour} * * *"
        model = "churn@champion"
        input = "s3://scoreline/customers/"
    """
    store.put(keys.SCHEDULES, table.encode())
    Scheduler(client, Path("nowhere")).tick(slot - timedelta(minutes=5))
    yield
    store.delete(keys.SCHEDULES)


@pytest.mark.parametrize(("line", "expected"), [(0, "nightly-"), (1, "due-")])
def test_the_heroku_scheduler_recipe_runs_a_due_slot_once(
    stack: Stack, client: Client, job_ids: Callable[[], list[str]], due: None, line: int, expected: str
) -> None:
    command = recipe("docs/how-to/heroku.md").splitlines()[line]
    for _ in range(2):  # run the command twice, as Heroku Scheduler may do
        run(["sh", "-c", command], stack.environ)
    (job_id,) = job_ids()
    assert job_id.startswith(expected)
    assert_scored(client, job_id)
