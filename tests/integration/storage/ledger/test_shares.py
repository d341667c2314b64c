"""Every ledger shares the processes among groups, whatever the order in which messages arrive."""

from __future__ import annotations

import heapq
from collections import Counter, deque
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import pytest
import redis

from scoreline.storage.errors import LedgerLost
from scoreline.storage.ledger.base import Ledger, PartLease, Started
from scoreline.storage.ledger.memory_ledger import MemoryLedger
from scoreline.storage.ledger.redis_ledger import RedisLedger
from scoreline.storage.ledger.shares import Terms
from scoreline.worker.dev.stack import Stack
from tests.support.ledgers import PATIENCE_S, Clock, lease

WINDOW = 8


@dataclass
class Processes:
    """Processes that work on the messages of a queue, by a simulated clock."""

    ledger: Ledger
    clock: Clock
    count: int = 2
    weights: Mapping[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    """Seconds that a part of each job takes."""
    queue: deque[tuple[str, int]] = field(default_factory=deque)
    used: Counter[str] = field(default_factory=Counter)
    """Seconds of processes that each job has used."""
    started: list[tuple[str, int]] = field(default_factory=list)
    ended_at: dict[str, float] = field(default_factory=dict)
    at_once: Counter[str] = field(default_factory=Counter)
    """Number of processes that work on each job."""
    most_at_once: Counter[str] = field(default_factory=Counter)
    _busy: list[tuple[float, int, PartLease, float]] = field(default_factory=list)
    _messages: int = 0

    def submit(self, job_id: str, parts: int, seconds: float, terms: Terms) -> None:
        """Open the ledger of a job, and put its first parts into the queue."""
        self.ledger.begin(job_id, "p", parts, budget=0, terms=terms)
        self.seconds[job_id] = seconds
        self.dispatch(job_id)

    def dispatch(self, job_id: str) -> None:
        """Do what the reconciler does for a job."""
        due = self.ledger.dispatch(job_id, "p", WINDOW, queue_is_long=len(self.queue) > WINDOW)
        self.queue.extend((job_id, part) for part in due.parts)

    def run(self, seconds: float) -> None:
        """Let all processes work for a while."""
        until = self.clock.now + seconds
        while True:
            while self.queue and len(self._busy) < self.count:
                self._take()
            if not self._busy or self._busy[0][0] > until:
                self.clock.now = until
                return
            self._end()

    def _take(self) -> None:
        job_id, part = self.queue.popleft()
        self._messages += 1
        due, started = self.ledger.start_due(lease(job_id, part, f"m{self._messages}", lease_s=1e6), self.weights)
        if started.to_do != "run":
            return
        self.started.append((due.job_id, due.part))
        self.at_once[due.job_id] += 1
        self.most_at_once[due.job_id] = max(self.most_at_once[due.job_id], self.at_once[due.job_id])
        end = self.clock.now + self.seconds[due.job_id]
        heapq.heappush(self._busy, (end, self._messages, due, self.clock.now))

    def _end(self) -> None:
        end, _, due, begun = heapq.heappop(self._busy)
        self.clock.now = end
        self.used[due.job_id] += int(1000 * (end - begun))
        self.at_once[due.job_id] -= 1
        done = self.ledger.complete(due.job_id, "p", due.part, rows=1, rejected=0)
        if done.next_part is not None:
            self.queue.append((due.job_id, done.next_part))
        if done.all_done:
            self.ended_at[due.job_id] = end

    def share(self, *job_ids: str) -> float:
        """Return the fraction of all used time that these jobs have used."""
        return sum(self.used[job_id] for job_id in job_ids) / self.used.total()


@pytest.fixture
def processes(ledger: Ledger, clock: Clock) -> Processes:
    return Processes(ledger, clock)


def of(group: str, **terms: object) -> Terms:
    return replace(Terms(group=group), **terms)  # type: ignore[arg-type]


@pytest.mark.parametrize("count", [1, 2, 5])
def test_two_groups_share_the_time_whatever_the_number_of_their_jobs(processes: Processes, count: int) -> None:
    processes.count = count
    # Given a group with one job and long parts, and a group with a hundred jobs and short parts
    processes.submit("one", 10_000, 5.0, of("bulk"))
    many = [f"many-{number}" for number in range(100)]
    for number, job_id in enumerate(many):
        processes.submit(job_id, 100, 2.0, of("many", submitted_s=float(number)))
    # Then each group gets half of the time
    processes.run(400)
    assert 0.45 <= processes.share("one") <= 0.55
    # And no process was idle
    assert processes.used.total() > 1000 * (400 - 5) * count


def test_a_group_gets_time_by_its_weight(processes: Processes) -> None:
    processes.weights = {"web": 3, "other": 7}
    processes.submit("bulk", 10_000, 4.0, of("bulk"))
    processes.submit("web", 10_000, 4.0, of("web"))
    processes.run(800)
    assert 0.72 <= processes.share("web") <= 0.78


def test_a_group_that_splits_its_work_into_jobs_of_one_part_gets_no_more_than_its_share(processes: Processes) -> None:
    processes.count = 1
    processes.submit("bulk", 10_000, 1.0, of("bulk"))
    # When another group submits its next job each time that the last one has ended
    for number in range(40):
        processes.submit(f"small-{number}", 1, 5.0, of("small", submitted_s=float(number)))
        while f"small-{number}" not in processes.ended_at:
            processes.run(0.5)
    # Then the bulk work goes on beside it
    assert 0.45 <= processes.share("bulk") <= 0.6


def test_a_group_that_was_idle_neither_catches_up_nor_waits(processes: Processes) -> None:
    processes.count = 1
    processes.submit("a", 10_000, 1.0, of("a"))
    processes.submit("b-1", 10, 1.0, of("b"))
    processes.submit("c", 10_000, 1.0, of("c"))
    processes.run(500)  # of which group b uses 10 s
    assert processes.used["b-1"] == 10_000
    processes.used.clear()
    processes.submit("b-2", 10_000, 1.0, of("b"))
    processes.run(150)
    assert 0.3 <= processes.share("b-2") <= 0.37


def test_a_group_does_not_pay_for_time_that_it_used_alone(processes: Processes) -> None:
    processes.count = 1
    processes.submit("a", 10_000, 1.0, of("a"))
    processes.run(1_000)
    processes.submit("b", 10_000, 1.0, of("b"))
    processes.used.clear()
    processes.run(100)
    assert 0.45 <= processes.share("a") <= 0.55


def test_a_short_job_behind_a_long_one_has_half_of_the_processes(processes: Processes, clock: Clock) -> None:
    processes.submit("long", 10_000, 5.0, of("long"))
    processes.run(101)
    begun = clock.now
    processes.submit("short", 10, 5.0, of("short"))
    processes.run(300)
    assert processes.ended_at["short"] - begun <= 1.2 * 10 * 5.0


def test_jobs_of_a_group_go_by_priority_and_then_by_age(processes: Processes) -> None:
    processes.count = 1
    processes.submit("young", 3, 1.0, of("g", submitted_s=3.0))
    processes.submit("low", 3, 1.0, of("g", submitted_s=1.0, priority="low"))
    processes.submit("old", 3, 1.0, of("g", submitted_s=2.0))
    processes.submit("high", 3, 1.0, of("g", submitted_s=4.0, priority="high"))
    processes.run(100)
    assert [job_id for job_id, part in processes.started if part == 0] == ["high", "old", "young", "low"]
    assert [job_id for job_id, _ in processes.started] == [*3 * ["high"], *3 * ["old"], *3 * ["young"], *3 * ["low"]]


def test_a_job_has_no_more_processes_than_it_may(processes: Processes) -> None:
    processes.count = 6
    processes.submit("few", 30, 1.0, of("few", max_parts=2))
    processes.submit("bulk", 10_000, 1.0, of("bulk"))
    processes.run(60)
    assert processes.most_at_once["few"] == 2
    assert processes.ended_at["few"]
    assert processes.used.total() >= 1000 * 59 * 6
    # And the reconciler does not look at it in vain
    processes.submit("two", 30, 1.0, of("two", max_parts=2))
    processes.ledger.watchlist.due(["two"], WINDOW)
    assert list(processes.ledger.watchlist.due(["two"], WINDOW)) == []


@pytest.mark.parametrize("lost", [0, 3])
def test_a_lost_message_is_sent_again_and_a_doubled_one_is_harmless(
    processes: Processes, clock: Clock, lost: int
) -> None:
    processes.submit("a", 40, 1.0, of("a"))
    processes.submit("b", 40, 1.0, of("b"))
    processes.queue.extend(list(processes.queue)[:5])
    for _ in range(5 + lost):
        processes.queue.popleft()
    processes.run(2 * PATIENCE_S)
    for job_id in ("a", "b"):
        processes.dispatch(job_id)
    processes.run(100)
    assert set(processes.ended_at) == {"a", "b"}
    assert max(Counter(processes.started).values()) == 1


def test_the_queue_does_not_grow_while_parts_wait_for_hours(processes: Processes) -> None:
    jobs = [f"j{number}" for number in range(10)]
    for number, job_id in enumerate(jobs):
        processes.submit(job_id, 10_000, 100.0, of("g", submitted_s=float(number)))
    first = len(processes.queue)
    for _ in range(2 * 60):
        processes.run(60)
        for job_id in jobs:
            processes.dispatch(job_id)
    assert len(processes.queue) <= first


def test_messages_that_were_lost_are_sent_again_once_the_queue_is_short(processes: Processes) -> None:
    jobs = [f"j{number}" for number in range(4)]
    for number, job_id in enumerate(jobs):
        processes.submit(job_id, 2 * WINDOW, 10.0, of("g", submitted_s=float(number)))
    for _ in range(WINDOW // 2):  # of the last job
        processes.queue.pop()
    for _ in range(2 * 2 * WINDOW * len(jobs) * 10 // 60 + 2 * int(PATIENCE_S) // 60):
        processes.run(60)
        for job_id in jobs:
            processes.dispatch(job_id)
    assert set(processes.ended_at) == set(jobs)
    assert max(Counter(processes.started).values()) == 1


def test_a_ledger_that_was_lost_shares_again_once_it_is_rebuilt(processes: Processes, ledger: Ledger) -> None:
    for job_id in ("a", "b"):
        processes.submit(job_id, 1_000, 1.0, of(job_id))
    processes.run(10)
    for job_id in ("a", "b"):
        ledger.forget(job_id)
    with pytest.raises(LedgerLost):
        ledger.start_due(lease("a", 3), {})
    processes = Processes(ledger, processes.clock)
    for job_id in ("a", "b"):
        processes.submit(job_id, 1_000, 1.0, of(job_id))
    processes.run(50)
    assert 0.45 <= processes.share("a") <= 0.55


def test_everything_that_redis_forgets_is_rebuilt(stack: Stack, clock: Clock, job: str) -> None:
    url = stack.environ["REDIS_URL"]
    ledger = RedisLedger(url, namespace=job, patience_s=PATIENCE_S, clock=clock)
    processes = Processes(ledger, clock)
    for name in ("a", "b"):
        processes.submit(name, 1_000, 1.0, of(name))
    processes.run(10)
    with redis.Redis.from_url(url) as connection:
        connection.delete(*connection.scan_iter(f"scoreline:{{{job}*"))
    again = Processes(ledger, clock)
    for name in ("a", "b"):
        again.submit(name, 1_000, 1.0, of(name))
    again.run(50)
    assert 0.45 <= again.share("a") <= 0.55


def test_redis_remembers_a_limited_number_of_groups_without_parts(stack: Stack, clock: Clock, job: str) -> None:
    ledger = RedisLedger(stack.environ["REDIS_URL"], namespace=job, patience_s=PATIENCE_S, clock=clock)
    key = ledger._groups_key()
    ledger._redis.zadd(key, {f"-g{number}": number for number in range(1_500)})
    # When a message finds that no part waits
    ledger.begin("a", "p", 9, budget=0, terms=of("g"))
    assert start(ledger, "a", 0, "m")[2].to_do == "unknown"
    # Then those that have used least are forgotten
    assert ledger._redis.zcard(key) == 1_000
    assert ledger._redis.zrange(key, 0, 0) == ["-g500"]
    # And a group behind many of them is found
    ledger._redis.zadd(key, {"+g": 750})
    ledger._redis.zadd(ledger._groups_key().replace("groups", "ready:g"), {"a": 0})
    ledger._redis.hset(ledger._keys("a")[0], mapping={"f3": f"{clock.now + 9} 0 1 -"})
    assert start(ledger, "a", 0, "m")[:2] == ("a", 3)
    assert ledger._redis.zrank(key, "+g") is not None
    assert ledger._redis.zcard(key) == 1 + 750


def start(ledger: Ledger, job_id: str, part: int, holder: str, *, is_retry: bool = False) -> tuple[str, int, Started]:
    due, started = ledger.start_due(lease(job_id, part, holder), {}, is_retry=is_retry)
    return due.job_id, due.part, started


@pytest.fixture
def swapped(ledger: Ledger) -> Ledger:
    """A ledger in which the message m1 of the job b was used for a part of the job a."""
    for job_id, submitted_s in (("a", 1.0), ("b", 2.0)):
        ledger.begin(job_id, "p", 9, budget=0, terms=of("g", submitted_s=submitted_s))
        ledger.dispatch(job_id, "p", 2)
    assert start(ledger, "b", 0, "m1")[:2] == ("a", 0)
    return ledger


def test_a_message_that_is_delivered_again_takes_over_the_part_it_was_used_for(swapped: Ledger) -> None:
    job_id, part, started = start(swapped, "b", 0, "m1")
    assert (job_id, part, started.to_do, started.attempt) == ("a", 0, "run", 2)
    # Even if the part that it names was done meanwhile
    swapped.complete("b", "p", 0, rows=1, rejected=0)
    assert start(swapped, "b", 0, "m1")[:2] == ("a", 0)
    # But no longer once that part is done
    swapped.complete("a", "p", 0, rows=1, rejected=0)
    assert start(swapped, "b", 0, "m1")[:2] == ("a", 1)


def test_a_message_that_was_used_for_a_second_part_takes_over_that_part(ledger: Ledger) -> None:
    ledger.begin("a", "p", 9, budget=0, terms=of("g"))
    ledger.dispatch("a", "p", 2)
    assert start(ledger, "a", 0, "m1")[:2] == ("a", 0)
    assert ledger.complete("a", "p", 0, rows=1, rejected=0).next_part == 2
    assert start(ledger, "a", 0, "m1")[:2] == ("a", 1)
    # When its process dies, and it is delivered again
    job_id, part, started = start(ledger, "a", 0, "m1")
    assert (job_id, part, started.to_do, started.attempt) == ("a", 1, "run", 2)


def test_the_message_of_a_chosen_part_takes_the_place_of_another(swapped: Ledger) -> None:
    assert start(swapped, "a", 0, "m2")[:2] == ("a", 1)
    assert start(swapped, "a", 1, "m3")[:2] == ("b", 0)
    assert start(swapped, "b", 1, "m4")[:2] == ("b", 1)
    job_id, part, started = start(swapped, "b", 1, "m5")
    assert (job_id, part, started.to_do) == ("b", 1, "busy")


def test_a_part_that_waits_for_its_retry_is_not_given_to_others(swapped: Ledger) -> None:
    swapped.release(lease("a", 0, "m1"), retried=True)
    assert start(swapped, "b", 1, "m2")[:2] == ("a", 1)
    assert start(swapped, "a", 1, "m3")[:2] == ("b", 0)
    job_id, part, started = start(swapped, "a", 0, "m1", is_retry=True)
    assert (job_id, part, started.to_do, started.attempt) == ("a", 0, "run", 1)


def test_a_retry_is_for_the_part_that_it_names_even_if_another_is_due(swapped: Ledger) -> None:
    assert start(swapped, "b", 1, "m2", is_retry=True)[:2] == ("b", 1)


def test_a_part_whose_retry_was_lost_is_given_to_others_once_it_is_sent_again(swapped: Ledger, clock: Clock) -> None:
    swapped.release(lease("a", 0, "m1"), retried=True)
    clock.advance(PATIENCE_S)
    assert 0 in swapped.dispatch("a", "p", 2).parts
    assert start(swapped, "b", 1, "m2")[:2] == ("a", 0)


def test_a_part_that_was_released_is_due_again_at_once(swapped: Ledger) -> None:
    swapped.release(lease("a", 0, "m1"))
    job_id, part, started = start(swapped, "b", 0, "m1")
    assert (job_id, part, started.attempt) == ("a", 0, 1)


@pytest.fixture
def one_part(ledger: Ledger) -> Ledger:
    """A ledger whose job of high priority has its only part in flight under way, and is no longer listed."""
    ledger.begin("a", "p", 9, budget=0, terms=of("g", priority="high", max_parts=1))
    ledger.begin("b", "p", 9, budget=0, terms=of("g"))
    ledger.dispatch("a", "p", 4)
    ledger.dispatch("b", "p", 4)
    assert start(ledger, "b", 0, "m1")[:2] == ("a", 0)
    assert start(ledger, "b", 1, "m2")[:2] == ("b", 1)
    return ledger


def test_the_only_part_of_a_job_is_due_again_once_it_is_released(one_part: Ledger) -> None:
    one_part.release(lease("a", 0, "m1"))
    assert start(one_part, "b", 2, "m3")[:2] == ("a", 0)


def test_the_next_part_of_a_job_is_due_once_the_last_one_is_done(one_part: Ledger) -> None:
    assert one_part.complete("a", "p", 0, rows=1, rejected=0).next_part == 1
    assert start(one_part, "b", 2, "m3")[:2] == ("a", 1)


def test_a_part_whose_process_died_is_given_to_others_once_its_lease_has_ended(swapped: Ledger, clock: Clock) -> None:
    clock.advance(PATIENCE_S)
    assert set(swapped.dispatch("a", "p", 2).parts) == {0, 1}
    job_id, part, started = start(swapped, "b", 1, "m2")
    assert (job_id, part, started.attempt, started.result_may_exist) == ("a", 0, 2, True)


@pytest.mark.parametrize("end", ["close", "forget"])
def test_a_job_that_has_ended_leaves_its_messages_to_others(ledger: Ledger, end: str) -> None:
    for job_id in ("a", "b"):
        ledger.begin(job_id, "p", 9, budget=0, terms=of(job_id))
        ledger.dispatch(job_id, "p", 2)
    getattr(ledger, end)("a")
    if end == "close":
        assert start(ledger, "a", 0, "m1")[:2] == ("b", 0)
    assert start(ledger, "b", 1, "m2")[0] == "b"


def test_the_time_of_interrupted_parts_is_not_charged(ledger: Ledger) -> None:
    for job_id in ("a", "b"):
        ledger.begin(job_id, "p", 9, budget=0, terms=of(job_id))
        ledger.dispatch(job_id, "p", 2)
    for number in range(5):
        due, _ = ledger.start_due(lease("b", 0, f"m{number}"), {})
        assert due.job_id == "a"
        ledger.release(due)


def fields_of(ledger: Ledger, job_id: str) -> set[str]:
    """Return the names of what the ledger keeps of the messages of a job."""
    if isinstance(ledger, RedisLedger):
        names = ledger._redis.hkeys(ledger._keys(job_id)[0])
        return {str(name) for name in names if str(name)[:1] == "m" and str(name)[1:].isdigit()}
    assert isinstance(ledger, MemoryLedger)
    job = ledger._jobs.get(job_id)
    return set() if job is None else {f"m{part}" for part in job.messages}


@pytest.mark.parametrize("end", ["completed", "closed", "released", "stopped", "retried", "lost"])
def test_nothing_is_kept_of_a_message_once_its_part_has_ended(swapped: Ledger, clock: Clock, end: str) -> None:
    assert fields_of(swapped, "b") == {"m0"}
    if end in ("closed", "stopped"):
        swapped.close("a")
    if end in ("completed", "closed"):
        swapped.complete("a", "p", 0, rows=1, rejected=0)
    elif end == "lost":
        clock.advance(PATIENCE_S)
        swapped.dispatch("a", "p", 2)
    else:
        swapped.release(lease("a", 0, "m1"), retried=end == "retried")
    assert fields_of(swapped, "b") == set()


@pytest.mark.parametrize("end", ["complete", "release"])
def test_a_group_pays_for_parts_of_a_job_that_has_ended(ledger: Ledger, clock: Clock, end: str) -> None:
    # Given a part of one group that has taken much longer than was expected
    for job_id in ("a", "b"):
        ledger.begin(job_id, "p", 99, budget=0, terms=of(job_id))
        ledger.dispatch(job_id, "p", 50)
    due, _ = ledger.start_due(lease("a", 0, "m"), {})
    assert due.job_id == "a"
    clock.advance(200)
    # When its job has ended before the part
    ledger.close("a")
    if end == "complete":
        ledger.complete("a", "p", 0, rows=1, rejected=0)
    else:
        ledger.release(due)
    # Then the other group goes first until it has used as much
    ledger.begin("c", "p", 99, budget=0, terms=of("a"))
    ledger.dispatch("c", "p", 50)
    first = [start(ledger, "b", 0, f"m{number}")[0] for number in range(9)]
    assert first == 9 * ["b"]


@pytest.mark.parametrize("seconds", [86_400, -86_400])
def test_a_clock_that_is_set_while_parts_are_under_way_keeps_no_group_waiting_for_long(
    processes: Processes, clock: Clock, seconds: int
) -> None:
    for job_id in ("a", "b"):
        processes.submit(job_id, 10_000, 10.0, of(job_id))
    due, _ = processes.ledger.start_due(lease("a", 0, "slept", lease_s=1e6), {})
    clock.advance(seconds)  # as if the computer had slept for a day
    processes.ledger.complete(due.job_id, "p", due.part, rows=1, rejected=0)
    processes.run(3_000)
    assert 0.35 <= processes.share("a") <= 0.65


def test_the_message_of_a_job_without_a_ledger_takes_the_place_of_another(swapped: Ledger) -> None:
    swapped.forget("b")
    taken = swapped.start_any("m2", 60.0, {})
    assert taken is not None
    assert (taken[0].job_id, taken[0].part, taken[1].to_do) == ("a", 1, "run")
    assert taken[0].plan_sha256 == "p"
    assert swapped.complete("a", "p", 1, rows=1, rejected=0).next_part == 2
    assert swapped.renew(swapped.start_any("m3", 60.0, {})[0])  # type: ignore[index]
    assert swapped.start_any("m4", 60.0, {}) is None
    assert fields_of(swapped, "") == set()


def test_a_deadline_stops_a_job(ledger: Ledger, clock: Clock, job: str) -> None:
    ledger.begin(job, "p", 3, budget=0, terms=of("g", deadline_s=clock.now + 10))
    ledger.dispatch(job, "p", 2)
    assert start(ledger, job, 0, "m1")[2].to_do == "run"
    assert ledger.stopped(job) == ""
    ledger.watchlist.due([job], 2)
    assert list(ledger.watchlist.due([job], 2)) == []
    clock.advance(10)
    assert list(ledger.watchlist.due([job], 2)) == [job]
    assert ledger.stopped(job) == "deadline"
    assert start(ledger, job, 1, "m2")[2].to_do == "late"
    assert ledger.dispatch(job, "p", 2).stopped == "deadline"
    progress = ledger.progress(job)
    assert progress is not None
    assert (progress.stopped, progress.over) == ("deadline", True)


@pytest.mark.parametrize("found_by", ["dispatch", "start"])
def test_a_deadline_is_found_by_whichever_call_comes_first(
    ledger: Ledger, clock: Clock, job: str, found_by: str
) -> None:
    ledger.begin(job, "p", 3, budget=0, terms=of("g", deadline_s=clock.now + 10))
    ledger.dispatch(job, "p", 2)
    clock.advance(10)
    if found_by == "dispatch":
        assert ledger.dispatch(job, "p", 3).stopped == "deadline"
    else:
        assert ledger.start(lease(job, 0)).to_do == "late"


def test_a_deadline_that_passes_after_the_last_part_does_no_harm(ledger: Ledger, clock: Clock, job: str) -> None:
    ledger.begin(job, "p", 1, budget=0, terms=of("g", deadline_s=clock.now + 10))
    ledger.dispatch(job, "p", 2)
    assert ledger.complete(job, "p", 0, rows=1, rejected=0).all_done
    clock.advance(10)
    assert ledger.stopped(job) == ""
    assert ledger.dispatch(job, "p", 2).stopped == ""


def test_ten_processes_at_once_get_each_part_once(open_ledger: Callable[[], Ledger]) -> None:
    for job_id in ("a", "b"):
        open_ledger().begin(job_id, "p", 50, budget=0, terms=of(job_id))
        open_ledger().dispatch(job_id, "p", 50)
    messages = [(job_id, part) for part in range(50) for job_id in ("a", "a") if part]
    with ThreadPoolExecutor(10) as pool:
        taken = list(pool.map(lambda n: start(open_ledger(), *messages[n], f"m{n}"), range(len(messages))))
    got = Counter((job_id, part) for job_id, part, started in taken if started.to_do == "run")
    assert len(got) == len(messages)
    assert max(got.values()) == 1
