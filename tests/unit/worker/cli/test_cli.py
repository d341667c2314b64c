"""The help and the output of the command line, without any service."""

from __future__ import annotations

import atexit
import gc
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_type_hints

import click
import pytest
from click.testing import CliRunner
from rich.console import Console

from scoreline.tasks.client import Client
from scoreline.tasks.job.documents import Status
from scoreline.tasks.job.submit_options import SubmitOptions
from scoreline.tasks.schedules.schedule import Schedule
from scoreline.tasks.schedules.scheduler import Row, Scheduler
from scoreline.worker.cli import jobs, main, output, submit
from scoreline.worker.cli.help import Group
from scoreline.worker.cli.main import cli

COLUMNS = 80


def commands(group: Group, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Yield a group and every command below it, with the words that a user types."""
    yield path, group
    for name, command in group.commands.items():
        if isinstance(command, Group):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name), command


ALL = list(commands(cli))
every_command = pytest.mark.parametrize(
    ("path", "command"), ALL, ids=["scoreline " + " ".join(path) for path, _ in ALL]
)


def help_of(path: tuple[str, ...]) -> str:
    """Return a help page as it looks in a terminal of COLUMNS columns; click's test runner always has 80 columns."""
    context: click.Context = cli.context_class(cli, info_name="scoreline", **cli.context_settings)
    for name in path:
        assert isinstance(context.command, Group)
        command = context.command.commands[name]
        context = command.context_class(command, info_name=name, parent=context, **command.context_settings)
    return context.command.get_help(context)


@pytest.fixture
def parse(monkeypatch: pytest.MonkeyPatch) -> Callable[[list[str]], str]:
    """Return a function that parses arguments of ``scoreline`` without running a command, and returns the usage
    error."""
    for _, command in ALL:
        monkeypatch.setattr(command, "callback", lambda **_: None)
    return lambda words: CliRunner().invoke(cli, words).stderr


@every_command
def test_every_command_has_a_summary_that_is_one_imperative_sentence(
    path: tuple[str, ...], command: click.Command
) -> None:
    summary, blank, *_ = [*(command.help or "").splitlines(), ""]
    assert summary[0].isupper()
    assert summary.endswith(".")
    assert not summary.split()[0].endswith("s")  # "Show", not "Shows"
    assert blank == ""


@every_command
def test_every_option_has_help_that_is_one_or_more_sentences(path: tuple[str, ...], command: click.Command) -> None:
    for option in (param for param in command.params if isinstance(param, click.Option)):
        assert option.help, option.name
        assert option.help[0].isupper(), option.name
        assert option.help.partition("  [default: ")[0].endswith("."), option.name


@every_command
def test_no_help_page_is_wider_than_80_columns_and_no_summary_is_cut(
    path: tuple[str, ...], command: click.Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    for width in (COLUMNS, 2 * COLUMNS):
        monkeypatch.setenv("COLUMNS", str(width))
        page = help_of(path)
        assert [line for line in page.splitlines() if len(line) > COLUMNS] == []
        for listed in command.commands.values() if isinstance(command, Group) else ():
            assert (listed.help or "").splitlines()[0] in page
        assert "\b" not in page


@every_command
def test_every_command_has_examples_that_parse(
    path: tuple[str, ...],
    command: click.Command,
    parse: Callable[[list[str]], str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PORT", "9100")
    Path("schedules.toml").touch()
    page = help_of(path)
    examples = page.partition("\nExamples:\n")[2].replace("\\\n", " ").splitlines()
    assert examples != []
    for example in examples:
        words = shlex.split(os.path.expandvars(example), comments=True)
        words = words[words.index("scoreline") + 1 :]
        words = words[: words.index(">")] if ">" in words else words
        assert tuple(words[: len(path)]) == path
        assert parse(words) == ""


@pytest.mark.parametrize("words", [["submit", "m", "s3://b/in/", "--kep", "id"], ["model", "list"], ["models", "lst"]])
def test_an_unknown_option_or_command_does_not_parse(parse: Callable[[list[str]], str], words: list[str]) -> None:
    assert "No such " in parse(words)


def test_the_sections_of_the_main_help_page_list_every_command_once() -> None:
    listed = [name for names in cli.sections.values() for name in names]
    assert sorted(listed) == sorted(cli.commands)


def test_the_help_of_schedules_shows_every_key_of_a_schedule() -> None:
    page = help_of(("schedule",))
    keys = {item.name for item in fields(Schedule)} | get_type_hints(SubmitOptions).keys()
    assert sorted(key for key in keys - {"name", "options", "job_id"} if f"  {key} = " not in page) == []


def test_help_says_that_features_are_not_carried_over() -> None:
    page = " ".join(help_of(("submit",)).split())
    assert "'all' means every column that is neither a feature nor nested" in page


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make output look as in a terminal of 80 columns."""
    monkeypatch.setattr(output, "terminal_width", lambda **_: COLUMNS)
    monkeypatch.setattr(output, "console", lambda: Console(width=COLUMNS))


def listed(rows: list[Any], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """List schedules, and return the lines without trailing spaces."""
    monkeypatch.setattr(Scheduler, "rows", lambda _: rows)
    monkeypatch.setenv("ENVIRONMENT", "development")
    return [line.rstrip() for line in CliRunner().invoke(cli, ["schedule", "list"]).output.splitlines()]


def test_a_schedule_is_one_line_of_the_list_and_its_error_is_wrapped_below(
    terminal: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given two schedules, one of which was refused with an error longer than a line
    error = "bucket 'theirs' is not in ALLOWED_BUCKETS (scoreline): add it there, or name another input altogether"
    due = datetime(2026, 11, 26, 2, 30, tzinfo=UTC)
    rows = [
        Row(
            schedule=Schedule(name=name, cron="30 2 * * 1-5", zone="Europe/Berlin", model="m", input="s3://data/in/"),
            next=due,
            last="2026-11-25T01:30:00+00:00",
            outcome=outcome,
            error=reason,
            pending=waiting,
        )
        for name, outcome, reason, waiting in (("customers-eu", "succeeded", "", 2), ("orders", "refused", error, 0))
    ]
    # When the schedules are listed
    lines = listed(rows, monkeypatch)
    # Then each schedule has a line
    assert lines[1].split()[6:] == ["2026-11-26", "02:30", "UTC", "2026-11-25", "02:30", "succeeded"]
    assert lines[1].split()[0] == "customers-eu"
    assert " 30 2 * * 1-5 " in lines[1]
    assert lines[3] == "customers-eu: 2 slots wait"
    # And the error is printed in full
    assert " ".join(" ".join(lines[4:]).split()) == f"orders: refused: {error}"
    assert max(map(len, lines)) <= COLUMNS


def shown(job: Status, monkeypatch: pytest.MonkeyPatch, *words: str) -> list[str]:
    """Return the lines that a command prints about a job."""

    class Known:
        def status(self, job_id: str) -> Status:
            return job

        def jobs(self, limit: int, **chosen: Any) -> list[Status]:
            return [job]

        listing = SimpleNamespace(without_index=False)

    monkeypatch.setattr(Client, "from_env", Known)
    return CliRunner().invoke(cli, words).output.splitlines()


FAILED = Status(
    job_id="20261125T023000Z-0a1b2c",
    state="failed",
    model="customer-churn-europe@20261101T120000Z-0a1b2",
    output="s3://scoreline/results/customer-churn-europe/job_id=20261125T023000Z-0a1b2c/",
    rows=98_000_000,
    rejected=1_200_000,
    total_rows=200_000_000,
    parts=1_600,
    parts_done=900,
    seconds=4_000.5,
    reason="rejected",
    error="1200000 rows were rejected, allowed are 5 of 200000000; the first of them is row 17 of in/customers.parquet",
    submitted="2026-11-25T02:30:00.000+00:00",
)


def test_a_status_fits_80_columns_of_a_terminal_and_loses_no_word(
    terminal: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = shown(FAILED, monkeypatch, "status", FAILED.job_id)
    text = " ".join(" ".join(lines).split())
    # only a URI may exceed the width, because it is never wrapped
    assert [line for line in lines if len(line) > COLUMNS and "s3://" not in line] == []
    assert FAILED.output in text
    assert FAILED.error in text
    assert "scoreline resume 20261125T023000Z-0a1b2c --max-rejected N|P% goes on" in text


def test_a_status_in_a_pipe_has_a_line_for_each_field(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = shown(FAILED, monkeypatch, "status", FAILED.job_id)
    assert f"  error    {FAILED.error}" in lines
    assert f"  results  {FAILED.output}" in lines


def test_the_status_of_a_job_that_would_fail_again_does_not_propose_to_resume_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hopeless = replace(FAILED, reason="request", parts=0, rows=0, rejected=0)
    text = "\n".join(shown(hopeless, monkeypatch, "status", FAILED.job_id))
    assert "resume" not in text
    assert "hint     submit a new job with corrected options" in text


def test_a_list_of_jobs_is_cut_with_an_ellipsis_in_a_terminal_only(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = shown(FAILED, monkeypatch, "jobs")
    assert whole[1].split()[0] == FAILED.job_id
    assert whole[1].split()[-1] == FAILED.model
    monkeypatch.setattr(output, "console", lambda: Console(width=COLUMNS))
    heading, line = (text.rstrip() for text in shown(FAILED, monkeypatch, "jobs"))
    assert heading.split() == ["job", "state", "rows", "rejected", "age", "model"]
    assert line.split()[:4] == [FAILED.job_id, "failed", "98,000,000", "1,200,000"]
    assert line.endswith("…")
    assert len(line) <= COLUMNS


def test_no_number_in_a_list_of_jobs_is_cropped_however_long_the_names_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(output, "console", lambda: Console(width=COLUMNS))
    long = replace(FAILED, job_id="nightly-customers-of-all-markets-20261125T023000Z-rejected-12", rejected=50_000)
    for width in (COLUMNS, 60, 40):
        monkeypatch.setattr(output, "console", lambda width=width: Console(width=width))
        heading, line = shown(long, monkeypatch, "jobs")
        assert heading.split() == ["job", "state", "rows", "rejected", "age", "model"]
        assert re.match(r"nightly-cus\S*…  failed  98,000,000  50,000 ", line)
        assert line.rstrip().endswith("…")
        # 71 is the minimum width of the names plus the full width of the numbers
        assert len(line.rstrip()) <= max(width, 71)


def test_a_list_of_jobs_says_how_much_time_is_left_of_those_that_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "console", lambda: Console(width=COLUMNS))
    running = replace(FAILED, state="running", error="", work_left_s=480.0, processes=4)
    heading, line = shown(running, monkeypatch, "jobs")
    assert heading.split() == ["job", "state", "rows", "rejected", "age", "left", "model"]
    assert " 2m " in line


@pytest.mark.parametrize(
    ("known", "left"),
    [
        ({"work_left_s": 480.0, "processes": 4}, "8 min of work: 2 min with 4 processes, unless other jobs run"),
        ({"work_left_s": 480.0}, "8 min of work for one process; no worker has reported its processes"),
        ({}, "not known, because no job has recorded the pace of this model yet"),
    ],
)
def test_the_status_of_a_running_job_says_how_much_time_is_left(
    known: dict[str, Any], left: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = shown(replace(FAILED, state="running", error="", **known), monkeypatch, "status", FAILED.job_id)
    assert f"  left     {left}" in lines


def previewed(columns: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the output of a dry run for a row with these columns."""
    monkeypatch.setattr(output, "console", lambda: Console(width=COLUMNS))
    monkeypatch.setattr(submit, "terminal_width", lambda: COLUMNS)
    with CliRunner().isolation() as (out, *_):
        submit._show_sample([columns])
        return out.getvalue().decode().splitlines()


def test_a_dry_run_says_which_columns_it_does_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    columns = {f"column_{number}": "x" * 20 for number in range(6)} | {"prediction": "[yes]", "proba_yes": 0.75}
    heading, row, *rest = previewed(columns, monkeypatch)
    assert heading.split() == ["column_0", "column_1", "prediction", "proba_yes"]
    assert row.split() == ["x" * 20, "x" * 20, "[yes]", "0.75"]
    assert rest == ["not shown: 4 columns, column_2, column_3, column_4, column_5; --json shows all"]


def test_a_dry_run_of_few_columns_shows_all_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    heading, row = previewed({"id": 1, "prediction": "yes"}, monkeypatch)
    assert (heading.split(), row.split()) == (["id", "prediction"], ["1", "yes"])
    heading, _ = previewed({"x" * 200: 1}, monkeypatch)
    assert heading.strip() == "x" * 23 + "…"


@pytest.mark.parametrize(
    ("seconds", "age"), [(0, "0s"), (59, "59s"), (61, "1m"), (7_200, "2h"), (90_000, "1d"), (864_000, "10d")]
)
def test_the_age_of_a_job_is_in_the_largest_unit_that_fits(seconds: int, age: str) -> None:
    submitted = datetime.fromisoformat(FAILED.submitted)
    assert jobs.age(FAILED, datetime.fromtimestamp(submitted.timestamp() + seconds, UTC)) == age


def test_a_short_command_does_not_look_for_garbage(monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a command that notes how often Python looks for garbage while it runs
    seen: list[int] = []
    at_exit: list[object] = []

    @click.command()
    def noting() -> None:
        seen.append(gc.get_threshold()[0])

    monkeypatch.setattr(main, "cli", noting)
    monkeypatch.setattr(sys, "argv", ["scoreline"])
    monkeypatch.setattr(atexit, "register", at_exit.append)
    before = gc.get_threshold()
    with pytest.raises(SystemExit):
        main.main()
    # Then it does so rarely, and not at all at the end of the process
    assert seen == [20_000]
    assert gc.get_threshold() == before
    assert at_exit == [main._skip_last_collection]
    code = "import gc; from scoreline.worker.cli import main; main._skip_last_collection(); print(gc.isenabled())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
