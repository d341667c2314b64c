"""A process reads the queues of parts last, but it reads them."""

from __future__ import annotations

from scoreline.tasks.dispatch.queue_names import QueueNames
from scoreline.worker.channel import MOST_BEFORE_PARTS, PartsLast

NAMES = QueueNames.of("b")


def received(cycle: PartsLast, waiting: dict[str, int], count: int) -> list[str]:
    """Receive messages as kombu does: from the first queue that has any."""
    found = []
    for _ in range(count):
        queue = next(queue for queue in cycle.consume(len(NAMES.read)) if waiting.get(queue))
        waiting[queue] -= 1
        cycle.rotate(queue)
        found.append(queue)
    return found


def test_a_part_waits_until_the_other_queues_are_empty() -> None:
    cycle = PartsLast(list(NAMES.read))
    found = received(cycle, {NAMES.parts: 2, NAMES.steps: 2, NAMES.jobs: 1}, 5)
    assert sorted(found[:3]) == sorted([NAMES.steps, NAMES.steps, NAMES.jobs])
    assert found[3:] == [NAMES.parts, NAMES.parts]


def test_a_stream_of_steps_does_not_keep_parts_waiting_for_ever() -> None:
    cycle = PartsLast(list(NAMES.read))
    turn = [NAMES.steps] * MOST_BEFORE_PARTS + [NAMES.parts]
    assert received(cycle, {NAMES.parts: 9, NAMES.steps: 9 * len(turn)}, 3 * len(turn)) == 3 * turn


def test_no_part_is_first_because_steps_were_done_while_no_part_waited() -> None:
    cycle = PartsLast(list(NAMES.read))
    received(cycle, {NAMES.steps: 5 * MOST_BEFORE_PARTS}, 5 * MOST_BEFORE_PARTS)
    assert received(cycle, {NAMES.parts: 1, NAMES.steps: 1}, 2) == [NAMES.steps, NAMES.parts]
