"""The examples in docstrings give the shown results."""

from __future__ import annotations

import doctest
import pkgutil
from importlib import import_module

import pytest

import scoreline
from tests.support.pages import configure_django

configure_django()  # the models of the Django app cannot be imported before


def modules() -> list[str]:
    """Return the name of every module of the package; the links of the package to three folders are subpackages."""
    found = ["scoreline", *(found.name for found in pkgutil.walk_packages(scoreline.__path__, "scoreline."))]
    return [name for name in found if not name.endswith(".admin")]  # the admin needs other apps of Django


def examples(name: str) -> list[doctest.DocTest]:
    found = doctest.DocTestFinder(exclude_empty=True).find(import_module(name))
    return [test for test in found if test.examples]


WITH_EXAMPLES = [name for name in modules() if examples(name)]


def test_each_of_the_three_folders_has_examples() -> None:
    assert {name.split(".")[1] for name in WITH_EXAMPLES} >= {"storage", "tasks"}


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_the_examples_of_a_module_print_what_they_say(name: str) -> None:
    runner = doctest.DocTestRunner()
    said: list[str] = []
    for test in examples(name):
        runner.run(test, out=said.append)
    assert runner.summarize(verbose=False).failed == 0, "".join(said)
