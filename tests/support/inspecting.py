"""Asks the worker of a stack as ``celery inspect`` does."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from scoreline.worker.dev.stack import ROOT, Stack
from tests.support.waiting import wait_until
from tests.support.warm import run_script

_CELERY = str(Path(sys.executable).with_name("celery"))
_NO_ANSWER = 69


def ask(stack: Stack, *words: str) -> Any:
    """Return what the only worker answers to ``celery -A scoreline inspect`` or ``control``.

    Celery waits a second for answers. A busy worker may take longer, and is then asked again.
    """

    def said() -> list[Any]:
        done = run_script(_CELERY, "-A", "scoreline", *words, "--json", environ=_environ(stack), folder=ROOT)
        assert done.returncode in (0, _NO_ANSWER), done.stderr
        if done.returncode == _NO_ANSWER:
            return []
        found = json.loads(done.stdout)
        return list((found[0] if isinstance(found, list) else found).values())

    (answer,) = wait_until(said, f"an answer to {words}")
    return answer


def _environ(stack: Stack) -> dict[str, str]:
    return {"PATH": "/usr/bin:/bin"} | stack.environ
