"""``manage.py scoreline``: the command line, with the settings of the project."""

from __future__ import annotations

import argparse
import contextlib
import os
import runpy
import subprocess
import sys
import threading
import traceback
from collections.abc import Sequence
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from scoreline.storage.errors import InvalidSettings
from scoreline.tasks.django.project_client import environ

_ANYWHERE = ("--settings", "--pythonpath")
"""Options that ``manage.py`` itself reads, wherever they stand."""
_FLAGS = {"--no-color": "NO_COLOR", "--force-color": "FORCE_COLOR"}
_WEB = "a Django project serves the pages itself: add path('scoreline/', include('scoreline.django.urls')) to its URLs"


class Command(BaseCommand):
    """Hands its words to the command line, in this process."""

    help = "Run a command of Scoreline with the settings of this project."
    requires_system_checks = ()

    def run_from_argv(self, argv: list[str]) -> None:
        """Run a command as ``manage.py`` was called. The exit code is that of the command."""
        program = f"{os.path.basename(argv[0])} {argv[1]}"
        words, given = split(argv[2:])
        for flag in given:
            if flag in _FLAGS:
                os.environ[_FLAGS[flag]] = "1"
        try:
            run(program, words)
        except CommandError as error:
            self.stderr.write(f"error: {error}")
            sys.exit(2)
        except SystemExit as ended:
            if "--traceback" in given and isinstance(ended.__context__, Exception):
                traceback.print_exception(ended.__context__)
            raise

    def print_help(self, prog_name: str, subcommand: str) -> None:
        """Print the help of the command line, for ``manage.py help scoreline``."""
        with contextlib.suppress(SystemExit):
            run(f"{os.path.basename(prog_name)} {subcommand}", ["--help"])

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Accept any words, for `call_command`."""
        parser.add_argument("words", nargs=argparse.REMAINDER, help="A command of Scoreline, and its options.")

    def handle(self, *_: Any, words: Sequence[str] = (), **__: Any) -> None:
        """Run a command for `call_command`; raises `CommandError` if its exit code is not 0.

        A command has the environment, the words and the outputs of the whole process for itself. In a thread other than
        the main thread, such as one of a web server, it therefore runs in a process of its own.
        """
        if threading.current_thread() is not threading.main_thread():
            return self._run_apart(words)
        try:
            with contextlib.redirect_stdout(self.stdout), contextlib.redirect_stderr(self.stderr):
                run("manage.py scoreline", words)
        except SystemExit as ended:
            if ended.code:
                code = ended.code if isinstance(ended.code, int) else 1
                raise CommandError(f"scoreline ended with {ended.code}", returncode=code) from ended

    def _run_apart(self, words: Sequence[str]) -> None:
        """Run a command in a process of its own, and write what it says at its end."""
        refuse(words)
        try:
            found = environ()
        except InvalidSettings as error:
            raise CommandError(str(error)) from None
        done = subprocess.run(
            [sys.executable, "-m", "scoreline", *words],
            env=found,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            encoding="utf-8",
            check=False,
        )
        self.stdout.write(done.stdout, ending="")
        self.stderr.write(done.stderr, lambda text: text, ending="")
        if done.returncode:
            raise CommandError(f"scoreline ended with {done.returncode}", returncode=done.returncode)


def split(words: Sequence[str]) -> tuple[list[str], set[str]]:
    """Return the words of the command line, and the options of Django before them.

    >>> words, given = split(["--no-color", "-v", "2", "jobs", "--settings", "shop.settings", "--json"])
    >>> words, sorted(given)
    (['jobs', '--json'], ['--no-color', '-v'])
    """
    left, kept, given = list(words), list[str](), set[str]()
    while left:
        word = left.pop(0)
        name, equals, _ = word.partition("=")
        if word == "--":
            return [*kept, word, *left], given
        if name in _ANYWHERE:
            if not equals and left:
                del left[0]
        elif kept:  # the command line reads what follows its first word
            kept.append(word)
        elif name in ("-v", "--verbosity"):
            given.add(name)
            if not equals and left:
                del left[0]
        elif word in (*_FLAGS, "--traceback", "--skip-checks"):
            given.add(word)
        else:
            kept.append(word)
    return kept, given


def refuse(words: Sequence[str]) -> None:
    """Raise `CommandError` if the words ask for pages that the project itself serves."""
    if list(words[:1]) == ["web"] and "adduser" not in words and not {"-h", "--help"} & set(words):
        raise CommandError(_WEB)


def run(program: str, words: Sequence[str]) -> None:
    """Run the command line as ``python -m scoreline`` does; raises `SystemExit` at its end.

    Parameters
    ----------
    program : str
        The name of the program in its help.
    words : sequence of str
        What follows the name.
    """
    refuse(words)
    try:
        found = environ()
    except InvalidSettings as error:
        raise CommandError(str(error)) from None
    before_words, before_environ = sys.argv, dict(os.environ)
    sys.argv = [program, *words]
    os.environ.update(found)
    try:
        runpy.run_module("scoreline", run_name="__main__")
    finally:
        sys.argv = before_words
        os.environ.clear()
        os.environ.update(before_environ)
