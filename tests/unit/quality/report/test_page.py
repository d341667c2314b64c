"""The page is one valid HTML file that needs nothing else, shows what comes from outside as text, and stays small."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from xml.etree.ElementTree import Element

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LinearRegression
from tinyhtml5.parser import HTMLParser

from scoreline.tasks.job.findings import Finding
from scoreline.tasks.quality.report.facts import Column, Numbers, RejectedRow, RejectReason, Rejects, Report, Segment
from scoreline.tasks.quality.report.html import MAX_CARDS, MAX_LISTED, render
from scoreline.tasks.quality.report.pictures import Bar, Bars
from scoreline.testing import EagerClient

MAX_BYTES = 1_000_000
SVG = "{http://www.w3.org/2000/svg}svg"
HOSTILE = "<script>alert(1)</script>\"'&\u202e{{ 7*7 }}\ud800\n]]>--><img src=x onerror=alert(1)>"


def parsed(page: str) -> Element:
    """Parse the page, which must be valid and complete."""
    parser = HTMLParser(namespace_html_elements=False)
    tree = parser.parse(page)
    assert parser.errors == []
    return tree


def text_of(tree: Element) -> str:
    return " ".join(" ".join(tree.itertext()).split())


@pytest.mark.parametrize("which", ["sound", "blocked"])
def test_the_page_is_valid_and_needs_nothing_else(which: str, request: pytest.FixtureRequest) -> None:
    page = render(request.getfixturevalue(which))
    tree = parsed(page)
    assert page.startswith("<!doctype html>")
    assert not tree.findall(".//script")
    for element in tree.iter():
        for name, value in element.attrib.items():
            assert not name.startswith("on")
            assert name not in ("src", "style", "srcset", "background"), (element.tag, name)
            assert name != "href" or value.startswith("#"), value
    assert not tree.findall(".//link")
    assert "url(" not in page
    assert "@import" not in page
    policy = next(item for item in tree.iter("meta") if item.get("http-equiv"))
    assert (policy.get("content") or "").startswith("default-src 'none'; style-src 'unsafe-inline'")


def test_the_page_says_what_was_found_before_it_shows_pictures(blocked: Report) -> None:
    page = render(blocked)
    text = text_of(parsed(page))
    for words in (
        "Blocked by its checks",
        "readers do not get them",
        "The model churn, version",
        "2,000 rows from s3://scoreline/in/churn-drifted.parquet",
        "Rejected rows",
        "the row breaks a rule of the checks",
        "Where the time went",
        "Lineage",
        "Segments by region",
    ):
        assert words in text, words
    assert page.index("Blocked by its checks") < page.index('id="findings"') < page.index("<article")


def test_each_feature_and_score_has_a_picture_and_the_picture_has_words(blocked: Report) -> None:
    tree = parsed(render(blocked))
    names = {"".join(item.itertext()) for item in tree.iter("h3")}
    assert names == {column.key for column in blocked.columns}
    pictures = [item for item in tree.iter(SVG) if item.get("role") == "img"]
    assert len(pictures) == 8
    assert all((item.get("aria-label") or "").startswith("Histogram. ") for item in pictures)
    (age,) = [
        item.get("aria-label") for item in pictures if "Baseline: half lie between 36" in str(item.get("aria-label"))
    ]
    assert "Values of this job: half lie between 6" in str(age)
    hidden = [item for item in tree.iter(SVG) if item.get("role") != "img"]
    assert hidden
    assert all(item.get("aria-hidden") == "true" for item in hidden), "a picture without words is in a table"


def test_tables_have_headers_and_links_lead_somewhere(blocked: Report) -> None:
    tree = parsed(render(blocked))
    for table in tree.iter("table"):
        assert any(cell.get("scope") in ("col", "row") for cell in table.iter("th"))
    known = {item.get("id") for item in tree.iter() if item.get("id")}
    links = {str(item.get("href"))[1:] for item in tree.iter("a")}
    assert links <= known
    assert len([item for item in tree.iter() if item.get("id")]) == len(known)
    assert tree.get("lang") == "en"


def test_whatever_comes_from_outside_is_shown_as_text(blocked: Report) -> None:
    numbers = Numbers(rows=1, mean=1.0, median=1.0, distinct=3)
    hostile = Column(
        key=HOSTILE, kind="feature", type="text", change="changed", now=numbers, before=numbers, findings=(0,)
    )
    drawn = replace(hostile, picture=Bars(bars=(Bar(value=HOSTILE, now=0.5, before=0.25),), others_count=0))
    row = RejectedRow(source=HOSTILE, row=1, message=HOSTILE, columns={HOSTILE: HOSTILE}, record=None)
    reason = RejectReason(
        stage=HOSTILE, column=HOSTILE, message=HOSTILE, rows=1, examples=(row, replace(row, record=HOSTILE))
    )
    assert blocked.compared is not None
    report = replace(
        blocked,
        findings=(Finding(check=HOSTILE, level="block", message=HOSTILE, column=HOSTILE),),
        columns=(drawn, replace(hostile, key=HOSTILE * 3, type="mixed")),
        compared=replace(blocked.compared, kind="job", name=HOSTILE, columns_only_there=(HOSTILE,)),
        notes=(HOSTILE,),
        submitter=HOSTILE,
        labels={HOSTILE: HOSTILE},
        input=(HOSTILE,),
        error=HOSTILE,
        state="failed",
        segment=HOSTILE,
        segments=(Segment(value=HOSTILE, rows=1, share=1.0),),
        rejects=Rejects(counted=1, complete=True, stages={HOSTILE: 1}, reasons=(reason,)),
    )
    page = render(report)
    page.encode()
    tree = parsed(page)
    assert not tree.findall(".//script")
    assert not tree.findall(".//img")
    assert "\u202e" not in page
    assert "{{ 7*7 }}" in page, "a text is not a template"
    assert text_of(tree).count("<script>alert(1)</script>") > 15


def test_long_texts_are_cut_with_an_ellipsis(sound: Report) -> None:
    page = render(replace(sound, notes=("x" * 100_000,), submitter="y" * 100_000))
    assert len(page) < 100_000
    assert "xxx…" in page


def wide(client: EagerClient, features: int, rows: int = 400) -> Report:
    chance = np.random.default_rng(1)
    names = [f"feature_with_a_name_of_usual_length_{number}" for number in range(features)]
    train = pd.DataFrame(chance.normal(size=(rows, features)), columns=names)
    client.models.publish("wide", LinearRegression().fit(train, chance.normal(size=rows)), baseline=train)
    uri = client.put("in/wide.parquet", pd.DataFrame(chance.normal(1, size=(rows, features)), columns=names))
    job = client.submit("wide", uri, output=f"s3://scoreline/wide{features}/")
    return client.report(job.job_id)


def test_the_page_of_200_features_has_all_pictures_and_at_most_a_megabyte(churn: EagerClient) -> None:
    page = render(wide(churn, 200))
    assert page.count("<article") == 201
    assert len(page.encode()) < MAX_BYTES


def test_the_page_stays_small_however_many_features_there_are(blocked: Report) -> None:
    column = next(column for column in blocked.columns if column.key == "age")
    many: list[Any] = [replace(column, key=f"c{number}", findings=()) for number in range(MAX_CARDS + MAX_LISTED + 7)]
    page = render(replace(blocked, columns=tuple(many), findings=()))
    assert page.count("<article") == MAX_CARDS
    assert "7 further columns are in _profile.json only." in page
    assert len(page.encode()) < 1.5 * MAX_BYTES
    parsed(page)


def test_no_column_of_a_sound_job_is_marked_as_changed(sound: Report, blocked: Report) -> None:
    assert 'class="card changed"' not in render(sound)
    assert render(blocked).count('class="card changed"') == 7
