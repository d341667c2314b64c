from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from typing import Any

import pytest

from scoreline.tasks.job.load_options import LOAD_OPTIONS
from scoreline.tasks.job.source_options import SOURCE_OPTIONS
from scoreline.tasks.job.submit_options import SubmitOptions, described
from scoreline.tasks.schedules.file import parse, render, spec_of
from scoreline.tasks.webhooks.settings import WebhookSettings
from scoreline.worker.cli.schedule import schedule

SOUND = """
# the first
[nightly]
cron = "30 2 * * *"
zone = "Europe/Berlin"
model = "churn@champion"
input = "s3://data/{slot:%Y/%m/%d}/*.parquet"
output = "s3://data/scores/{previous:%Y%m%d}/"
catch_up = "all"
overlap = "queue"
max_rejected = "5"
only_new = true
enabled = false

[hourly]
cron = "0 * * * *"
model = "fraud"
input = "s3://data/live/"
"""


def test_the_example_in_the_help_is_a_file_without_faults() -> None:
    help_text = str(schedule.help).partition("\b\n")[2].replace("\b\n", "")
    parsed = parse(help_text)
    assert parsed.faults == ()
    nightly, *others = parsed.schedules
    shown = {name for found in (nightly, *others) for name in found.options}
    assert set(described(SubmitOptions)) - shown <= {"job_id", "model", "input", "output"}
    assert nightly.options["escape"] == "\\"


def test_every_key_is_read_and_missing_ones_have_defaults() -> None:
    parsed = parse(SOUND)
    assert parsed.faults == ()
    nightly, hourly = parsed.schedules
    assert (nightly.name, nightly.zone, nightly.catch_up, nightly.overlap) == (
        "nightly",
        "Europe/Berlin",
        "all",
        "queue",
    )
    assert (nightly.only_new, nightly.enabled, nightly.options["max_rejected"]) == (True, False, "5")
    assert (hourly.zone, hourly.catch_up, hourly.overlap, hourly.enabled) == ("UTC", "latest", "skip", True)


def test_a_slot_becomes_a_job_with_dates_in_the_time_zone_of_the_schedule() -> None:
    nightly, hourly = parse(SOUND).schedules
    slot = datetime(2026, 11, 25, 1, 30, tzinfo=UTC)
    spec = spec_of(nightly, slot, "s3://unused/").check()
    assert spec.job_id == "nightly-20261125T013000Z"
    assert (spec.inputs, spec.output) == (("s3://data/2026/11/25/*.parquet",), "s3://data/scores/20261124/")
    assert (spec.model, spec.max_rejected, spec.only_new) == ("churn@champion", "5", "nightly")
    spec = spec_of(hourly, slot, "s3://bucket/results/fraud/")
    assert (spec.output, spec.only_new) == ("s3://bucket/results/fraud/", None)
    assert render(nightly, "{slot}", datetime(2026, 11, 24, 23, 30, tzinfo=UTC)) == "2026-11-25"


@pytest.mark.parametrize(
    ("old", "new", "line", "message"),
    [
        ('zone = "Europe/Berlin"', 'zone = "Europe/Bonn"', 5, "is not an IANA time zone"),
        ('zone = "Europe/Berlin"', 'zone = "../etc/passwd"', 5, "is not an IANA time zone"),
        ('cron = "30 2 * * *"', 'cron = "61 2 * * *"', 4, "Bad minute"),
        ('cron = "30 2 * * *"', 'cron = "30 2 * *"', 4, "Wrong number of fields"),
        ('cron = "30 2 * * *"', "cron = 30", 4, "is not a string"),
        ('cron = "30 2 * * *"', "", 3, "'cron' is missing"),
        ('catch_up = "all"', 'catch_up = "some"', 9, "not one of none, latest, all"),
        ('overlap = "queue"', 'overlap = "kill"', 10, "not one of skip, queue, cancel_running"),
        ("only_new = true", 'only_new = "true"', 12, "not true or false"),
        ('max_rejected = "5"', 'max_rejected = "few"', 11, "neither a count nor a percentage"),
        ("enabled = false", "enbled = false", 13, "unknown key 'enbled'"),
        ("{slot:%Y/%m/%d}", "{day}", 7, "only {slot:FORMAT} and {previous:FORMAT}"),
        ("{slot:%Y/%m/%d}", "{slot:%Q}", 7, "{slot:%Q} is not a format of strftime, such as {slot:%Y-%m-%d}"),
        ('"s3://data/scores/{previous:%Y%m%d}/"', '"s3://data/scores"', 8, "does not end with '/'"),
        ('model = "churn@champion"', 'model = "a@b@c"', 6, "model"),
        ("[nightly]", "[nightly", 3, "is not TOML"),
        ("[nightly]", '["night ly"]', 3, "not a valid name"),
        ("# the first", "stray = 1", 2, "outside of a [schedule]"),
    ],
)
def test_every_fault_is_named_with_its_line_and_leaves_the_other_schedules_usable(
    old: str, new: str, line: int, message: str
) -> None:
    parsed = parse(SOUND.replace(old, new, 1))
    (fault,) = parsed.faults
    assert fault.line == line
    assert message in str(fault)
    if "TOML" not in message:
        assert "hourly" in {schedule.name for schedule in parsed.schedules}


def test_faults_of_the_checks_of_a_schedule_are_on_one_line() -> None:
    text = SOUND + "checks = '''\n[rows]\nmni = 5\nrise = 1\n'''\n"
    (fault,) = parse(text).faults
    assert "\n" not in str(fault)
    assert "has 2 faults: line 2: unknown key 'mni' of rows; did you mean 'min'? line 3: rise" in str(fault)


def test_only_new_is_a_fault_of_a_schedule_whose_rows_are_in_a_database() -> None:
    text = '[a]\ncron = "0 2 * * *"\nmodel = "m"\nquery = "q"\nonly_new = true\n'
    (fault,) = parse(text).faults
    assert (fault.line, "only_new is for objects: choose new rows in the query" in str(fault)) == (5, True)


def test_all_faults_of_a_schedule_are_named_at_once() -> None:
    text = SOUND.replace('cron = "30 2', 'cron = "99 2').replace('"5"', '"few"').replace('"queue"', '"kill"')
    text = text.replace("enabled = false", 'enabled = "no"\nwebhook = "https://elsewhere.example/"\nformat = "xlsx"')
    faults = parse(text, WebhookSettings(allowed=("https://example.org/",))).faults
    assert [fault.line for fault in faults] == [4, 10, 11, 13, 14, 15]
    assert "is not within ALLOWED_WEBHOOKS" in str(faults[4])
    assert "format 'xlsx' is not one of parquet, csv, jsonl, arrow" in str(faults[5])


def test_an_output_within_the_input_is_refused() -> None:
    text = SOUND.replace('"s3://data/scores/{previous:%Y%m%d}/"', '"s3://data/live/out/"').replace(
        "{slot:%Y/%m/%d}/*", "live/*"
    )
    (fault,) = parse(text).faults
    assert (fault.line, "its results would be input the next time" in str(fault)) == (8, True)


def test_several_inputs_and_how_they_are_read() -> None:
    text = SOUND + 'delimiter = ";"\ncolumns = ["id", "x"]\ntypes = {id = "string"}\nfeatures = ["x"]\n'
    text = text.replace('input = "s3://data/live/"', 'input = ["s3://data/{slot:%d}/", "s3://data/b.csv"]')
    parsed = parse(text)
    assert parsed.faults == ()
    spec = spec_of(parsed.schedules[1], datetime(2026, 11, 25, tzinfo=UTC), "s3://bucket/out/").check()
    assert (spec.inputs, spec.features) == (("s3://data/25/", "s3://data/b.csv"), ("x",))
    assert (spec.read.delimiter, spec.read.columns, spec.read.types) == (";", ("id", "x"), {"id": "string"})


VALUES: dict[str, list[tuple[Any, Any]]] = {
    "output": [("s3://data/out/", "s3://data/out/"), ("", "s3://unused/")],
    "method": [("predict", "predict")],
    "keep": [("id,name", "id,name"), (["id", "name"], "id,name"), ([], "none")],
    "features": [(["a", "b"], ("a", "b"))],
    "max_rejected": [("5%", "5%"), (5, "5"), (0, "0")],
    "max_attempts": [(2, 2)],
    "group": [("reports", "reports"), ("", None)],
    "priority": [("low", "low"), ("", None)],
    "max_processes": [(3, 3)],
    "deadline": [("2h", "2h"), ("2026-11-25T06:00:00+01:00", "2026-11-25T06:00:00+01:00")],
    "checks": [("none", "none"), ("[rows]\nmin = 5\n", "[rows]\nmin = 5\n"), ("", None)],
    "part_rows": [(100, 100)],
    "partition_by": [("region", "region")],
    "gather": [(True, True), (False, False)],
    "profile": [("off", "off"), ("", None)],
    "segment": [("region", "region"), ("", None)],
    "challenger": [("churn@challenger", "churn@challenger"), ("", None)],
    "only_changed": [(True, True), (False, False)],
    "into": [("public.scores", "public.scores")],
    "key": [(["id"], ("id",))],
    "into_columns": [(["prediction", "b=proba_yes"], ("prediction", "b=proba_yes"))],
    "mode": [("append", "append"), ("", None)],
    "create": [(True, True)],
    "database": [("warehouse", "warehouse"), ("", None)],
    "query": [("customers", "customers"), ("", None)],
    "params": [({"day": "{slot:%d}"}, {"day": "25"}), ({}, None)],
    "table": [("public.customers", "public.customers"), ("", None)],
    "where_recent": [(["updated_at", "1d"], ("updated_at", "1d"))],
    "format": [("csv", "csv")],
    "delimiter": [(";", ";"), ("tab", "\t")],
    "quote": [("'", "'"), ("none", "")],
    "escape": [("\\", "\\"), ("none", "")],
    "decimal": [(",", ",")],
    "thousands": [("'", "'"), ("none", "")],
    "columns": [(["a", "b"], ("a", "b"))],
    "encoding": [("latin-1", "latin-1")],
    "null_values": [(["-"], ("-",))],
    "types": [({"a": "string"}, {"a": "string"})],
}
"""For each option of a job: values in a schedule, and the resulting values of the job."""


def toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {json.dumps(item)}" for key, item in value.items()) + "}"
    return json.dumps(value)


@pytest.mark.parametrize(
    "name", [name for name in described(SubmitOptions) if name not in ("job_id", "webhook", "labels")]
)
def test_every_option_of_a_job_can_be_set_and_reaches_the_job(name: str) -> None:
    for value, expected in VALUES[name]:
        text = SOUND.replace('max_rejected = "5"\n', "").replace('output = "s3://data/scores/{previous:%Y%m%d}/"\n', "")
        more = {"into": 'key = ["id"]\n'}.get(name, 'into = "t"\n' if name in LOAD_OPTIONS and value != "" else "")
        more += 'key = ["id"]\n' if more and name not in ("into", "key") else ""
        more += {"params": 'query = "q"\n', "where_recent": 'table = "a.b"\n'}.get(name, "")
        if name == "params" or (value and name in SOURCE_OPTIONS):
            text = re.sub(r"(?s)(\[hourly\].*?)input = [^\n]*\n", r"\1", text)
        parsed = parse(text.replace("[hourly]", f"[hourly]\n{more}{name} = {toml(value)}"))
        assert parsed.faults == ()
        spec = spec_of(parsed.schedules[1], datetime(2026, 11, 25, tzinfo=UTC), "s3://unused/").check()
        assert getattr(spec, name, None) == expected or getattr(spec.read, name, None) == expected


def test_labels_are_checked_and_no_part_of_the_spec() -> None:
    parsed = parse(SOUND + 'labels = {team = "risk"}\n')
    assert parsed.faults == ()
    assert parsed.schedules[1].options["labels"] == {"team": "risk"}
    spec_of(parsed.schedules[1], datetime(2026, 11, 25, tzinfo=UTC), "s3://unused/").check()
    (fault,) = parse(SOUND + 'labels = {"a b" = "risk"}\n').faults
    assert (fault.line, "'a b' is not the name of a label" in str(fault)) == (19, True)


def test_options_that_are_only_valid_together_are_checked_together() -> None:
    # If the decimal separator is a comma, the thousands separator may be a point
    assert parse(SOUND + 'decimal = ","\nthousands = "."\n').faults == ()
    # One character may not be both the delimiter and the quote
    assert parse(SOUND + 'delimiter = ";"\nquote = ","\n').faults == ()
    (fault,) = parse(SOUND + 'delimiter = ";"\nquote = ";"\n').faults
    assert (fault.line, "delimiter ';' cannot separate fields" in str(fault)) == (19, True)


def test_a_byte_order_mark_is_not_a_fault() -> None:
    assert parse("\ufeff" + SOUND) == parse(SOUND)
