"""All Redis commands of a process share one connection."""

from __future__ import annotations

import gc
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import redis
from celery import Celery
from kombu import Connection
from kombu.asynchronous import Hub
from kombu.transport import redis as transport

from scoreline.storage.errors import LedgerUnavailable
from scoreline.storage.ledger import shared_connection
from scoreline.storage.ledger.redis_ledger import RedisLedger
from scoreline.storage.ledger.shared_connection import SharedConnection
from scoreline.tasks.dispatch.queue import send_message
from scoreline.worker.channel import use_channel
from scoreline.worker.dev.stack import Stack
from tests.support.waiting import HANG_S, wait_until

DATABASE = 11
"""No other test uses this database, so only connections of this test are counted."""


@pytest.fixture
def url(stack: Stack) -> str:
    return stack.environ["REDIS_URL"].removesuffix("0") + str(DATABASE)


@pytest.fixture
def observer(stack: Stack) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(stack.environ["REDIS_URL"]) as client:
        yield client


@pytest.fixture(autouse=True)
def _share_nothing_afterwards(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(shared_connection, "_shared", {})
    monkeypatch.setattr(transport.Transport, "Channel", transport.Channel)
    yield
    shared_connection.close_idle(0)


@pytest.fixture
def pool(url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[SharedConnection]:
    """Return the pool of the shared connection. Let threads wait for the connection as long as a test may take."""
    monkeypatch.setattr(shared_connection, "TURN_S", HANG_S)
    shared_connection.share(url, connect_timeout_s=5, timeout_s=10)
    found = shared_connection.find_by_url(url)
    assert found is not None
    yield found
    found.disconnect()


def open_connections(observer: redis.Redis) -> int:
    clients: Any = observer.client_list()
    return sum(item["db"] == str(DATABASE) for item in clients)


def connections_ever(observer: redis.Redis) -> int:
    stats: Any = observer.info("stats")
    return int(stats["total_connections_received"])


@contextmanager
def taken(pool: SharedConnection) -> Iterator[Any]:
    connection = pool.get_connection()
    try:
        yield connection
    finally:
        pool.release(connection)


def ask(connection: Any, *command: Any) -> Any:
    connection.send_command(*command)
    return connection.read_response()


def test_ledger_messages_and_answers_use_one_connection(
    pool: SharedConnection, url: str, observer: redis.Redis
) -> None:
    use_channel()
    app: Any = Celery(broker=url, backend=f"scoreline.worker.answers:AnswerBackend+{url}", set_as_current=False)
    ledger = RedisLedger(url, namespace="shared")
    before = connections_ever(observer)
    ledger.note_processes(3, 60)
    send_message(app, "scoreline.plan", {"job_id": "a"}, queue="q", address="here")
    app.backend.store_result("an-answer", {"state": "submitted"}, "SUCCESS")
    assert app.backend.get_result("an-answer") == {"state": "submitted"}
    ledger.counters.count_load("m", 1.0)
    assert ledger.processes() == 3
    assert open_connections(observer) == 1
    assert connections_ever(observer) - before == 1
    with redis.Redis.from_url(url) as there:
        assert there.llen("q") == 1
        there.flushdb()
    app.close()


def test_sending_a_message_makes_no_client_and_formats_no_arguments(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    formatted: list[str] = []

    class Noting(int):
        def __repr__(self) -> str:
            formatted.append("n")
            return "1"

    # Given a process that has sent a message, in a separate database, because kombu keeps the connection open
    url = stack.environ["REDIS_URL"].removesuffix("0") + str(DATABASE + 1)
    use_channel()
    app: Any = Celery(broker=url, set_as_current=False)
    send_message(app, "scoreline.plan", {"n": 1}, queue="q", address="here")
    made: list[redis.Redis] = []
    make = redis.Redis.__init__

    def counted(self: redis.Redis, *arguments: Any, **options: Any) -> None:
        made.append(self)
        make(self, *arguments, **options)

    # When more messages are sent, no further client is created, because creating a client takes longer than the command
    monkeypatch.setattr(redis.Redis, "__init__", counted)
    for _ in range(3):
        send_message(app, "scoreline.plan", {"n": Noting(1)}, queue="q", address="here")
    assert made == []
    assert formatted == []
    with redis.Redis.from_url(url) as there:
        assert there.llen("q") == 4
        there.flushdb()
    app.close()


def test_a_consumer_waits_on_connections_of_its_own(pool: SharedConnection, url: str, observer: redis.Redis) -> None:
    use_channel()
    got: list[Any] = []
    with Connection(url) as connection:
        queue = connection.SimpleQueue("waited-for")
        queue.put({"n": 1})
        message = queue.get(timeout=HANG_S)  # BRPOP
        got.append(message.payload)
        assert observer.client_list()
        with redis.Redis.from_url(url) as there:
            assert there.hlen("unacked") == 1
        message.ack()
        assert open_connections(observer) == 2
    assert got == [{"n": 1}]
    with redis.Redis.from_url(url) as there:
        assert there.hlen("unacked") == 0
        there.flushdb()


def test_the_event_loop_forgets_a_lost_connection_that_a_forked_process_still_has(
    pool: SharedConnection, url: str, observer: redis.Redis
) -> None:
    use_channel()
    with Connection(url) as connection:
        channel: Any = connection.channel()
        # Given an event loop that waits for a message
        loop, transport = Hub(), connection.transport
        transport.register_with_event_loop(connection.connection, loop)
        channel.basic_consume("waiting", no_ack=True, callback=print, consumer_tag="only")
        for tick in list(loop.on_tick):
            tick()
        waiting = channel.client.connection
        number = waiting._sock.fileno()
        assert number in loop.readers
        # And another process that has inherited the socket of this event loop
        copy = os.dup(number)
        try:
            # When the connection is closed, then the event loop gets no events of its socket or of the copy
            waiting.disconnect()
            assert [event for event in loop.poller.poll(0) if event[0] == number] == []
        finally:
            os.close(copy)
            loop.close()


def test_an_idle_connection_is_closed_and_opened_again_when_needed(
    pool: SharedConnection, url: str, observer: redis.Redis
) -> None:
    ledger = RedisLedger(url, namespace="shared")
    ledger.ping()
    shared_connection.close_idle(HANG_S)
    assert open_connections(observer) == 1
    with taken(pool):
        shared_connection.close_idle(0)
        assert open_connections(observer) == 1
    shared_connection.close_idle(0)
    wait_until(lambda: open_connections(observer) == 0, "a closed connection")
    ledger.ping()
    assert open_connections(observer) == 1


def test_a_thread_waits_for_its_turn(pool: SharedConnection, observer: redis.Redis) -> None:
    used: list[int] = []

    def use() -> None:
        with taken(pool) as connection:
            used.append(ask(connection, "CLIENT", "ID"))

    with taken(pool) as connection:
        mine = ask(connection, "CLIENT", "ID")
        threads = [threading.Thread(target=use) for _ in range(5)]
        for thread in threads:
            thread.start()
        assert ask(connection, "PING") == "PONG"
        assert used == []
    for thread in threads:
        thread.join(HANG_S)
    assert used == [mine] * 5
    assert open_connections(observer) == 1


def test_a_thread_that_needs_two_connections_gets_them_and_one_stays(
    pool: SharedConnection, observer: redis.Redis
) -> None:
    with taken(pool), taken(pool):
        assert open_connections(observer) == 2
    wait_until(lambda: open_connections(observer) == 1, "an end of the second connection")


def test_a_connection_that_is_never_released_stops_no_other_thread(
    pool: SharedConnection, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_connection, "TURN_S", 0.01)
    taker = threading.Thread(target=pool.get_connection)
    taker.start()
    taker.join(HANG_S)
    RedisLedger(url, namespace="shared").ping()


def test_closing_the_connections_leaves_alone_the_one_that_another_thread_waits_on(
    pool: SharedConnection, observer: redis.Redis
) -> None:
    with taken(pool) as connection:
        first = ask(connection, "CLIENT", "ID")
        pool.disconnect()
        assert ask(connection, "CLIENT", "ID") == first
    with taken(pool) as connection:
        assert ask(connection, "CLIENT", "ID") != first


def test_connections_to_a_server_that_became_a_replica_are_closed(
    pool: SharedConnection, url: str, observer: redis.Redis
) -> None:
    gc.collect()  # the tracebacks of earlier tests may keep connections in reference cycles
    ledger = RedisLedger(url, namespace="shared")
    ledger.ping()
    observer.replicaof("127.0.0.1", 1)
    try:
        with pytest.raises(LedgerUnavailable, match="read only"):
            ledger.note_processes(1, 60)
        wait_until(lambda: open_connections(observer) == 0, "a closed connection", lambda: str(observer.client_list()))
    finally:
        observer.replicaof("NO", "ONE")
    ledger.note_processes(1, 60)


def test_a_refused_connection_does_not_take_the_turn(pool: SharedConnection, url: str, observer: redis.Redis) -> None:
    ledger = RedisLedger(url, namespace="shared")
    limits: Any = observer.config_get("maxclients")
    observer.config_set("maxclients", 1)  # the observer itself; other clients of the test process may just be leaving
    try:
        for _ in range(3):
            with pytest.raises(LedgerUnavailable, match="max number of clients"):
                ledger.ping()
    finally:
        observer.config_set("maxclients", limits["maxclients"])
    ledger.ping()


# the fork is safe despite threads, because the child only sends commands to Redis
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_process_opens_its_own_connection(pool: SharedConnection, observer: redis.Redis) -> None:
    reading, writing = os.pipe()
    with taken(pool) as connection:
        mine = ask(connection, "CLIENT", "ID")
        if not (child := os.fork()):
            try:
                with taken(pool) as own:
                    os.write(writing, str(ask(own, "CLIENT", "ID")).encode())
            finally:
                os._exit(0)
        os.waitpid(child, 0)
        assert ask(connection, "CLIENT", "ID") == mine
    os.close(writing)
    with os.fdopen(reading) as answer:
        assert int(answer.read()) != mine


def test_another_server_database_user_or_certificate_is_not_shared(url: str) -> None:
    def find(url: str, **tls: Any) -> SharedConnection | None:
        return shared_connection.find_by_url(url, tls)

    shared_connection.share("rediss://u:p%40@h:1/2", {"ssl_cert_reqs": "none"}, connect_timeout_s=1, timeout_s=1)
    assert find("rediss://u:p%40@h:1/2", ssl_cert_reqs="none") is not None
    assert find("rediss://u:p%40@h:1/2", ssl_cert_reqs="required") is None
    assert find("redis://u:p%40@h:1/2") is None
    for other in ("u:p%40@i:1/2", "u:p%40@h:2/2", "u:p%40@h:1/3", "v:p%40@h:1/2", "u:q@h:1/2"):
        assert find(f"rediss://{other}", ssl_cert_reqs="none") is None
