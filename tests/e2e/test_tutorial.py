"""The commands of the tutorial run unchanged, and their output looks as the page shows it."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from scoreline.worker.dev.stack import ROOT
from tests.conftest import SCORELINE

PAGE = (ROOT / "docs/tutorial/first-job.md").read_text()
VARIES = {
    r"\d{8}T\d{6}Z-[0-9a-f]+": "<version>",
    r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d\+00:00)?": "<time>",
    r"about \d+ MiB": "about <n> MiB",
    r"\d+ for the rows": "<n> for the rows",
    r"\d+\.\d+": "<x>",
    r" \d+[smh] ": " <age> ",
    r" +": " ",
}
"""Matches text that differs from run to run: versions, times, and the digits of seconds and scores."""


def files() -> dict[str, str]:
    """Return each file that the page asks the reader to save."""
    return dict(re.findall(r"Save this as `([\w.]+)`.*?^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL))


def transcript() -> list[tuple[str, list[str]]]:
    """Return each command of the page, with the lines that it shows below it."""
    found: list[tuple[str, list[str]]] = []
    for block in re.findall(r"^```console\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL):
        for line in block.splitlines():
            if line.startswith("$ "):
                found.append((line.removeprefix("$ "), []))
            else:
                found[-1][1].append(line)
    return found


def shape(lines: list[str]) -> list[str]:
    """Return lines without the text that varies, and without progress bars, which only a terminal shows in full."""
    shapes = []
    for line in lines:
        if "━" in line:
            continue
        for pattern, instead in VARIES.items():
            line = re.sub(pattern, instead, line)
        shapes.append(line.strip())
    return [line for line in shapes if line]


@pytest.mark.timeout(600)
def test_the_tutorial_shows_what_its_commands_print(tmp_path: Path) -> None:
    for name, text in files().items():
        (tmp_path / name).write_text(text)
    commands = transcript()
    assert len(commands) >= 10
    mark = "--- next command ---"
    script = "".join(f"echo '{mark}'\n{command} 2>&1\n" for command, _ in commands)
    done = subprocess.run(
        [SCORELINE, "dev", "--", "bash", "-c", script],
        cwd=tmp_path,
        env={"PATH": "/usr/bin:/bin", "COLUMNS": "160", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    printed = done.stdout.split(mark)[1:]
    assert len(printed) == len(commands), done.stderr
    for (command, shown), lines in zip(commands, printed, strict=True):
        assert shape(lines.splitlines()) == shape(shown), command
