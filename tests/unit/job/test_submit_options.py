"""Options of a job are checked and converted in the same way, whether they come from Python, commands or messages."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest

from scoreline.storage.errors import InvalidRequest
from scoreline.storage.tables.options import ReadOptions
from scoreline.tasks.job.spec import JobSpec
from scoreline.tasks.job.submit_options import RecordsOptions, SubmitOptions, described, spec_from


def spec(**options: Any) -> JobSpec:
    return spec_from("m", "s3://data/in/", options, job_id="made", output="s3://data/out/").check()


def test_every_option_is_a_field_of_the_spec_or_says_how_to_read() -> None:
    known = (
        {item.name for item in fields(JobSpec)} | {item.name for item in fields(ReadOptions)} | {"webhook", "labels"}
    )
    assert described(SubmitOptions).keys() <= known
    assert described(RecordsOptions).keys() < described(SubmitOptions).keys()


@pytest.mark.parametrize("name", ["output", "job_id", "features"])
@pytest.mark.parametrize("value", ["", None])
def test_an_option_that_is_left_blank_is_not_given(name: str, value: Any) -> None:
    assert spec(**{name: value}) == spec()


@pytest.mark.parametrize("value", [1, None])
def test_an_unknown_option_is_refused_whatever_its_value(value: Any) -> None:
    known = "unknown options max_reject; known are challenger, checks, columns, create, database, deadline"
    with pytest.raises(InvalidRequest, match=known):
        spec(max_reject=value)


def test_numbers_and_lists_become_what_the_spec_records() -> None:
    made = spec(max_rejected=7, keep=["id", "name"], features=["a", "b"], columns=["a"], delimiter=";", webhook="x")
    assert (made.max_rejected, made.keep, made.features) == ("7", "id,name", ("a", "b"))
    assert (made.read.columns, made.read.delimiter) == (("a",), ";")
    assert spec(keep=[]).keep == "none"


def test_words_stand_for_characters_that_are_hard_to_type() -> None:
    assert (spec(delimiter="tab").read.delimiter, spec(quote="none").read.quote) == ("\t", "")


@pytest.mark.parametrize(
    ("name", "value", "fault"),
    [
        ("group", "a b", "group 'a b' is not a valid name"),
        ("group", 3, "group 3 is not a text"),
        ("priority", "urgent", "priority 'urgent' is unknown: choose one of low, normal, high"),
        ("max_processes", 0, "max_processes 0 is not a whole number of at least 1"),
        ("max_processes", True, "max_processes True is not"),
        ("deadline", "soon", "deadline 'soon' is neither a duration such as"),
        ("deadline", 7200, "deadline 7200 is not a text"),
    ],
)
def test_options_of_sharing_are_checked(name: str, value: Any, fault: str) -> None:
    with pytest.raises(InvalidRequest, match=fault):
        spec(**{name: value})


@pytest.mark.parametrize("name", ["group", "priority", "deadline"])
def test_an_option_of_sharing_that_is_left_blank_is_not_given(name: str) -> None:
    assert spec(**{name: ""}) == spec()
