"""Where the time of parts is said to go."""

from __future__ import annotations

import threading
import time

import pytest

from scoreline.tasks.scoring.timings import TIMINGS, PartHistory, Timings


def test_a_part_tells_queue_and_upload_of_the_one_before_of_the_same_job() -> None:
    between = PartHistory()
    assert between.begin("a").seconds == dict.fromkeys(TIMINGS, 0.0)
    between.end("a", 1.5)
    assert between.begin("b").seconds["upload"] == 0
    between.end("b", 2.5)  # jobs take turns
    time.sleep(0.02)
    after = between.begin("a").seconds
    assert after["upload"] == 1.5
    assert after["queue"] >= 0.02
    assert between.begin("a").seconds["upload"] == 0  # that one was not written
    assert between.begin("b").seconds["upload"] == 2.5


@pytest.mark.parametrize(
    "text", ["", "[]", "7", "{", '{"predict": "x"}', '{"predict": -1}', '{"predict": NaN}', 4_000 * "["]
)
def test_what_is_no_time_counts_for_nothing(text: str) -> None:
    timings = Timings()
    timings.add(text)
    assert timings.seconds == dict.fromkeys(TIMINGS, 0.0)


def test_times_add_up() -> None:
    one, both = Timings(), Timings()
    with one("predict"):
        time.sleep(0.01)
    assert list(one.each("decode", iter("ab"))) == ["a", "b"]
    both.add(one.to_text())
    both.add(one.to_text())
    assert both.seconds["predict"] == pytest.approx(2 * one.seconds["predict"], abs=1e-5)


def test_work_is_the_time_that_a_part_took_whatever_ran_beside_what() -> None:
    part, job = Timings(), Timings()
    with part("upload"):  # of the part before
        time.sleep(0.02)
    time.sleep(0.05)  # the model is loaded
    part.begin()
    thread = threading.Thread(target=lambda: list(part.each("decode", map(time.sleep, (0.03, 0.03)))))
    thread.start()
    with part("predict"):
        time.sleep(0.06)
    thread.join()
    with part("upload"):  # of rejected rows
        time.sleep(0.02)
    before = sum(part.seconds[stage] for stage in ("predict", "upload"))
    job.add(part.to_text())
    assert before <= job.work + 1e-5 < before + part.seconds["decode"]
