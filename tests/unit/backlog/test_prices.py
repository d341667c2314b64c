"""A file of prices is read strictly: a mistyped key or value is an error that names it."""

from __future__ import annotations

from pathlib import Path

import pytest

from scoreline.storage.errors import InvalidSettings
from scoreline.storage.objects.requests import Requests
from scoreline.tasks.backlog.prices import Prices
from scoreline.tasks.backlog.settings import CostSettings


def written(folder: Path, text: str) -> Path:
    path = folder / "prices.toml"
    path.write_text(text)
    return path


def test_prices_that_are_given_are_applied_and_others_left_out(tmp_path: Path) -> None:
    prices = Prices.read(written(tmp_path, 'currency = "EUR"\ndyno_hour = 1\ngb_month = 0.02'))
    costs = prices.of(1_440, Requests(class_a=9, class_b=9), 5_000_000_000, 4)
    assert costs == {"dynos": 0.1, "storage for a month": 0.1}
    assert prices.in_words(costs) == "0.20 EUR: dynos 0.10, storage for a month 0.10"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("dyno_hours = 1", "'dyno_hours' is unknown: the keys are currency, dyno_hour, class_a_million"),
        ('dyno_hour = "1"', "dyno_hour = '1' is not a number of at least 0"),
        ("dyno_hour = true", "dyno_hour = True is not a number"),
        ("gb_month = -0.1", "gb_month = -0.1 is not a number of at least 0"),
        ("gb_month = nan", "gb_month = nan is not a number"),
        ("class_a_million = inf", "class_a_million = inf is not a number"),
        ("class_b_million = [1]", "class_b_million = [1] is not a number"),
        ("dyno_hour = 1\ncurrency = 5", "currency = 5 is not a short text"),
        ('dyno_hour = 1\ncurrency = ""', "currency = '' is not a short text"),
        ('currency = "EUR"', "it has no price: set one of dyno_hour"),
        ("", "it has no price"),
        ("dyno_hour = ", "is not TOML"),
        ("dyno_hour = -1\ngb = 2", "'gb' is unknown.*dyno_hour = -1 is not"),
    ],
)
def test_a_fault_is_named(text: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidSettings) as refused:
        Prices.read(written(tmp_path, text))
    parts = said.split(".*")
    assert all(part in str(refused.value) for part in parts), refused.value
    assert "prices.toml" in str(refused.value)


def test_a_missing_file_is_an_error_and_no_setting_is_none(tmp_path: Path) -> None:
    with pytest.raises(InvalidSettings, match=r"PRICES_FILE .*none.toml cannot be read: No such file"):
        CostSettings.from_env({"PRICES_FILE": str(tmp_path / "none.toml")})
    assert CostSettings.from_env({}).prices is None


def test_the_example_of_the_docs_has_all_keys(tmp_path: Path) -> None:
    page = (Path(__file__).resolve().parents[3] / "docs/how-to/costs.md").read_text()
    (example,) = [block for block in page.split("```text\n") if block.startswith("currency")]
    prices = Prices.read(written(tmp_path, example.partition("```")[0]))
    assert all([prices.dyno_hour, prices.class_a_million, prices.class_b_million, prices.gb_month])
