"""``alerts.toml``: recipients, and every fault with its line and without an address."""

from __future__ import annotations

from pathlib import Path

import pytest

from scoreline.storage.errors import InvalidSettings
from scoreline.tasks.alerts.recipients import FAILURES, Recipient, parse_recipients
from scoreline.tasks.alerts.settings import AlertSettings
from scoreline.tasks.job.alert import Alert, Event

AT = "2026-11-29T02:31:00+00:00"
SOUND = """
[ops]
urls = ["OPS_MAIL"]

[churn-team]
urls = ["CHURN_SLACK", "CHURN_MAIL"]
schedules = ["nightly*"]
groups = ["churn"]
on = ["failed", "succeeded"]
"""
VARIABLES = {"OPS_MAIL": "mailto://ops", "CHURN_SLACK": "slack://secret", "CHURN_MAIL": " mailto://churn "}


def alert(event: Event, *, schedule: str = "", group: str = "") -> Alert:
    return Alert(id="1", event=event, at=AT, schedule=schedule, group=group)


def test_a_recipient_hears_of_failures_unless_its_table_says_otherwise() -> None:
    (ops, team), faults = parse_recipients(SOUND, VARIABLES)
    assert faults == ()
    assert (ops.urls, ops.on) == (("mailto://ops",), FAILURES)
    assert (team.urls, team.on) == (("slack://secret", "mailto://churn"), ("failed", "succeeded"))
    assert "secret" not in repr(team)
    assert [ops.wants(alert(event)) for event in ("failed", "late", "succeeded", "cancelled")] == [
        *(True, True),
        *(False, False),
    ]


@pytest.mark.parametrize(
    ("schedule", "group", "wanted"),
    [("nightly-eu", "other", True), ("", "churn", True), ("hourly", "churn", True), ("hourly", "fraud", False)],
)
def test_patterns_choose_schedules_and_groups(schedule: str, group: str, wanted: bool) -> None:
    _, team = parse_recipients(SOUND, VARIABLES)[0]
    assert team.wants(alert("failed", schedule=schedule, group=group)) is wanted


def test_everybody_hears_of_a_mistake_in_the_schedules_who_hears_of_such_mistakes() -> None:
    some = Recipient(name="a", urls=("x://",), schedules=("nightly",))
    assert some.wants(alert("schedules"))
    assert not Recipient(name="a", urls=("x://",), on=("failed",)).wants(alert("schedules"))


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ('urls = ["OPS_MAIL"]', "", "line 2: [ops] 'urls' is missing"),
        ('urls = ["OPS_MAIL"]', "urls = []", "line 3: [ops] urls is not a list of strings with at least one string"),
        ('urls = ["OPS_MAIL"]', 'urls = "OPS_MAIL"', "line 3: [ops] urls is not a list"),
        ('urls = ["OPS_MAIL"]', 'urls = ["UNSET"]', "line 3: [ops] urls: the variable 'UNSET' is not set"),
        ('urls = ["OPS_MAIL"]', 'urls = ["slack://hush/"]', "line 3: [ops] urls: has to name variables"),
        ('"succeeded"', '"success"', "line 9: [churn-team] on: 'success' is not one of succeeded, partial,"),
        ('groups = ["churn"]', "groups = [1]", "line 8: [churn-team] groups is not a list"),
        ('groups = ["churn"]', 'group = ["churn"]', "line 8: [churn-team] unknown key 'group'; known are groups, on"),
        ("\n[ops]", "to = 1\n[ops]", "line 1: 'to' is outside of a [recipient]"),
        ("[ops]", "[ops", "line 2: is not TOML"),
    ],
)
def test_a_fault_names_its_line_and_no_address(old: str, new: str, fault: str) -> None:
    found = parse_recipients(SOUND.replace(old, new, 1), VARIABLES)[1]
    assert len(found) == 1
    assert found[0].startswith(fault)
    assert "hush" not in found[0]


def test_settings_add_up_the_variable_and_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert AlertSettings.from_env({}) == AlertSettings()
    (tmp_path / "alerts.toml").write_text(SOUND)
    environ = VARIABLES | {"ALERT_URLS": "mailto://a mailto://b", "WEB_URL": "https://example.org/scoreline/"}
    settings = AlertSettings.from_env(environ)
    assert [item.name for item in settings.recipients] == ["ALERT_URLS", "ops", "churn-team"]
    assert settings.recipients[0].urls == ("mailto://a", "mailto://b")
    assert settings.web_url == "https://example.org/scoreline"
    assert settings.events == {*FAILURES, "succeeded"}


def test_a_process_that_only_writes_alerts_writes_all_failures_if_the_settings_are_wrong(tmp_path: Path) -> None:
    file = tmp_path / "a.toml"
    file.write_text(SOUND)
    environ = VARIABLES | {"ALERTS_FILE": str(file)}
    assert AlertSettings.events_from(environ) == {*FAILURES, "succeeded"}
    file.write_text("[ops")
    assert AlertSettings.events_from(environ) == {*FAILURES}


def test_two_recipients_cannot_have_one_name(tmp_path: Path) -> None:
    """Who was told is noted by name, so only one of them would hear anything."""
    file = tmp_path / "a.toml"
    file.write_text('[ALERT_URLS]\nurls = ["OPS_MAIL"]\n')
    with pytest.raises(InvalidSettings, match="give this one another name"):
        AlertSettings.from_env(VARIABLES | {"ALERTS_FILE": str(file), "ALERT_URLS": "mailto://a"})


def test_faults_of_all_settings_are_reported_together(tmp_path: Path) -> None:
    file = tmp_path / "a.toml"
    file.write_text(SOUND.replace("OPS_MAIL", "UNSET"))
    environ = VARIABLES | {"ALERT_URLS": "hush", "ALERTS_FILE": str(file), "WEB_URL": "example.org"}
    with pytest.raises(InvalidSettings) as caught:
        AlertSettings.from_env(environ)
    words = str(caught.value)
    assert "ALERT_URLS is not a list of addresses" in words
    assert "the variable 'UNSET' is not set" in words
    assert "WEB_URL='example.org' is not an address" in words
    assert "hush" not in words


def test_a_file_that_a_setting_names_must_exist(tmp_path: Path) -> None:
    with pytest.raises(InvalidSettings, match="is not a file: deploy the file, or unset ALERTS_FILE"):
        AlertSettings.from_env({"ALERTS_FILE": str(tmp_path / "none.toml")})
