"""Try the mutants: ``python -m tests.mutants [NAME ...]``, or ``make mutants ONLY="NAME ..."``.

NAME is a part of a mutant's name, or the name of a list; by default, all mutants are tried. The status is 0 if each
mutant is killed by a test, or is listed with `survives`.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import queue
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tests.mutants.catalog import ROOT, Mutant, StaleMutants, check_fit, read_catalog

TIMEOUT_S = 60.0
"""Seconds for the tests of one mutant, which take a few seconds on an idle machine."""
BASELINE_TIMEOUT_S = 900.0
"""Seconds for all tests of all mutants on the unchanged code."""
WIDTH = 80
_NO_TESTS_RAN = "(the tests did not run)"

Fate = Literal["killed", "survived", "timed out", "not run", "killed too"]
"""``not run``: pytest could not run the tests, so the result is unknown. ``killed too``: a test fails, although the
list says that none can."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """The result for a mutant."""

    mutant: Mutant
    fate: Fate
    by: str
    """The first test that failed, or what pytest said if it could not run."""
    seconds: float

    @property
    def as_listed(self) -> bool:
        """Whether a test killed the mutant, or it survived as the list says."""
        return self.fate == "survived" if self.mutant.survives else self.fate == "killed"


def main(words: Sequence[str] | None = None) -> int:
    """Try the mutants, and print a line for each and a summary."""
    parser = argparse.ArgumentParser(prog="make mutants", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="part of the names of mutants, or a list")
    parser.add_argument("--jobs", type=int, default=2, help="mutants to try at once (default 2)")
    parser.add_argument("--timeout", type=float, default=TIMEOUT_S, help="seconds for each mutant (default 60)")
    options = parser.parse_args(words)
    try:
        chosen = [mutant for mutant in read_catalog() if _matches(mutant, options.names)]
        check_fit(chosen)
    except StaleMutants as error:
        _say(f"The list no longer fits the code:\n{textwrap.indent(str(error), '  ')}\nCorrect it in tests/mutants/.")
        return 2
    if not chosen:
        _say(f"No mutant has {' or '.join(map(repr, options.names))} in its name.")
        return 2
    with _copies(min(max(1, options.jobs), len(chosen))) as copies:
        if (failed := _baseline(copies[0], chosen)) is not None:
            _say(f"Without any mutant these tests fail, so that they prove nothing:\n{failed}")
            return 2
        trials = list(_try_all(chosen, copies, options.timeout))
    return _summarize(trials)


def _matches(mutant: Mutant, words: Sequence[str]) -> bool:
    return not words or any(word in mutant.name or word == mutant.subject for word in words)


@contextlib.contextmanager
def _copies(number: int) -> Iterator[list[Path]]:
    """Make copies of the checkout, and delete them at the end.

    Of the files that git ignores, the copies have only the built extensions.
    """
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
        text=True,
    )
    built = [str(path.relative_to(ROOT)) for path in _extensions(ROOT)]
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        Path(folder).chmod(0o711)  # a PostgreSQL of the tests runs as another user if this process is root's
        copies = [Path(folder, str(count)).resolve() for count in range(number)]
        for copy in copies:
            for name in [*listed.stdout.split("\0"), *built]:
                source, target = ROOT / name, copy / name
                if name and (source.is_symlink() or source.is_file()):
                    target.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy2(source, target, follow_symlinks=False)
        yield copies


def _baseline(copy: Path, mutants: Sequence[Mutant]) -> str | None:
    """Run all tests on the unchanged code. Return the failed tests, or None if there are none."""
    tests = sorted({test for mutant in mutants for test in mutant.tests})
    _say(f"{len(mutants)} mutants; first their {len(tests)} tests without any")
    code, output = _pytest(copy, tests, BASELINE_TIMEOUT_S)
    return None if code == 0 else _failures(output) or output[-2000:]


def _try_all(mutants: Sequence[Mutant], copies: Sequence[Path], timeout_s: float) -> Iterator[Trial]:
    """Try the mutants, one at a time in each copy, and print the result of each."""
    free: queue.SimpleQueue[Path] = queue.SimpleQueue()
    for copy in copies:
        free.put(copy)

    def attempt(mutant: Mutant) -> Trial:
        copy = free.get()
        try:
            return _try(mutant, copy, timeout_s)
        finally:
            free.put(copy)

    with ThreadPoolExecutor(len(copies), thread_name_prefix="mutant") as pool:
        for number, done in enumerate(as_completed([pool.submit(attempt, mutant) for mutant in mutants]), 1):
            trial = done.result()
            mark = " " if trial.as_listed else "!"
            head = f"{mark}{number:3}/{len(mutants)} {trial.fate:9} {trial.seconds:5.1f} s  {trial.mutant.name}"
            _say(head[:WIDTH])
            yield trial


def _try(mutant: Mutant, copy: Path, timeout_s: float) -> Trial:
    begun = time.monotonic()
    built = {path: path.read_bytes() for path in _extensions(copy)} if _is_built(mutant) else {}
    before = mutant.apply(copy)
    try:
        said = _build(copy, mutant)
        code, output = (2, said) if said else _pytest(copy, mutant.tests, timeout_s)
    finally:
        (copy / mutant.file).write_text(before, encoding="utf-8")
        for path, data in built.items():  # now newer than the source, so the next build leaves them alone
            path.write_bytes(data)
    fate: Fate
    if code is None:
        fate, by = "timed out", f"after {timeout_s:.0f} s"
    elif code == 0:
        fate, by = "survived", ""
    elif code == 1 and _failures(output):
        fate, by = "killed too" if mutant.survives else "killed", _failures(output).partition("\n")[0].strip()
    else:
        fate, by = "not run", _failures(output) or output[-2000:] or _NO_TESTS_RAN
    return Trial(mutant=mutant, fate=fate, by=by, seconds=time.monotonic() - begun)


def _extensions(root: Path) -> list[Path]:
    """Return the built extensions of a checkout."""
    return [path for folder in ("storage", "tasks") for path in (root / folder).rglob("*.so")]


def _is_built(mutant: Mutant) -> bool:
    return mutant.file.endswith((".pyx", ".pxd"))


def _build(copy: Path, mutant: Mutant) -> str:
    """Build the extensions of a copy again if the mutant is in one of their sources. Return what went wrong, or ""."""
    if not _is_built(mutant):
        return ""
    done = subprocess.run(
        [sys.executable, "setup.py", "-q", "build_ext", "--inplace", "--build-temp", ".cache/extensions"],
        cwd=copy,
        capture_output=True,
        text=True,
        check=False,
    )
    failed = done.returncode != 0 or re.search(r"^warning: build_ext: building extension .* failed", done.stderr, re.M)
    return f"the extensions cannot be built: {done.stderr[-2000:]}" if failed else ""


def _pytest(copy: Path, tests: Sequence[str], timeout_s: float) -> tuple[int | None, str]:
    """Run tests in a copy until the first failure. Return pytest's exit status, or None after a timeout."""
    environ = os.environ | {"PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1", "COLUMNS": "300"}
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-rfE", "--no-header", "--tb=no", "-p", "no:cacheprovider"]
    process = subprocess.Popen(
        [*command, *tests],
        cwd=copy,
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,  # a process group, so that all processes of the tests can be killed at once
    )
    try:
        output, _ = process.communicate(timeout=timeout_s)
        return process.returncode, output
    except subprocess.TimeoutExpired:
        return None, ""
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _failures(output: str) -> str:
    """Return the names of the tests that failed, one a line."""
    return "\n".join(re.findall(r"^(?:FAILED|ERROR) (\S+)", output, re.MULTILINE))


def _summarize(trials: Sequence[Trial]) -> int:
    """Print the killing test of each mutant, the survivors with their reasons, and totals. Return the exit status."""
    _say("\nKilled")
    killers: dict[str, list[str]] = {}
    for trial in trials:
        if trial.fate == "killed":
            killers.setdefault(trial.by, []).append(trial.mutant.name)
    for file, tests in itertools.groupby(sorted(killers), key=lambda test: test.partition("::")[0]):
        _say(file[:WIDTH])
        for test in tests:
            _say(_wrapped(_sentence(test), "  "))
            for name in sorted(killers[test]):
                _say(f"    - {name}"[:WIDTH])
    for fate in ("survived", "timed out", "not run", "killed too"):
        found = [trial for trial in trials if trial.fate == fate]
        if found:
            _say(f"\n{fate.capitalize()}")
        for trial in found:
            _say(f"  {'' if trial.as_listed else '! '}{trial.mutant.name}"[:WIDTH])
            said = trial.by
            if fate == "survived":
                said = trial.mutant.survives or f"No test sees it: {trial.mutant.why}"
            _say(_wrapped(said, "      "))
    numbers = Counter(trial.fate for trial in trials)
    wrong = sum(not trial.as_listed for trial in trials)
    _say("\n" + ", ".join(f"{count} {fate}" for fate, count in numbers.most_common()))
    _say(f"{wrong} not as listed (marked with !)" if wrong else "each as listed")
    return 1 if wrong else 0


def _sentence(test: str) -> str:
    """Return the name of a test as a sentence.

    >>> _sentence("tests/unit/test_a.py::test_a_part_counts_once[redis-one_two]")
    'a part counts once [redis-one_two]'
    """
    name, bracket, case = test.partition("::")[2].removeprefix("test_").partition("[")
    return name.replace("_", " ") + f" {bracket}{case}" * bool(case)


def _wrapped(text: str, indent: str) -> str:
    return textwrap.fill(" ".join(text.split()), WIDTH, initial_indent=indent, subsequent_indent=indent)


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
