"""A run of several test processes compiles each module once, and begins with the tests that wait."""

from __future__ import annotations

import sys
from itertools import groupby
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from xdist.remote import Producer
from xdist.scheduler.worksteal import WorkStealingScheduling

from tests.support.start import compile_modules, spread

WAITING = [(f"e2e/{module}", number) for module in range(7) for number in range(3)]
SHORT = [("unit", number) for number in range(82)]


class Node:
    """A test process that keeps the tests it is given."""

    def __init__(self, number: int) -> None:
        self.gateway = SimpleNamespace(id=number)
        self.shutting_down = False
        self.given: list[int] = []

    def send_runtest_some(self, indices: list[int]) -> None:
        self.given += indices


def spread_over(processes: int) -> list[tuple[str, int]]:
    return spread(WAITING + SHORT, processes, lambda test: test[0] != "unit", lambda test: test[0])


@pytest.mark.parametrize("processes", [2, 3, 4, 5])
def test_all_processes_but_one_begin_with_tests_that_wait(processes: int) -> None:
    tests = spread_over(processes)
    assert sorted(tests) == sorted(WAITING + SHORT)
    # When the scheduler of xdist gives each process its first tests
    config: Any = SimpleNamespace(getvalue=lambda name: ["popen"] * processes)
    scheduler = WorkStealingScheduling(config, Producer("scheduler", enabled=False))
    nodes: list[Any] = [Node(number) for number in range(processes)]
    for node in nodes:
        scheduler.add_node(node)
        scheduler.add_node_collection(node, [str(test) for test in tests])
    scheduler.schedule()
    # Then a process has whole modules of tests that wait, before its short tests, and the last one has short tests
    runs = [[tests[index] for index in node.given] for node in nodes]
    for run in runs[:-1]:
        begin = [test for test in run if test in WAITING]
        assert begin == run[: len(begin)] != []
        assert all(len(list(group)) == 3 for _, group in groupby(begin, lambda test: test[0]))
    assert set(runs[-1]) <= set(SHORT)


def test_a_single_process_keeps_the_order() -> None:
    assert spread_over(1) == WAITING + SHORT


def test_more_waiting_tests_than_a_process_gets_are_all_run() -> None:
    tests = spread(WAITING, 2, lambda test: True, lambda test: test[0])
    assert sorted(tests) == WAITING


def test_a_module_is_compiled_once_until_it_changes(
    pytestconfig: pytest.Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    monkeypatch.setattr(sys, "pycache_prefix", None)
    one, other = files = [tmp_path / "test_one.py", tmp_path / "test_other.py"]
    for path in files:
        path.write_text("def test_it():\n    assert 1 + 1 == 2\n")
    assert compile_modules(pytestconfig, files) == files
    assert compile_modules(pytestconfig, files) == []
    other.write_text("def test_it():\n    assert 1 + 2 == 3\n")
    assert compile_modules(pytestconfig, files) == [other]
    # A run that may not write to the checkout compiles nothing
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    one.write_text("")
    assert compile_modules(pytestconfig, files) == []
