from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from scoreline.worker.dev.stack import ROOT

FILES = sorted(
    path for folder in ("worker/cli", "tasks/steps", "tasks/dispatch") for path in (ROOT / folder).glob("*.py")
)
NOUNS = re.compile(r"^ (rows|parts|objects|times)\b(?!/s)")


def counted(file: Path) -> Iterator[tuple[str, str]]:
    """Yield each value in an f-string that is followed by a plural noun, together with the noun."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.JoinedStr):
            for value, text in zip(node.values, node.values[1:], strict=False):
                if isinstance(value, ast.FormattedValue) and isinstance(text, ast.Constant):
                    nouns = NOUNS.findall(str(text.value))
                    yield from ((ast.unparse(value.value), noun) for noun in nouns)


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_no_message_can_speak_of_1_rows(file: Path) -> None:
    more_than_one = {"most", "MAX_VALUES", "SAMPLE_ROWS", "times"}  # these values are limits, or a ratio above 1
    assert [found for found in counted(file) if found[0] not in more_than_one] == []
