"""A local file appears when it is complete, whatever its name."""

from __future__ import annotations

from pathlib import Path

import pytest

from scoreline.tasks.quality.results.whole_file import whole_file


@pytest.mark.parametrize("name", ["scores.csv", "é" * 125 + ".csv", "表" * 83 + ".csv", "𝛽" * 62 + ".csv"])
def test_any_name_that_the_file_system_allows_can_be_written(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("before")
    with whole_file(tmp_path / name) as temporary:
        temporary.write_text("after")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [(name, "after")]


def test_an_error_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "scores.csv").write_text("before")

    def fail() -> None:
        with whole_file(tmp_path / "scores.csv") as temporary:
            temporary.write_text("half")
            raise OSError("the disk is full")

    with pytest.raises(OSError, match="the disk is full"):
        fail()
    assert [path.read_text() for path in tmp_path.iterdir()] == ["before"]
