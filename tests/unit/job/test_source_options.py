"""The options of jobs that read rows from a database."""

from __future__ import annotations

from typing import Any

import pytest

from scoreline.storage.errors import InvalidRequest
from scoreline.storage.models.manifest import PinnedModel
from scoreline.tasks.databases.source.queries import parse as parse_queries
from scoreline.tasks.databases.source.statement import parse
from scoreline.tasks.job.documents import Job
from scoreline.tasks.job.submit_options import spec_from


def job_of(spec: Any) -> Job:
    text = {"name": "m", "version": "20261101T120000Z-0a1b2", "manifest_sha256": "0" * 64}
    return Job(spec=spec, model=PinnedModel(**text), submitted="2026-11-29T00:00:00+00:00")


def spec(**options: Any) -> Any:
    return spec_from("m", (), options, job_id="a", output="s3://main/results/m/").check()


def test_a_job_of_a_query_survives_its_document() -> None:
    found = spec(query="q", params={"day": "2026-11-29"}, output="s3://elsewhere/out/")
    assert found.inputs == ("s3://main/jobs/a/staged/",)
    assert Job.from_json(job_of(found).to_json()).spec == found
    found = spec(table="public.t", where_recent=["at", "1d"])
    assert Job.from_json(job_of(found).to_json()).spec == found


def test_a_document_of_a_job_without_a_source_has_no_new_field() -> None:
    found = spec_from("m", "s3://main/in/", {}, job_id="a", output="s3://main/out/").check()
    text = job_of(found).to_json().decode()
    assert not [name for name in ("query", "params", "table", "where_recent") if f'"{name}"' in text]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"query": "q", "table": "a.b"}, "query and table are both given"),
        ({"query": "../q"}, "query '../q' is not a valid name"),
        ({"table": "a.b", "params": {"a": "b"}}, "params without query"),
        ({"query": "q", "params": {"1": "b"}}, "'1' is not the name of a parameter"),
        ({"query": "q", "params": {"a": 1}}, "the value of 'a' is not a text"),
        ({"query": "q", "params": {"a": "\0"}}, "the value of 'a' is not a text"),
        ({"query": "q", "params": {str(n): "" for n in range(51)}}, "params are not up to 50 names"),
        ({"table": "t"}, "table 't' is not of the form schema.name"),
        ({"table": 'a."b'}, "is not of the form schema.name"),
        ({"query": "q", "where_recent": ["a", "1d"]}, "where_recent without table"),
        ({"table": "a.b", "where_recent": ["a"]}, "is not a column and a duration"),
        ({"table": "a.b", "where_recent": ["a", "soon"]}, "where_recent: 'soon' is not a duration"),
        ({"query": "q", "format": "csv"}, "format is for objects"),
    ],
)
def test_what_does_not_fit_is_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        spec(**options)
    assert said in str(refused.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x = 1", "'x' is outside of a [query]"),
        ("[a", "is not TOML"),
        ("[a]\nsql = ''", '[a] has no text sql = "SELECT …"'),
        ("[a]\nsql = 'SELECT 1'\ntimeout = 1", "[a] has the unknown key 'timeout'; known are database, split_by, sql"),
        ("[a]\nsql = 'SELECT 1'\ndatabase = 1", "database of [a] is not the name of a database"),
    ],
)
def test_a_fault_of_the_file_of_queries_is_named(text: str, said: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        parse_queries(text, "queries.toml")
    assert said in str(refused.value)


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("SELECT a::int, b[1:2], c[:n] FROM t", ("n",)),
        ("SELECT ':a', E'\\':a', \":a\", $$:a$$, $x$ :a $x$ -- :a\n, /* :a */ :b ;", ("b",)),
        ("SELECT 'it''s :a' WHERE x=:_b1", ("_b1",)),
        ("f(a := 1)", ()),
    ],
)
def test_parameters_are_not_in_texts_names_comments_or_casts(query: str, names: tuple[str, ...]) -> None:
    assert parse(query).names == names
