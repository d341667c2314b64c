from __future__ import annotations

import subprocess
import sys

import pytest

from tests.support.installed import not_installed_by

BROKERS = "kombu.transport.redis, kombu.transport.pyamqp"
REPORTING = "scoreline.tasks.quality.report.collect, scoreline.tasks.quality.checks.inferred_checks"
SUBMITTING = f"scoreline.tasks.client, scoreline.worker.cli.main, {REPORTING}, {BROKERS}"
CELERY = "celery.bin.worker, celery.bin.beat, celery.concurrency.prefork"
WORKING = f"scoreline.worker.tasks, scoreline.worker.dev.demo, {CELERY}, {BROKERS}"


@pytest.mark.parametrize(
    "module",
    [
        "scoreline",
        "scoreline.tasks.client",
        "scoreline.tasks.django",
        "scoreline.testing",
        "scoreline.worker.cli.main",
        "scoreline.worker.celery",
    ],
)
def test_enqueueing_and_the_clock_need_nothing_of_machine_learning(module: str) -> None:
    code = (
        f"import sys, {module}\n"
        "found = {'sklearn', 'pandas', 'numpy', 'joblib', 'pyarrow', 'scipy'} & sys.modules.keys()\n"
        "sys.exit(f'imported {found}' if found else 0)"
    )
    places = {"R2_ENDPOINT_URL": "http://r2.example", "R2_BUCKET": "data"}
    done = subprocess.run([sys.executable, "-c", code], env=places, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("files", "modules"),
    [(("requirements.txt",), SUBMITTING), (("requirements.txt", "ml-requirements.txt"), WORKING)],
    ids=["to submit", "to work"],
)
def test_the_requirement_files_name_all_that_is_imported(files: tuple[str, ...], modules: str) -> None:
    # Given a simulated clean installation, without the packages that only the tests need
    missing = not_installed_by(*files)
    assert "pytest" in missing
    # When everything is imported, then no package is missing
    code = f"import sys; sys.modules.update(dict.fromkeys({missing!r})); import {modules}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_metrics_and_telemetry_packages_are_imported_only_on_request() -> None:
    code = (
        "import sys, scoreline.worker.cli.main, scoreline.worker.telemetry\n"
        "found = {'prometheus_client', 'sentry_sdk', 'opentelemetry.exporter'} & sys.modules.keys()\n"
        "sys.exit(f'imported {found}' if found else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
