from __future__ import annotations

import pytest

from scoreline.storage.databases.settings import DatabaseSettings
from scoreline.worker.doctor.check import Finding
from scoreline.worker.doctor.context import Context
from scoreline.worker.doctor.database import database as check
from tests.support.postgres import Database


def examine(database: Database, **more: str) -> list[Finding]:
    environ = {"RESULTS_DATABASE_URL": database.url, "ALLOWED_TABLES": "scores", "WORKER_CONCURRENCY": "2"} | more
    return list(check(Context(environ)))


def test_a_sound_database_is_described(database: Database) -> None:
    (found,) = examine(database)
    assert found.severity == "ok"
    assert "RESULTS_DATABASE_URL: PostgreSQL 18" in found.message
    assert "of 100 connections" in found.message


def test_heroku_requires_tls(database: Database) -> None:
    address = DatabaseSettings.from_env({"DATABASE_URL": database.url, "DYNO": "worker.1"}).address(None)
    assert (str(address), address.uses_tls) == ("DATABASE_URL", True)
    (found,) = examine(database, DYNO="worker.1")
    assert found.severity == "error"
    assert "server does not support SSL, but SSL was required" in found.message


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("ALTER DATABASE {} SET default_transaction_read_only = on", "the server is read-only"),
        ("REVOKE TEMPORARY ON DATABASE {} FROM PUBLIC", "the role may not create temporary tables"),
        ("ALTER ROLE limited CONNECTION LIMIT 2", "connections are open, and a load may need 2 more"),
    ],
)
def test_each_fault_comes_with_a_remedy(database: Database, statement: str, said: str) -> None:
    database.run("CREATE ROLE limited LOGIN")
    try:
        database.run(statement.format(database.name))
        url = database.url.replace("postgres@", "limited@")
        found = examine(database, RESULTS_DATABASE_URL=url)
    finally:
        with database.connect() as connection:
            connection.execute("SET default_transaction_read_only = off")
            connection.execute("DROP ROLE limited")
    assert [finding.severity for finding in found] == ["warning"]
    assert said in found[0].message
    assert found[0].remedy


def test_without_allowed_tables_nothing_can_be_loaded(database: Database) -> None:
    found = examine(database, ALLOWED_TABLES="")
    assert [finding.severity for finding in found] == ["warning", "ok"]


def test_a_database_that_is_only_read_may_be_a_follower(database: Database) -> None:
    database.run("CREATE ROLE reader LOGIN")
    try:
        database.run("ALTER ROLE reader SET default_transaction_read_only = on")
        url = database.url.replace("postgres@", "reader@")
        found = examine(database, RESULTS_DATABASE_URL="", ALLOWED_TABLES="", SOURCE_DATABASE_URL=url)
    finally:
        database.run("DROP ROLE reader")
    assert [finding.severity for finding in found] == ["ok"]
    assert "SOURCE_DATABASE_URL: PostgreSQL 18" in found[0].message


def test_a_database_that_is_read_from_has_to_answer(database: Database) -> None:
    url = database.url.replace(f":{database.server.port}/", ":9/")
    found = examine(database, SOURCE_DATABASE_URL=url)
    assert [finding.severity for finding in found] == ["ok", "error"]
    assert found[1].message.startswith("the database SOURCE_DATABASE_URL: ")
