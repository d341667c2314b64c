"""Every ledger fulfils one contract for answers: each reader receives its own answers, each once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from scoreline.storage.ledger import memory_answers, redis_answers
from scoreline.storage.ledger.answers import ANSWERS_KEPT_S, Answer
from scoreline.storage.ledger.base import Ledger
from tests.support.ledgers import Clock
from tests.support.waiting import HANG_S

ONE, OTHER = Answer(job_id="a", text='{"x": "é \\n"} []'), Answer(job_id="b")


def test_each_reader_receives_its_own_answers_once(ledger: Ledger) -> None:
    for reader, answer in (("r", ONE), ("s", ONE), ("r", OTHER)):
        ledger.answers.give(reader, answer)
    assert list(ledger.answers.receive("r", 0)) == [ONE, OTHER]
    assert list(ledger.answers.receive("r", 0)) == []
    assert list(ledger.answers.receive("s", 0)) == [ONE]


def test_a_reader_waits_for_the_first_answer(ledger: Ledger) -> None:
    with ThreadPoolExecutor(1) as pool:
        received = pool.submit(ledger.answers.receive, "r", HANG_S)
        ledger.answers.give("r", ONE)
        assert list(received.result(HANG_S)) == [ONE]


def test_the_answers_of_a_reader_that_is_gone_are_bounded(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (memory_answers, redis_answers):
        monkeypatch.setattr(module, "MAX_ANSWERS", 2)
    for number in range(3):
        ledger.answers.give("r", Answer(job_id=str(number)))
    assert [answer.job_id for answer in ledger.answers.receive("r", 0)] == ["1", "2"]


def test_answers_in_memory_expire(clock: Clock) -> None:
    answers = memory_answers.MemoryAnswers(clock)
    answers.give("r", ONE)
    clock.advance(ANSWERS_KEPT_S)
    assert list(answers.receive("r", 0)) == []
