"""Which databases and tables workers may use, and that no error has the address of a database."""

from __future__ import annotations

from pathlib import Path

import pytest

from scoreline.storage.databases.connection import connected, without_address
from scoreline.storage.databases.settings import DatabaseSettings
from scoreline.storage.errors import DatabaseError, DatabaseUnavailable, InvalidSettings, TableNotAllowed
from scoreline.worker.dev.stack import free_port

URL = "postgresql://app:hush-hush@db.example.org/shop"


def test_the_database_of_heroku_is_found_only_if_it_is_postgresql() -> None:
    assert str(DatabaseSettings.from_env({"DATABASE_URL": URL}).results) == "DATABASE_URL"
    assert DatabaseSettings.from_env({"DATABASE_URL": "mysql://app@db.example.org/shop"}).results is None
    both = DatabaseSettings.from_env({"DATABASE_URL": URL, "RESULTS_DATABASE_URL": f"{URL}2"})
    assert str(both.address(None)) == "RESULTS_DATABASE_URL"
    with pytest.raises(InvalidSettings, match="RESULTS_DATABASE_URL is not set for the workers"):
        DatabaseSettings.from_env({}).address(None)


def test_databases_have_names_in_a_file_whose_faults_quote_no_address(tmp_path: Path) -> None:
    file = tmp_path / "databases.toml"
    file.write_text(f'warehouse = "{URL}"\n')
    found = DatabaseSettings.from_env({"DATABASES_FILE": str(file)})
    assert found.address("warehouse").url == URL
    assert "hush" not in repr(found)
    with pytest.raises(InvalidSettings, match="has no database 'shop'; it has warehouse"):
        found.address("shop")
    for text in ('warehouse = "mysql://app:hush-hush@h/d"', f"warehouse = {URL}"):
        file.write_text(text)
        with pytest.raises(InvalidSettings) as caught:
            DatabaseSettings.from_env({"DATABASES_FILE": str(file)})
        assert "hush" not in str(caught.value)


@pytest.mark.parametrize(
    ("allowed", "table", "is_allowed"),
    [
        ("scores", "public.scores", True),
        ("scores", "other.scores", False),
        ("public.scores_*", "public.scores_daily", True),
        ("public.scores_*", "public.users", False),
        ("reports.*", "reports.Mixed Case", True),
        ("", "public.scores", False),
    ],
)
def test_only_allowed_tables_may_be_named(allowed: str, table: str, is_allowed: bool) -> None:
    settings = DatabaseSettings.from_env({"ALLOWED_TABLES": allowed})
    if is_allowed:
        settings.check_table(table)
    else:
        with pytest.raises(TableNotAllowed, match="is not in ALLOWED_TABLES of the workers"):
            settings.check_table(table)


def test_no_error_has_the_address() -> None:
    url = f"postgresql://app:hush-hush@127.0.0.1:{free_port()}/shop"
    address = DatabaseSettings.from_env({"RESULTS_DATABASE_URL": url}).address(None)
    with pytest.raises(DatabaseUnavailable) as caught, connected(address):
        pass
    said = str(caught.value)
    assert said.startswith("the database RESULTS_DATABASE_URL: the connection failed")
    assert not any(part in said for part in ("127.0.0.1", "hush", "shop", "app"))
    assert without_address(f"cannot use {URL}", URL) == "cannot use …"
    assert without_address("no host db.example.org, nor hush-hush", URL) == "no host …, nor …"


@pytest.mark.parametrize(
    ("url", "secrets"),
    [
        ("postgresql://app:hush-hush@DB.Nowhere.invalid/shop", ["db.nowhere"]),
        ("postgresql://app:hush-hush@one.nowhere.invalid,two.nowhere.invalid/shop", ["nowhere"]),
        ("postgresql:///shop?host=db.nowhere.invalid&user=app&password=hush-hush", ["nowhere"]),
        ("postgresql://app:hush@hush@db.nowhere.invalid/shop", ["nowhere"]),
        ("postgresql://app:hush%hush@db.nowhere.invalid/shop", ["nowhere"]),
        ("postgresql://app:1234?hush@db.nowhere.invalid/shop", ["nowhere", "1234"]),
        ("postgresql://127.0.0.1,127.0.0.2/shop?port=1&user=app&password=hush", ["127.0"]),
    ],
)
def test_no_error_has_a_part_of_an_unusual_address(url: str, secrets: list[str]) -> None:
    address = DatabaseSettings.from_env({"RESULTS_DATABASE_URL": url}).address(None)
    with pytest.raises(DatabaseError) as caught, connected(address):
        pass
    said = str(caught.value).lower()
    assert said.startswith("the database results_database_url: ")
    assert not any(part in said for part in [*secrets, "hush", "shop"])
