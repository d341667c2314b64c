"""Writes a report as one HTML page that needs nothing else: no script, and no font or style from elsewhere."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from scoreline.storage.wording import cut, plural, printable
from scoreline.tasks.job.findings import Finding
from scoreline.tasks.quality.report import wording
from scoreline.tasks.quality.report.challenger import challenger_view
from scoreline.tasks.quality.report.drawing import HEIGHT, WIDTH, Drawing, draw
from scoreline.tasks.quality.report.facts import Column, Report
from scoreline.tasks.quality.report.later import later_view
from scoreline.tasks.quality.report.pictures import Bins
from scoreline.tasks.quality.trace.lineage import MAX_PARTS

MAX_CARDS = 300
"""Maximum number of columns that get a picture: those that have changed most. A table lists the others."""
MAX_LISTED = 1_000
"""Maximum number of columns in that table."""
_NAME = 80


@dataclass(frozen=True, kw_only=True)
class Card:
    """A column with its picture."""

    number: int
    column: Column
    drawing: Drawing | None


@dataclass(frozen=True, kw_only=True)
class Topic:
    """The findings about a column, or one finding about the whole job."""

    column: str
    """Empty if the finding is about the whole job."""
    anchor: str
    """Of the picture of the column; empty if it has none."""
    blocks: bool
    sentences: tuple[str, ...]
    """How the column has moved, in words for everybody."""
    findings: tuple[Finding, ...]


@dataclass(frozen=True, kw_only=True)
class Group:
    """The columns of a kind."""

    anchor: str
    heading: str
    sentences: tuple[str, ...]
    cards: tuple[Card, ...]
    listed: tuple[Column, ...]
    """Columns without a picture."""
    left_out: int
    """Number of columns that are not even listed."""
    unchanged: int


def render(report: Report) -> str:
    """Return the page."""
    other = wording.other_of(report.compared)
    groups = tuple(_groups(report, other))
    anchors = {card.column.key: f"c{card.number}" for group in groups for card in group.cards}
    by_name = {key.removesuffix(" (score)"): anchor for key, anchor in anchors.items()} | anchors
    return (
        _environment()
        .get_template("page.html")
        .render(
            report=report,
            verdict=wording.verdict_of(report),
            story=wording.story(report),
            other=other,
            compared="" if report.compared is None else wording.comparison_text(report.compared),
            groups=groups,
            topics=_topics(report, by_name),
            challenger=None if report.comparison is None else challenger_view(report.comparison),
            later=None if report.outcomes is None else later_view(report.outcomes, report.job_id),
            work=sum(stage.seconds for stage in report.stages),
            ACTIVITIES=_ACTIVITIES,
            FOUND=_FOUND,
            MAX_PARTS=MAX_PARTS,
            WIDTH=WIDTH,
            HEIGHT=HEIGHT,
        )
    )


_HEADINGS = (("score", "Scores", "score"), ("feature", "Features", "feature"), ("kept", "Kept columns", "kept column"))
_ACTIVITIES = {
    "queue": "waiting for the next part, and work on other jobs",
    "decode": "fetching and decoding the input",
    "align": "converting rows for the model, and scores for the results",
    "predict": "scoring by the model",
    "encode": "writing the results as Parquet into memory",
    "upload": "sending the results to the bucket",
}


def _topics(report: Report, anchors: Mapping[str, str]) -> tuple[Topic, ...]:
    """Return the findings by column, in the order of the first one of each: those that block come first."""
    by_column: dict[str, list[Finding]] = {}
    for number, finding in enumerate(report.findings):
        by_column.setdefault(finding.column or f"\n{number}", []).append(finding)
    columns = {column.key: column for column in report.columns}
    topics = []
    for name, findings in by_column.items():
        column = columns.get(f"{name} (score)") or columns.get(name)
        topics.append(
            Topic(
                column=findings[0].column,
                anchor=anchors.get(name, ""),
                blocks=findings[0].level == "block",
                sentences=tuple(wording.moved(column)) if column is not None else (),
                findings=tuple(findings),
            )
        )
    return tuple(topics)


_FOUND = {
    "drift": "the distribution has moved",
    "outside": "new values",
    "nulls": "more missing values",
    "mean": "the mean has moved",
    "classes": "the shares of the classes have moved",
}


def _groups(report: Report, other: str) -> Sequence[Group]:
    left, number, groups = MAX_CARDS, 0, []
    for kind, heading, noun in _HEADINGS:
        columns = [column for column in report.columns if column.kind == kind]
        if not columns:
            continue
        cards = []
        for column in columns[:left]:
            number += 1
            drawing = draw(column, column.picture, other) if isinstance(column.picture, Bins) else None
            cards.append(Card(number=number, column=column, drawing=drawing))
        rest = columns[left:]
        left -= len(cards)
        groups.append(
            Group(
                anchor=f"{kind}s",
                heading=heading,
                sentences=tuple(wording.changed_text(report, kind, noun)),
                cards=tuple(cards),
                listed=tuple(rest[:MAX_LISTED]),
                left_out=max(0, len(rest) - MAX_LISTED),
                unchanged=sum(card.column.change == "same" for card in cards),
            )
        )
    return groups


@functools.cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("scoreline.tasks.quality.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_shown,
    )
    environment.filters |= {
        "number": wording.number,
        "quantity": wording.quantity,
        "spread": wording.spread,
        "share": wording.share,
        "size": wording.size,
        "moment": wording.moment,
        "elapsed": wording.elapsed,
        "as_json": _as_json,
        "plural": plural,
        "name": _name,
        "stability": wording.stability,
    }
    return environment


def _shown(value: Any) -> Any:
    """Return a value for the page, before Jinja2 escapes it.

    Texts come from outside: long ones are cut, and characters that control or change the direction of a line are
    escaped, and so are single halves of surrogate pairs, which no page can contain.
    """
    if value is None:
        return ""
    if isinstance(value, str) and not isinstance(value, Markup):
        if value.isascii() and value.isprintable() and len(value) <= _LONGEST:
            return value
        return printable(cut(value, _LONGEST))
    return value


_LONGEST = 4_000
"""Maximum number of characters of a text. The paths of a picture are shorter."""


def _as_json(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _name(value: str, most: int = _NAME) -> str:
    return cut(value, most)
