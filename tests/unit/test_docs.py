"""In README and docs, links have a target, code can be parsed, and all commands and names exist."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import re
import shlex
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib import import_module
from pathlib import Path
from types import ModuleType

import click
import pytest
from celery.worker.control import Panel
from django.test import override_settings

import scoreline
from docs import generated
from docs.generated import DOCS, ROOT
from scoreline.tasks.alerts.recipients import parse_recipients
from scoreline.tasks.databases.source.queries import parse as parse_queries
from scoreline.tasks.quality.checks.checks_file import parse as parse_checks
from scoreline.tasks.schedules.file import parse
from scoreline.worker.cli.progress import EXIT_CODES
from tests.support.pages import configure_django

PAGES = sorted(
    [
        *DOCS.rglob("*.md"),
        *(ROOT / name for name in ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")),
        *(ROOT / "benchmarks").rglob("*.md"),
    ]
)
OF_READERS = {"scoring"}
"""Packages of the reader's own application in the examples."""
LANGUAGES = {"python", "toml", "sh", "console", "text", "{toctree}", "{eval-rst}"}
README_LINES = 130


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def read(page: Path) -> str:
    """Return the text of a page, including the generated parts."""
    return generated.fill(page.read_text())


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{re.escape(language)}\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)


def prose(text: str) -> str:
    return re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub and the site give to the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", prose(read(page)), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def with_blocks(language: str) -> list[Path]:
    return [page for page in PAGES if blocks(page, language)]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_relative_link_leads_to_a_file_and_a_heading(page: Path) -> None:
    text = re.sub(r"`[^`\n]*`", "", prose(page.read_text()))
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"\w+:", target):
            assert target.startswith("https://"), target
            continue
        path, _, anchor = target.partition("#")
        found = (page.parent / path).resolve() if path else page
        assert found.is_file(), target
        assert not anchor or anchor in anchors(found), target


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_code_block_names_its_language(page: Path) -> None:
    fences = re.findall(r"^```(.*)$", page.read_text(), re.MULTILINE)
    assert set(fences[::2]) <= LANGUAGES
    assert set(fences[1::2]) <= {""}


def importable(name: str) -> ModuleType:
    """Import a module. The modules about Django's models and admin need a project with these apps."""
    configure_django()
    apps = ["scoreline.django", "django.contrib.contenttypes", "django.contrib.auth"]
    with override_settings(INSTALLED_APPS=[*apps, "django.contrib.messages", "django.contrib.sessions"]):
        return import_module(name)


@pytest.mark.parametrize("page", with_blocks("python"), ids=name_of)
def test_every_name_that_the_examples_import_exists(page: Path) -> None:
    for code in blocks(page, "python"):
        for node in ast.walk(ast.parse(code)):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            for name in names:
                top = name.partition(".")[0]
                assert top in OF_READERS or importlib.util.find_spec(top), name
            if isinstance(node, ast.ImportFrom) and str(node.module).startswith("scoreline"):
                module = importable(str(node.module))
                assert all(hasattr(module, alias.name) for alias in node.names), ast.unparse(node)


@pytest.mark.parametrize("page", with_blocks("toml"), ids=name_of)
def test_schedules_and_checks_have_no_fault(page: Path) -> None:
    for text in blocks(page, "toml"):
        tables = tomllib.loads(text)
        assert tables
        if "cron" in text:
            assert parse(text).faults == ()
        elif "sql = " in text:
            assert parse_queries(text, "the page")
        elif "urls" in text:
            named = {name: "mailto://x" for table in tables.values() for name in table["urls"]}
            assert parse_recipients(text, named)[1] == ()
        else:
            assert parse_checks(text).faults == ()


def commands(page: Path) -> Iterator[list[str]]:
    """Yield the words of each command of a page that begins with ``scoreline``."""
    lines = [line for text in blocks(page, "sh") for line in text.splitlines()]
    lines += [
        line.removeprefix("$ ") for text in blocks(page, "console") for line in text.splitlines() if line[:2] == "$ "
    ]
    for line in lines:
        words = shlex.split(line.replace("python -m scoreline", "scoreline"), comments=True)
        if "scoreline" in words and words[0] in ("scoreline", "docker", "heroku"):
            yield words[words.index("scoreline") :]


@pytest.mark.parametrize("page", [*with_blocks("sh"), *with_blocks("console")], ids=name_of)
def test_every_command_of_the_docs_can_be_parsed(page: Path) -> None:
    for words in commands(page):
        name, rest = "scoreline", words[1:]
        while isinstance(command := generated.commands()[name], click.Group) and rest and rest[0] in command.commands:
            name, rest = f"{name} {rest[0]}", rest[1:]
        command.make_context(name, rest)  # raises an error if an argument or option is invalid


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_command_that_the_text_names_exists(page: Path) -> None:
    for span in re.findall(r"`(scoreline [^`]+)`", prose(page.read_text())):
        words = span.replace("\n", " ").split()
        name = words[0]
        while len(words) > 1 and f"{name} {words[1]}" in generated.commands():
            name = f"{name} {words.pop(1)}"
        command = generated.commands()[name]
        rest = words[1:]
        assert not isinstance(command, click.Group) or not rest or rest[0].isupper() or rest[0].startswith("-"), span
        known = {option for item in command.params for option in item.opts} | {"--help", "--version", "--"}
        assert name == "scoreline" or {word for word in rest if word.startswith("--")} <= known, span


def test_every_control_command_is_one_that_a_worker_knows() -> None:
    import_module("scoreline.worker.control")
    texts = [text for page in PAGES for text in blocks(page, "sh")]
    named = {
        name for text in texts for name in re.findall(r"^celery -A scoreline (?:inspect|control) (\w+)", text, re.M)
    }
    assert {"jobs", "models", "evict_models"} <= named
    assert named <= Panel.meta.keys()


REFERENCE: Mapping[str, Callable[[], Iterable[str]]] = {
    "settings": generated.settings,
    "commands": generated.commands,
    "job-options": generated.options,
    "metrics": generated.metrics,
    "log-events": generated.events,
    "messages": generated.tasks,
}


@pytest.mark.parametrize("page", REFERENCE)
def test_every_name_of_the_code_is_on_its_page(page: str) -> None:
    names = set(REFERENCE[page]())
    assert len(names) >= 10
    text = read(DOCS / f"reference/{page}.md")
    shown = set(re.findall(r"^\| `([^`]+)` \|", text, re.MULTILINE)) | set(
        re.findall(r"^##+ (.+)$", text, re.MULTILINE)
    )
    assert names <= shown


def test_every_public_name_is_on_the_page_of_python() -> None:
    text = read(DOCS / "reference/python.md")
    for name in set(scoreline.__all__) - {"__version__"}:
        value = getattr(scoreline, name)
        entry = f"`{name}`" if inspect.isclass(value) and issubclass(value, Exception) else f":: scoreline.{name}\n"
        assert entry in text, name


def test_a_page_that_lacks_a_name_or_invents_one_is_refused() -> None:
    page = DOCS / "reference/log-events.md"
    row = next(line for line in page.read_text().splitlines(keepends=True) if line.startswith("| `part.scored`"))
    with pytest.raises(generated.PageIncomplete, match=r"lacks part\.scored"):
        generated.fill(page.read_text().replace(row, ""))
    with pytest.raises(generated.PageIncomplete, match=r"no `part\.sung`"):
        generated.fill(page.read_text().replace("part.scored", "part.sung"))
    with pytest.raises(generated.PageIncomplete, match="lacks TICK_SECONDS"):
        generated.fill((DOCS / "reference/settings.md").read_text().replace("TICK_SECONDS", "R2_BUCKET"))


def test_exit_codes_are_those_of_the_command_line() -> None:
    text = (DOCS / "reference/exit-codes.md").read_text()
    table = dict(re.findall(r"^\| (\d+) \| (.*) \|$", text, re.MULTILINE))
    for state, code in EXIT_CODES.items():
        assert state in table[str(code)]


def test_a_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= README_LINES
