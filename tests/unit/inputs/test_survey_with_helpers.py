"""Processes of a worker survey many small objects together, and find exactly what one process finds."""

from __future__ import annotations

import errno
import fcntl
import io
import itertools
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import SimpleNamespace
from typing import Any, BinaryIO

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from scoreline.storage.errors import InputChanged, UnreadableInput
from scoreline.storage.objects import requests
from scoreline.storage.objects.buckets import Buckets
from scoreline.storage.scratch_files import open_files
from scoreline.storage.tables import survey_orders
from scoreline.storage.tables.base import Pinned, Survey
from scoreline.storage.tables.formats import Tables
from scoreline.storage.tables.options import ReadOptions
from scoreline.storage.tables.small_objects import Kept, KeptObjects
from scoreline.storage.tables.spool import Spool
from scoreline.storage.tables.survey_orders import Order, SurveyOrders, open_pipes
from scoreline.tasks.inputs import survey_with_helpers
from scoreline.tasks.inputs.listing import SurveyedObject, list_inputs, survey_inputs
from scoreline.tasks.inputs.survey_with_helpers import help_planner
from tests.support.waiting import HANG_S

SHARE = 4
OBJECTS = 6 * SHARE
OWN = 2
"""Number of shares whose objects the planner keeps in memory."""
LIMIT = 1 << 20
OVERHEAD = 2 << 10
"""Memory that an object takes in the planner besides its bytes."""


@dataclass
class Worker:
    """A planner, and one other process of its worker."""

    buckets: Buckets
    files: list[BinaryIO] = field(default_factory=lambda: open_files(4))
    order_files: list[BinaryIO] = field(default_factory=lambda: open_files(2))
    pipes: list[tuple[int, int]] = field(default_factory=lambda: open_pipes(2))
    helper: BaseProcess | None = None

    def __post_init__(self) -> None:
        self.spool = Spool(self.files, 0, limit_bytes=LIMIT)
        self.kept = KeptObjects(for_parts=True, spool=self.spool, orders=SurveyOrders(self.order_files, self.pipes, 0))

    def objects(self) -> list[Pinned]:
        return list_inputs(self.buckets, ("s3://data/in/",))

    def survey(self) -> list[SurveyedObject]:
        found = survey_inputs(Tables(), self.objects(), ReadOptions(), (), self.kept)
        self.kept.hand_on()
        return found

    def alone(self) -> list[SurveyedObject]:
        return survey_inputs(Tables(), self.objects(), ReadOptions())

    def spooled(self) -> list[bool]:
        sources = [(source, 1) for source in self.objects()]
        return [item is not None and item.read() is not None for item in self.spool.find(sources)]

    def start_helper(self, meanwhile: Callable[[Order], None] = lambda _: None) -> None:
        """Let the other process help with the next order. It calls a function when it has the order."""

        def work() -> None:
            orders = SurveyOrders(self.order_files, self.pipes, 1)
            spool = Spool(self.files, 3, limit_bytes=LIMIT)
            while (order := orders.wait()) is None:
                pass
            meanwhile(order)
            help_planner(order, self.buckets, spool, lambda: True)

        self.helper = multiprocessing.get_context("fork").Process(target=work, daemon=True)
        self.helper.start()


@pytest.fixture
def worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Worker]:
    """Objects in a folder, of which the first ones fit into the planner's memory."""
    monkeypatch.setattr(survey_with_helpers, "SHARE_OBJECTS", SHARE)
    found = Worker(Buckets.from_env({"ENVIRONMENT": "development", "R2_BUCKET": "data", "STORE_DIR": str(tmp_path)}))
    for number in range(OBJECTS):
        put(found, number, {"id": [number], f"x{number % 3}": [float(number)]})
    size = max(source.size for source in found.objects())
    monkeypatch.setattr("scoreline.storage.tables.small_objects._KEPT_BYTES", OWN * SHARE * (size + OVERHEAD))
    yield found
    found.kept.begin([])
    found.kept.clear()
    found.spool.clear()
    if found.helper is not None:
        found.helper.kill()
        found.helper.join()
    for file in (*found.files, *found.order_files):
        file.close()
    for ends in found.pipes:
        for end in ends:
            os.close(end)


def put(worker: Worker, number: int, columns: dict[str, Any]) -> None:
    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink)
    worker.buckets.main.put(f"in/{number:03}.parquet", sink.getvalue())


def watch_shares(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Let the planner claim no share but its own, and note the shares that it waits for."""
    waited: list[int] = []
    wait_for = survey_with_helpers._wait_for

    def noted(order: Order, number: int, *rest: Any) -> bytes | None:
        answer = wait_for(order, number, *rest)
        if answer is not None:
            waited.append(number)
        return answer

    monkeypatch.setattr(survey_with_helpers, "_wait_for", noted)
    return waited


def let_helper_begin(
    worker: Worker, monkeypatch: pytest.MonkeyPatch, meanwhile: Any = lambda _: None, *, stopped: bool = False
) -> None:
    """Let the planner wait with its own shares until the other process has claimed a share, or has died.

    Parameters
    ----------
    stopped : bool
        Whether the other process stops itself. The planner then waits until it has stopped.
    """
    ready, told = os.pipe()

    def claimed(order: Order) -> None:
        claim = Order.claim

        def telling(self: Order, share: int) -> bool:
            is_claimed = claim(self, share)
            if is_claimed:
                os.write(told, b"1")
                meanwhile(order)
            return is_claimed

        Order.claim = telling  # type: ignore[method-assign]  # in the other process

    worker.start_helper(claimed)
    begin = SurveyOrders.begin

    def begun(self: SurveyOrders, *arguments: Any) -> Order | None:
        order = begin(self, *arguments)
        if stopped:
            assert worker.helper is not None
            os.waitid(os.P_PID, worker.helper.pid or 0, os.WSTOPPED | os.WNOWAIT)
        os.read(ready, 1)
        os.close(ready)
        os.close(told)
        return order

    monkeypatch.setattr(SurveyOrders, "begin", begun)


def test_both_find_what_one_process_finds(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = worker.alone()
    waited = watch_shares(worker, monkeypatch)
    let_helper_begin(worker, monkeypatch)
    before = requests.so_far()
    assert worker.survey() == expected
    # One request for each object, whoever has sent it, and one to list them
    assert (requests.so_far() - before).class_b == OBJECTS
    assert set(waited) <= set(range(OWN, OBJECTS // SHARE))
    assert waited
    # And all of them are in the spool when the survey has ended
    assert worker.spooled() == [True] * OBJECTS


def test_without_an_idle_process_the_planner_does_everything(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    waited = watch_shares(worker, monkeypatch)
    assert worker.survey() == worker.alone()
    assert waited == []
    assert worker.spooled() == [True] * OBJECTS


def test_the_planner_does_the_share_of_a_process_that_dies(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = worker.alone()
    monkeypatch.setattr(survey_with_helpers, "_PATIENCE_S", HANG_S)
    let_helper_begin(worker, monkeypatch, lambda _: os.kill(os.getpid(), signal.SIGKILL))
    assert worker.survey() == expected
    assert worker.spooled() == [True] * OBJECTS


@pytest.mark.parametrize("broken", [(1,), (OBJECTS - 1,), (OWN * SHARE, OBJECTS - 1)])
def test_a_broken_object_is_named_whoever_finds_it(
    worker: Worker, monkeypatch: pytest.MonkeyPatch, broken: tuple[int, ...]
) -> None:
    for number in broken:
        worker.buckets.main.put(f"in/{number:03}.parquet", b"no table" * 20)
    let_helper_begin(worker, monkeypatch)
    with pytest.raises(UnreadableInput, match=f"in/{broken[0]:03}.parquet"):
        worker.survey()


def test_an_object_that_was_replaced_after_the_listing_is_named(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    objects = worker.objects()
    put(worker, OBJECTS - 1, {"id": [7]})
    let_helper_begin(worker, monkeypatch)
    with pytest.raises(InputChanged, match=f"in/{OBJECTS - 1:03}.parquet"):
        survey_inputs(Tables(), objects, ReadOptions(), (), worker.kept)


def test_empty_objects_and_objects_without_space_stay_in_order(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    worker.buckets.main.put(f"in/{OWN * SHARE + 1:03}.parquet", b"")
    expected = worker.alone()
    size = sum(source.size + 72 for source in worker.objects()[: OBJECTS - 2])
    worker.spool._limit_bytes = size + 64
    let_helper_begin(worker, monkeypatch)
    assert worker.survey() == expected
    assert worker.spooled()[-2:] == [False, False]


def test_answers_of_another_order_are_not_used(worker: Worker) -> None:
    orders = SurveyOrders(worker.order_files, worker.pipes, 0)
    first = orders.begin(b"{}", 3, 0)
    assert first is not None
    assert first.claim(1)
    first.answer(1, b"one")
    assert first.answered(1) == b"one"
    written = os.pread(worker.order_files[0].fileno(), 2 * survey_orders._ANSWER_BYTES, 0)
    second = orders.begin(b"{}", 3, 1)
    assert second is not None
    assert second.answered(1) is None
    # And a process that is late changes nothing in the new order, even if that begins while it writes
    first.answer(1, b"one")
    assert second.answered(1) is None
    place = written.index(b"one") - 56
    os.pwrite(worker.order_files[0].fileno(), written[place:], place)
    assert second.answered(1) is None
    assert [first.claim(2), second.claim(0), second.claim(1)] == [False, False, True]
    second.answer(1, b"2" * survey_orders._ANSWER_BYTES)  # too large
    assert second.answered(1) is None
    second.end()
    assert not second.claim(2)


def test_the_answer_to_a_share_of_objects_that_pandas_wrote_is_not_too_large(worker: Worker) -> None:
    """Pandas writes the number of rows into the schema, so that objects rarely have equal schemas."""
    frame = pd.DataFrame(0.0, index=range(1), columns=[f"feature {number}" for number in range(200)])
    schema = pa.Table.from_pandas(frame).schema
    about = schema.metadata[b"pandas"]
    assert b'"stop": 1,' in about
    found = [
        Survey(schema=schema.with_metadata({"pandas": about.replace(b'"stop": 1,', b'"stop": %d,' % rows)}), spans=())
        for rows in range(1, 65)
    ]
    order = SurveyOrders(worker.order_files, worker.pipes, 0).begin(b"{}", 3, 0)
    assert order is not None
    order.answer(2, survey_with_helpers._answer(found))
    answer = order.answered(2)
    assert answer is not None
    assert survey_with_helpers._joined(answer, 64) == found
    assert survey_with_helpers._joined(answer, 63) is None


def test_an_order_without_space_on_the_disk_leaves_nothing_there(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    orders, write = SurveyOrders(worker.order_files, worker.pipes, 0), os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda file, data, offset: write(file, data[: len(data) // 2], offset))
    assert orders.begin(b"objects", 3, 0) is None
    assert os.fstat(worker.order_files[0].fileno()).st_size == 0


def test_requests_of_a_thread_that_helps_are_not_counted_in_its_process() -> None:
    before = requests.so_far()

    def work() -> None:
        requests.leave_out_thread()
        requests.note("b")

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(HANG_S)
    assert requests.so_far() == before


@pytest.fixture
def order(worker: Worker) -> Order:
    """An order of all objects, of which the planner has claimed none."""
    shares = [[(source, Kept.IN_SPOOL) for source in share] for share in itertools.batched(worker.objects(), SHARE)]
    begun = SurveyOrders(worker.order_files, worker.pipes, 0).begin(
        survey_with_helpers._order(shares, ()), len(shares), 0
    )
    assert begun is not None
    return begun


def help_with(order: Order, worker: Worker, is_idle: Callable[[], bool]) -> None:
    """Help in a thread, whose requests are not counted."""
    arguments = order, worker.buckets, Spool(worker.files, 3, limit_bytes=LIMIT), is_idle
    with ThreadPoolExecutor(1) as pool:
        pool.submit(help_planner, *arguments).result(HANG_S)


def test_a_process_that_has_a_task_claims_no_share(worker: Worker, order: Order) -> None:
    help_with(order, worker, lambda: False)
    assert all(order.claim(share) for share in range(order.shares))


def test_a_process_stops_within_a_share_when_a_task_begins(
    worker: Worker, order: Order, monkeypatch: pytest.MonkeyPatch
) -> None:
    surveyed: list[Pinned] = []
    add = KeptObjects.add

    def noted(self: KeptObjects, held: Pinned, *rest: Any) -> None:
        surveyed.append(held)
        add(self, held, *rest)

    monkeypatch.setattr(KeptObjects, "add", noted)
    help_with(order, worker, lambda: len(surveyed) < SHARE + 1)
    assert len(surveyed) == SHARE + 1
    answers = [order.answered(share) for share in range(order.shares)]
    used = [answer is not None and survey_with_helpers._joined(answer, SHARE) is not None for answer in answers]
    assert used == [True] + [False] * (order.shares - 1)


def test_a_process_survives_an_order_that_it_cannot_read(worker: Worker) -> None:
    order = SurveyOrders(worker.order_files, worker.pipes, 0).begin(b"{}", 3, 0)
    assert order is not None
    help_with(order, worker, lambda: True)


def count_seconds(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Return a list with the number of seconds that the planner has waited. It does not really wait."""
    now = [0.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    monkeypatch.setattr(survey_with_helpers, "time", SimpleNamespace(monotonic=lambda: now[0], sleep=sleep))
    monkeypatch.setattr(survey_with_helpers, "_POLL_S", 1.0)
    return now


def test_the_planner_waits_for_nobody_if_files_cannot_be_locked(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    now = count_seconds(monkeypatch)
    expected = worker.alone()
    monkeypatch.setattr(fcntl, "lockf", fail)
    assert worker.survey() == expected
    assert now == [0.0]


def test_the_planner_waits_only_once_for_a_process_that_does_not_go_on(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = count_seconds(monkeypatch)
    expected = worker.alone()

    claim = Order.claim

    def stop(order: Order) -> None:
        if claim(order, OWN + 1) and claim(order, OWN + 2):
            os.kill(os.getpid(), signal.SIGSTOP)

    let_helper_begin(worker, monkeypatch, stop, stopped=True)
    assert worker.survey() == expected
    assert worker.spooled() == [True] * OBJECTS
    assert now[0] == survey_with_helpers._PATIENCE_S


def test_a_planner_that_names_each_object_asks_no_process_for_help(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    named: list[str] = []
    monkeypatch.setattr(SurveyOrders, "begin", lambda *_: pytest.fail("the planner asked for help"))
    survey_inputs(Tables(), worker.objects(), ReadOptions(), (), worker.kept, at_object=named.append)
    assert named == [source.uri for source in worker.objects()]
