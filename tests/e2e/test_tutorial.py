"""The commands of pages with transcripts run unchanged, and their output looks as the page shows it."""

from __future__ import annotations

import re
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression

from scoreline.storage import keys
from scoreline.storage.models.manager import ModelStorageManager
from scoreline.tasks.schedules.scheduler import Scheduler
from scoreline.worker.dev.stack import ROOT
from tests.conftest import SCORELINE
from tests.support.rig import Rig
from tests.support.waiting import HANG_S

PAGE = (ROOT / "docs/tutorial/first-job.md").read_text()
FAILED_NIGHT = (ROOT / "docs/how-to/failed-night.md").read_text()
NIGHTLY = """
[nightly]
cron = "30 2 * * *"
zone = "Europe/Berlin"
model = "churn@champion"
input = "s3://scoreline/customers/"
"""
VARIES = {
    r"^  work     .* of one process.*": "work",
    r"^  by       .*CLI\), submitted .* UTC": "by",
    r"\bby \w+ *$": "by <person>",
    r"\d{8}T\d{6}Z-[0-9a-f]+": "<version>",
    r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d\+00:00)?": "<time>",
    r"\d{4}-\d\d-\d\d,": "<date>,",
    r"[0-9a-f]{64}": "<sha256>",
    r"about \d+ MiB": "about <n> MiB",
    r"\d+ for the rows": "<n> for the rows",
    r"\d+\.\d+": "<x>",
    r" \d+[smh] ": " <age> ",
    r" +": " ",
}
"""Matches text that differs from run to run: versions, times, and the digits of seconds and scores."""


def files() -> dict[str, str]:
    """Return each file that the page asks the reader to save."""
    return dict(re.findall(r"Save this as `([\w.]+)`.*?^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL))


def transcript(page: str) -> list[tuple[str, list[str]]]:
    """Return each command of a page, with the lines that it shows below it."""
    found: list[tuple[str, list[str]]] = []
    for block in re.findall(r"^```console\n(.*?)^```$", page, re.MULTILINE | re.DOTALL):
        for line in block.splitlines():
            if line.startswith("$ "):
                found.append((line.removeprefix("$ "), []))
            else:
                found[-1][1].append(line)
    return found


def shape(lines: list[str]) -> list[str]:
    """Return lines without text that varies from run to run, and without progress bars."""
    shapes = []
    for line in lines:
        if "━" in line:
            continue
        for pattern, instead in VARIES.items():
            line = re.sub(pattern, instead, line)
        shapes.append(line.strip())
    return [line for line in shapes if line]


@pytest.mark.timeout(600)
def test_the_tutorial_shows_what_its_commands_print(tmp_path: Path) -> None:
    for name, text in files().items():
        (tmp_path / name).write_text(text)
    commands = transcript(PAGE)
    assert len(commands) >= 10
    mark = "--- next command ---"
    script = "".join(f"echo '{mark}'\n{command} 2>&1\n" for command, _ in commands)
    done = subprocess.run(
        [SCORELINE, "dev", "--", "bash", "-c", script],
        cwd=tmp_path,
        env={"PATH": "/usr/bin:/bin", "COLUMNS": "160", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    printed = done.stdout.split(mark)[1:]
    assert len(printed) == len(commands), done.stderr
    for (command, shown), lines in zip(commands, printed, strict=True):
        assert shape(lines.splitlines()) == shape(shown), command


def test_a_night_that_failed_is_mended_as_the_page_shows(rig_at_work: Rig) -> None:
    # Given a champion that needs a column which the input lacks, so that the job of the latest night failed
    rig, people = rig_at_work, pd.DataFrame({"age": [20.0, 30.0, 60.0], "visits": [1.0, 2.0, 8.0]})
    models, stays = ModelStorageManager.from_env(rig.environ), ["no", "no", "yes"]
    good = models.publish("churn", LogisticRegression().fit(people, stays), alias="champion")
    models.publish("churn", LogisticRegression().fit(people.assign(tenure=1.0), stays), alias="champion")
    people.insert(0, "customer", [1, 2, 3])
    rig.store.put("customers/all.parquet", people.to_parquet(index=False))
    rig.store.put(keys.SCHEDULES, NIGHTLY.encode())
    scheduler = Scheduler(rig.client, Path("no-such-file.toml"))
    slot = scheduler.get("nightly").preceding(datetime.now(UTC))
    for now in (slot - timedelta(minutes=1), slot):
        scheduler.tick(now)
    job_id = scheduler.get("nightly").job_id(slot)
    *_, failed = rig.client.watch(job_id, timeout_s=HANG_S)
    assert failed.state == "failed"
    # When the commands of the page are run, with the date of the failed night
    dates = {"2026-11-25T02:30": f"{slot:%Y-%m-%dT%H:%M}", "nightly-20261125T013000Z": job_id}

    def as_of_now(text: str) -> str:
        for shown, real in dates.items():
            text = text.replace(shown, real)
        return text.replace("CEST", "CET")

    commands = transcript(FAILED_NIGHT)
    for command, shown in commands:
        done = subprocess.run(
            ["bash", "-c", as_of_now(command)],
            env=rig.environ | {"PATH": f"{Path(SCORELINE).parent}:/usr/bin:/bin"},
            capture_output=True,
            text=True,
            timeout=HANG_S,
            check=False,
        )
        # Then each command prints the output on the page, apart from the page's line breaks
        assert done.returncode == 0, done.stderr
        assert as_of_now(" ".join(shape(done.stdout.splitlines()))) == as_of_now(" ".join(shape(shown))), command
    # And a new job scores the night with the previous version of the model
    assert len(commands) == 3
    *_, mended = rig.client.watch(f"{job_id}-2", timeout_s=HANG_S)
    assert (mended.state, mended.rows, mended.model) == ("succeeded", 3, good.ref)
