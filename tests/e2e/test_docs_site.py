"""The documentation is built as static pages without a warning, and its pages load nothing from other sites."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from docs.generated import DOCS, ROOT

FETCHED = re.compile(r"<(?:script|img|iframe|source)\b[^>]*\bsrc=\"([^\"]+)\"|<link\b[^>]*\bhref=\"([^\"]+)\"")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-d", folder / "trees", DOCS, folder / "html"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return folder / "html"


def test_the_site_has_every_page(site: Path) -> None:
    pages = {path.relative_to(DOCS).with_suffix(".html") for path in DOCS.rglob("*.md")}
    assert len(pages) > 30
    assert all((site / page).is_file() for page in pages)
    assert "scored rows" in (site / "index.html").read_text()
    assert "create-only" in (site / "project/architecture.html").read_text()


def test_no_page_fetches_anything_from_another_site(site: Path) -> None:
    for page in site.rglob("*.html"):
        for match in FETCHED.finditer(page.read_text()):
            address, _, _ = (match[1] or match[2]).partition("#")
            assert not address.startswith(("http:", "https:", "//")), (page, address)
            assert address.startswith("data:") or (page.parent / address.partition("?")[0]).exists(), (page, address)
    for sheet in site.rglob("*.css"):
        assert not re.search(r"url\(['\"]?(?:https?:)?//|@import", sheet.read_text()), sheet
