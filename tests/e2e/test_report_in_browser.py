"""The report of a job in a browser: it asks for nothing, fits on a phone, and can be used without a mouse or sight."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from axe_playwright_python.sync_playwright import Axe

from scoreline.tasks.quality.report.html import render
from scoreline.testing import eager
from tests.support.churn import drifted, publish

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    with eager(folder) as client:
        publish(client)
        uri = client.put("in/a.parquet", drifted(3, 2_000).drop(columns="left"))
        client.submit("churn", uri, job_id="j", keep="customer,region", segment="region", max_rejected="10%")
        path = folder / "report.html"
        path.write_text(render(client.report("j")))
    return path


def opened(browser: Browser, file: Path, **options: Any) -> Page:
    page = browser.new_page(**options)
    page.goto(file.as_uri())
    return page


def test_the_page_asks_for_nothing_and_has_no_error(browser: Browser, file: Path) -> None:
    page, asked, said = browser.new_page(), [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto(file.as_uri())
    assert asked == [file.as_uri()]
    assert said == []
    assert page.locator("h1").inner_text().startswith("churn")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_fault(browser: Browser, file: Path, scheme: Any) -> None:
    page = opened(browser, file, color_scheme=scheme, bypass_csp=True)
    found = Axe().run(page)
    assert found.violations_count == 0, found.generate_report()


@pytest.mark.parametrize("width", [360, 1280])
def test_nothing_is_wider_than_the_window(browser: Browser, file: Path, width: int) -> None:
    page = opened(browser, file, viewport={"width": width, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") == width


def test_a_dark_browser_gets_a_dark_page(browser: Browser, file: Path) -> None:
    colour = "getComputedStyle(document.body).backgroundColor"
    light, dark = (opened(browser, file, color_scheme=scheme).evaluate(colour) for scheme in ("light", "dark"))
    assert light == "rgb(255, 255, 255)"
    assert dark != light


def test_the_page_can_be_used_by_keyboard(browser: Browser, file: Path) -> None:
    page = opened(browser, file)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the report"
    cards = page.locator("article.card:visible")
    before = cards.count()
    page.get_by_label("Show only what has changed").first.focus()
    page.keyboard.press("Space")
    assert cards.count() == before - page.locator("#features .same").count() < before


def test_print_keeps_the_text_dark_on_white(browser: Browser, file: Path, tmp_path: Path) -> None:
    page = opened(browser, file, color_scheme="dark")
    page.emulate_media(media="print")
    assert page.evaluate("getComputedStyle(document.body).color") == "rgb(0, 0, 0)"
    assert not page.locator("nav").is_visible()
    assert page.pdf(path=tmp_path / "report.pdf").startswith(b"%PDF")
