from __future__ import annotations

import ssl

import kombu
import pytest
import redis
from celery import Celery

from scoreline.storage.errors import InvalidSettings, LedgerUnavailable, QueueUnavailable
from scoreline.storage.ledger.redis_ledger import RedisLedger
from scoreline.tasks.dispatch.connections import Connections
from scoreline.tasks.dispatch.queue import Queue
from scoreline.tasks.dispatch.settings import QueueSettings

PLAIN, TLS = "redis://127.0.0.1:6379/0", "rediss://127.0.0.1:6379/0"


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ("redis://127.0.0.1:6379", PLAIN),
        ("redis://127.0.0.1:6379/", PLAIN),
        ("redis://127.0.0.1:6379/0/", PLAIN),
        ("redis://127.0.0.1:6379/0?", PLAIN),
        ("redis://127.0.0.1:6379/1?db=0", PLAIN),
        ("redis://127.0.0.1:6379?db=7", "redis://127.0.0.1:6379/7"),
        (PLAIN + "?socket_timeout=5&health_check_interval=30&max_connections=10&protocol=3", PLAIN),
        (PLAIN + "?ssl_cert_reqs=none", PLAIN),
        (PLAIN + "?ssl_cert_reqs=CERT_NONE", PLAIN),
        (TLS + "?ssl_cert_reqs=none&socket_keepalive=true", TLS),
        ("redis://default:p%23w@127.0.0.1:6379", "redis://default:p%23w@127.0.0.1:6379/0"),
        ("redis://127.0.0.1:6379?username=me&password=p%23w", "redis://me:p%23w@127.0.0.1:6379/0"),
        ("redis://:pw@[::1]:6379/2", "redis://:pw@[::1]:6379/2"),
        ("valkeys://default:pw@127.0.0.1:6379", "rediss://default:pw@127.0.0.1:6379/0"),
    ],
)
@pytest.mark.parametrize("name", ["REDIS_URL", "REDIS_TLS_URL", "CELERY_BROKER_URL"])
def test_every_client_reads_an_address_with_the_options_of_another(given: str, read: str, name: str) -> None:
    settings = QueueSettings.from_env({"REDIS_URL": PLAIN, name: given})
    assert (settings.broker_url if name == "CELERY_BROKER_URL" else settings.redis_url) == read
    redis.Redis.from_url(settings.redis_url)
    connection = kombu.Connection(settings.broker_url, ssl=dict(settings.broker_tls) or False)
    assert connection.virtual_host.strip("/") == read.rpartition("/")[2]
    assert Celery(backend=settings.redis_url, redis_backend_use_ssl=dict(settings.redis_tls) or None).backend


def test_a_redis_that_is_given_as_the_broker_alone_is_that_of_the_ledger_too() -> None:
    given = "rediss://:pw@example.org:6390/3?ssl_cert_reqs=required"
    settings = QueueSettings.from_env({"CELERY_BROKER_URL": given})
    assert settings.redis_url == settings.broker_url == "rediss://:pw@example.org:6390/3"
    assert settings.redis_tls == settings.broker_tls == {"ssl_cert_reqs": ssl.CERT_REQUIRED, "ssl_check_hostname": True}
    assert not settings.assumed
    # And another broker than Redis leaves the address of Redis to be guessed
    settings = QueueSettings.from_env({"CELERY_BROKER_URL": "amqp://rabbit//"})
    assert (settings.redis_url, settings.broker_url, settings.assumed) == (PLAIN, "amqp://rabbit//", True)


def test_errors_say_that_the_address_is_a_guess() -> None:
    connections = Connections({"ENVIRONMENT": "development"})
    nothing_there = QueueSettings(redis_url="redis://127.0.0.1:9/0", broker_url="redis://127.0.0.1:9/0")
    assert nothing_there.note_of(nothing_there.redis_url) == ""
    note = connections.queue_settings.note_of(PLAIN)
    assert note == " (REDIS_URL is not set, so redis://127.0.0.1:6379/0 was tried)"
    ledger = RedisLedger("redis://127.0.0.1:9/0", namespace="scoreline", note=note)
    queue = Queue("redis://127.0.0.1:9/0", connections.queue_names, note=note)
    with pytest.raises(LedgerUnavailable, match=r"127.0.0.1:9 \(REDIS_URL is not set, so redis://127.0.0.1:6379/0"):
        ledger.ping()
    with pytest.raises(QueueUnavailable, match=r"127.0.0.1:9 \(REDIS_URL is not set, so redis://127.0.0.1:6379/0"):
        queue.ping()
    assert note in str(connections.queue._address)
    assert note in str(connections.ledger._translate_errors.args[0])


@pytest.mark.parametrize(
    ("options", "tls"),
    [
        ("", {"ssl_cert_reqs": ssl.CERT_NONE}),
        ("?ssl_cert_reqs=required", {"ssl_cert_reqs": ssl.CERT_REQUIRED, "ssl_check_hostname": True}),
        ("?ssl_cert_reqs=optional", {"ssl_cert_reqs": ssl.CERT_REQUIRED, "ssl_check_hostname": True}),
        (
            "?ssl_cert_reqs=required&ssl_ca_certs=/ca.pem&ssl_check_hostname=False",
            {"ssl_cert_reqs": ssl.CERT_REQUIRED, "ssl_check_hostname": False, "ssl_ca_certs": "/ca.pem"},
        ),
    ],
)
def test_the_options_of_tls_are_taken_from_the_address(options: str, tls: dict[str, object]) -> None:
    assert QueueSettings.from_env({"REDIS_URL": TLS + options}).redis_tls == tls


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("127.0.0.1:6379", "is not a redis:// or rediss:// URL"),
        ('"redis://127.0.0.1:6379/0"', "is not a redis:// or rediss:// URL"),
        ("redis://:hush#hush@127.0.0.1:6379/0", "cannot be read: if its password contains # / ? or ["),
        ("redis://127.0.0.1:6379/cache", "ends with 'cache', which is not the number of a database"),
        ("redis://127.0.0.1:6379?db=x", "ends with 'x', which is not the number of a database"),
        (PLAIN + "?soket_timeout=5", "has an unknown option 'soket_timeout', did you mean 'socket_timeout'?"),
        (PLAIN + "?tls=yes", "has an unknown option 'tls': remove it"),
        (PLAIN + "?ssl_cert_reqs=required", "redis:// does not use TLS: write rediss://"),
        (TLS + "?ssl_cert_reqs=maybe", "has ssl_cert_reqs='maybe', which must be none or required"),
    ],
)
@pytest.mark.parametrize("name", ["REDIS_URL", "REDIS_TLS_URL"])
def test_an_address_that_cannot_be_read_is_an_error_with_the_name_of_its_variable(
    given: str, message: str, name: str
) -> None:
    with pytest.raises(InvalidSettings) as refused:
        QueueSettings.from_env({name: given})
    assert name in str(refused.value)
    assert message in str(refused.value)
    assert "hush" not in str(refused.value)
