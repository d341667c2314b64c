"""Items made in advance, and what the time of parts is told as."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from tasks.ahead import ahead
from tasks.plan import fitting_rows
from tasks.stages import STAGES, Between, Stages


def test_all_come_in_order_and_the_next_is_made_meanwhile() -> None:
    made: list[int] = []
    second = threading.Event()

    def items() -> Iterator[int]:
        for number in range(100):
            made.append(number)
            if number == 1:
                second.set()
            yield number

    found = ahead(items())
    assert next(found) == 0
    assert second.wait(5)  # though nobody has asked for it
    time.sleep(0.05)
    assert made == [0, 1]  # and no more of them: each takes memory
    assert list(found) == list(range(1, 100))


def test_an_error_comes_after_the_items_before_it() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise ValueError("torn")

    found = ahead(items())
    assert next(found) == 1
    with pytest.raises(ValueError, match="torn"):
        next(found)


def test_whoever_leaves_early_leaves_no_thread_and_waits_for_none() -> None:
    stuck = threading.Event()

    def items() -> Iterator[int]:
        yield 1
        stuck.wait(30)
        yield 2

    found = ahead(items())
    assert next(found) == 1
    (thread,) = [thread for thread in threading.enumerate() if thread.name == "ahead"]
    began = time.monotonic()
    found.close()
    assert time.monotonic() - began < 5  # the store that it waits for does not answer
    stuck.set()
    thread.join(5)
    assert not thread.is_alive()


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


@pytest.mark.parametrize(
    ("rows", "rows_per_s", "processes", "expected"),
    [
        (10**8, None, 4, 131_072),  # nothing is known
        (10**8, 1_000.0, 4, 20_000),
        (10**8, 50.0, 4, 1_024),
        (10**8, 0.5, 4, 100),  # more would not end in time
        (10**8, 1e-9, 4, 1),
        (10**8, 5e5, 4, 262_144),
        (10**6, 5e5, 4, 78_125),  # else some processes would have nothing to do
        (8 * 10**6, 5e5, 4, 262_144),
        (10**4, 5e5, 4, 50_000),  # nor are there parts of nothing but overhead
        (10**8, 5e5, 0, 262_144),
    ],
)
def test_parts_aim_at_twenty_seconds(rows: int, rows_per_s: float | None, processes: int, expected: int) -> None:
    assert fitting_rows(rows, rows_per_s, processes) == expected
