from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from scoreline.tasks.dispatch.memory_queue import MemoryQueue, Message


def test_messages_are_delivered_in_their_order_and_what_they_send_comes_after() -> None:
    delivered: list[str] = []

    def deliver(message: Message) -> None:
        if message.name == "plan":
            queue.send("part", number=1)
            queue.send("part", number=2)
        delivered.append(f"{message.name} {message.kwargs.get('number', '')}".strip())

    queue = MemoryQueue(deliver, at_once=False)
    queue.send("plan")
    queue.send("finalize")
    assert queue.backlog().waiting == {"scoreline": 2}
    assert queue.run(at_most=1) == 1
    assert queue.backlog().waiting == {"scoreline": 3}
    assert queue.run() == 3
    assert delivered == ["plan", "finalize", "part 1", "part 2"]


def test_a_message_whose_delivery_fails_comes_first_again_under_its_id() -> None:
    seen: list[Message] = []

    def deliver(message: Message) -> None:
        seen.append(message)
        if len(seen) == 1:
            raise ConnectionError

    queue = MemoryQueue(deliver, at_once=False)
    queue.send("plan", job_id="a")
    queue.send("plan", job_id="b")
    with pytest.raises(ConnectionError):
        queue.run()
    assert queue.run() == 2
    assert [message.kwargs["job_id"] for message in seen] == ["a", "a", "b"]
    assert seen[0].id == seen[1].id != seen[2].id


def test_one_message_at_a_time_is_delivered_however_many_threads_send() -> None:
    under_way = threading.Semaphore(1)
    delivered: list[int] = []

    def deliver(message: Message) -> None:
        assert under_way.acquire(blocking=False)
        delivered.append(message.kwargs["number"])
        under_way.release()

    queue = MemoryQueue(deliver, at_once=True)

    def send(number: int) -> bool:
        queue.send("part", number=number)
        return number in delivered

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(send, range(100)))
    assert sorted(delivered) == list(range(100))


def test_a_pause_delivers_one_message_and_says_whether_there_was_one() -> None:
    queue = MemoryQueue(lambda message: None, at_once=False)
    queue.send("plan")
    assert queue.pause(9.0)
    assert not queue.pause(9.0)
