"""Where the time of parts is said to go."""

from __future__ import annotations

import time

import pytest

from tasks.stages import STAGES, Between, Stages


def test_a_part_tells_queue_and_upload_of_the_one_before_of_the_same_job() -> None:
    between = Between()
    assert between.begin("a").seconds == dict.fromkeys(STAGES, 0.0)
    between.end("a", 1.5)
    assert between.begin("b").seconds["upload"] == 0
    between.end("a", 1.5)
    time.sleep(0.02)
    after = between.begin("a").seconds
    assert after["upload"] == 1.5
    assert after["queue"] >= 0.02
    assert between.begin("a").seconds["upload"] == 0  # that one was not written


@pytest.mark.parametrize(
    "text", ["", "[]", "7", "{", '{"predict": "x"}', '{"predict": -1}', '{"predict": NaN}', 4_000 * "["]
)
def test_what_is_no_time_counts_for_nothing(text: str) -> None:
    stages = Stages()
    stages.add(text)
    assert stages.seconds == dict.fromkeys(STAGES, 0.0)


def test_times_add_up() -> None:
    one, both = Stages(), Stages()
    with one("predict"):
        time.sleep(0.01)
    assert list(one.each("decode", iter("ab"))) == ["a", "b"]
    both.add(one.to_text())
    both.add(one.to_text())
    assert both.seconds["predict"] == pytest.approx(2 * one.seconds["predict"], abs=1e-5)


def test_work_is_what_no_other_stage_ran_beside() -> None:
    stages = Stages(dict(zip(STAGES, (100.0, 3.0, 1.0, 4.0, 0.5, 0.25), strict=True)))
    assert stages.work == 5.75
    stages.seconds["decode"] = 7.0
    assert stages.work == 7.75
