"""How a run of several test processes begins: what each compiles, and with which tests each starts.

A process of pytest-xdist imports all test modules and then gets a part of the tests.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import cache
from itertools import groupby
from pathlib import Path

import pytest
from _pytest.assertion import rewrite

_TESTS = Path(__file__).parents[1]
_WAITING = ("e2e", "faults")
"""Folders of tests that wait for other processes for most of their time."""


def processes_of(config: pytest.Config) -> tuple[int, int]:
    """Return the number of this test process, from 0, and how many there are."""
    given = getattr(config, "workerinput", None)
    return (int(given["workerid"].removeprefix("gw")), given["workercount"]) if given else (0, 1)


def modules_of_tests() -> list[Path]:
    """Return the files of all test modules."""
    return sorted(_TESTS.rglob("test_*.py"))


def compile_modules(config: pytest.Config, files: Sequence[Path]) -> list[Path]:
    """Compile test modules that have not been compiled since they were changed, and return them.

    Pytest rewrites the assertions of a test module before it compiles the module, which takes longer than importing it.
    In a fresh checkout, all processes begin at once, and each would rewrite every module.
    """
    compiled = []
    for path in files if not sys.dont_write_bytecode else ():
        cached = rewrite.get_cache_dir(path) / (path.stem + rewrite.PYC_TAIL)
        if rewrite._read_pyc(path, cached) is None and rewrite.try_makedirs(cached.parent):
            digest, code = rewrite._rewrite_test(path, config)
            rewrite._write_pyc(config.stash[rewrite.assertstate_key], code, digest, cached)
            compiled.append(path)
    return compiled


def waits(item: pytest.Item) -> bool:
    """Whether a test waits for other processes for most of its time."""
    return _is_waiting(item.path)


@cache  # comparing paths takes a tenth of a millisecond, and ten thousand tests are in few modules
def _is_waiting(module: Path) -> bool:
    return module.is_relative_to(_TESTS) and module.relative_to(_TESTS).parts[0] in _WAITING


def spread[T](
    items: Sequence[T], processes: int, waiting: Callable[[T], bool], module: Callable[[T], object]
) -> list[T]:
    """Let all processes but the last begin with tests that wait.

    ``--dist worksteal`` gives each process a run of the list; the runs are equally long. The last process uses the
    cores while the others wait. All end with short tests, of which a process that has none left steals half of
    another's.
    """
    modules = [list(group) for _, group in groupby(filter(waiting, items), module)]
    short = [item for item in items if not waiting(item)]
    found: list[T] = []
    for number in range(processes - 1):
        begin = [item for group in modules[number :: processes - 1] for item in group]
        end = short[: max(0, (len(items) - len(found)) // (processes - number) - len(begin))]
        found += begin + end
        del short[: len(end)]
    return found + short if processes > 1 else list(items)
