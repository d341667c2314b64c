"""The lists of mutants fit the code, so that `make mutants` can try them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.mutants.catalog import StaleMutants, check_fit, read_catalog

GOOD = """
[loses-rows]
file = "scorer.py"
old = '''rows + 1'''
new = '''rows'''
tests = ["test_scorer.py::test_rows"]
why = "A row is lost."
"""


def test_every_mutant_changes_the_code_in_one_place_and_names_tests_that_exist() -> None:
    check_fit(read_catalog())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "scorer.py").write_text("def count(rows):\n    return rows + 1\n")
    (tmp_path / "test_scorer.py").write_text("def test_rows():\n    pass\n")
    return tmp_path


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (GOOD, ""),
        (GOOD.replace("rows + 1", "rows + 2"), "loses-rows: its old text occurs 0 times in scorer.py, not once"),
        (GOOD.replace("rows + 1", "rows"), "loses-rows: its old text occurs 2 times in scorer.py, not once"),
        (GOOD.replace("'''rows'''", "'''rows +'''"), "loses-rows: its new text is not Python"),
        (GOOD.replace("::test_rows", "::test_columns"), "loses-rows: there is no test_columns in test_scorer.py"),
        (GOOD.replace("test_scorer.py", "test_gone.py"), "loses-rows: there is no test_gone.py"),
        (GOOD.replace('why = "A row is lost."', ""), "all.toml: loses-rows lacks why"),
        (GOOD + 'wyh = "?"', "all.toml: loses-rows has wyh"),
    ],
)
def test_a_mutant_that_no_longer_fits_is_named_with_its_fault(folder: Path, text: str, fault: str) -> None:
    (folder / "all.toml").write_text(text)
    try:
        check_fit(read_catalog(folder), folder)
        found = ""
    except StaleMutants as error:
        found = str(error)
    assert found.startswith(fault)
    assert bool(found) == bool(fault)


def test_a_mutant_is_applied_and_taken_back(folder: Path) -> None:
    (folder / "all.toml").write_text(GOOD)
    (mutant,) = read_catalog(folder)
    before = mutant.apply(folder)
    assert (folder / "scorer.py").read_text() == before.replace("rows + 1", "rows")
