"""Foreign names and messages cannot send control codes to a terminal, and errors contain no secrets of settings."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import Any

import pytest

from scoreline.storage.errors import InvalidSettings
from scoreline.storage.settings import StorageSettings
from scoreline.tasks.job.documents import Status
from scoreline.tasks.webhooks.settings import WebhookSettings
from scoreline.worker.cli import output, progress
from scoreline.worker.cli.idle_hint import IdleHint

HOSTILE = "\x1b[2J\x9b1A\x07\u202egnp.\nexit code 0\r[/red][bold]"


def check(text: str) -> None:
    assert "[/red][bold]" in text
    assert not any(ord(char) < 32 and char != "\n" for char in text)
    assert not set("\x9b\u202e") & set(text)
    assert not any(line.startswith("exit code 0") for line in text.splitlines())


@pytest.mark.parametrize("err", [False, True])
def test_a_printed_line_has_no_control_characters(err: bool, capsys: pytest.CaptureFixture[str]) -> None:
    output.echo(HOSTILE, err=err)
    check("".join(capsys.readouterr()))


def test_a_field_and_a_cut_line_have_no_control_characters(capsys: pytest.CaptureFixture[str]) -> None:
    output.echo_field("error", HOSTILE)
    output.echo_cut(HOSTILE)
    check(capsys.readouterr().out)


def test_a_space_follows_a_long_label(capsys: pytest.CaptureFixture[str]) -> None:
    output.echo_field("parts", "4 of 4")
    output.echo_field("challenger", "churn@b adds about 2 s")
    assert capsys.readouterr().out == "  parts    4 of 4\n  challenger churn@b adds about 2 s\n"


def test_a_table_has_no_control_characters(capsys: pytest.CaptureFixture[str]) -> None:
    output.print_table((HOSTILE, "b"), [(HOSTILE, "x")])
    check(capsys.readouterr().out.replace("\nexit code 0", ""))


def test_json_has_no_control_characters_and_the_same_values(capsys: pytest.CaptureFixture[str]) -> None:
    output.echo_json({"name": HOSTILE, "city": "Zürich"})
    text = capsys.readouterr().out
    assert json.loads(text) == {"name": HOSTILE, "city": "Zürich"}
    assert "Zürich" in text
    assert not any(ord(char) < 32 and char != "\n" for char in text)
    assert not set("\x9b\u202e") & set(text)


def test_markup_in_the_progress_of_a_job_is_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    state: Any = "[/red]"
    job = Status(job_id="j", state=state, model="m@1", output="s3://b/o/", total_rows=5)
    done = replace(job, state="succeeded")
    assert progress._draw(iter([job, done]), IdleHint(lambda _: ["w"], 60.0)) == done
    progress.show_status(replace(job, error=HOSTILE))
    check(capsys.readouterr().out)


@pytest.mark.parametrize(
    "environ",
    [
        {"R2_ENDPOINT_URL": "https://me:s3cr3t@example.org:port"},
        {"R2_ENDPOINT_URL": "https://me:s3cr3t@acc.r2.cloudflarestorage.com/scores"},
        {"R2_ENDPOINT_URL": "me:s3cr3t@example.org"},
        {"R2_ENDPOINT_URL": "https://example.org/?key=s3cr3t"},
    ],
)
def test_no_credential_in_a_setting_is_in_the_error_about_it(environ: dict[str, str]) -> None:
    keys = {"R2_BUCKET": "scores", "R2_ACCESS_KEY_ID": "a", "R2_SECRET_ACCESS_KEY": "b"}
    with pytest.raises(InvalidSettings, match="R2_ENDPOINT_URL=") as caught:
        StorageSettings.from_env(keys | environ)
    assert "s3cr3t" not in str(caught.value)


@pytest.mark.parametrize("url", ["http:/hooks.example.org/s3cr3t", "ftp://hooks.example.org/s3cr3t", "s3cr3t"])
def test_the_address_of_the_webhook_is_in_no_error_and_no_repr(url: str) -> None:
    with pytest.raises(InvalidSettings, match="WEBHOOK_URL") as caught:
        WebhookSettings.from_env({"WEBHOOK_URL": url})
    assert "s3cr3t" not in str(caught.value)
    settings = WebhookSettings(url="https://hooks.example.org/s3cr3t")
    assert "s3cr3t" not in repr(settings)
    assert asdict(settings)["url"].endswith("s3cr3t")
