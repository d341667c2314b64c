from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from scoreline.storage.errors import InvalidSettings
from scoreline.worker import logs

ROOT = Path(__file__).parents[3]
SETTINGS = {
    "R2_SECRET_ACCESS_KEY": "s3cr3t-of-r2",
    "AWS_S3_SECRET_ACCESS_KEY": "s3cr3t-of-s3",
    "AWS_SESSION_TOKEN": "s3cr3t-of-session",
    "MODEL_SIGNING_KEY": "s3cr3t-of-signing",
    "REDIS_URL": "redis://:s3cr3t%2Fof-redis@localhost:6379/0",
}


@pytest.fixture(autouse=True)
def _root_logger_as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    for handler in root.handlers:
        if handler not in handlers:
            handler.close()
    root.handlers[:] = handlers
    root.setLevel(level)


def written(file: Path, environ: dict[str, str]) -> str:
    logs.set_up(environ, file=str(file))
    log = logging.getLogger("scoreline.tasks.steps.score_part")
    log.info("part.scored", extra={"job_id": "nightly 1", "part": 3, "seconds": 0.25})
    log.warning(
        "cannot reach %s",
        SETTINGS["REDIS_URL"],
        extra={"keys": ["s3cr3t-of-r2", "s3cr3t/of-redis", "s3cr3t-of-s3", "s3cr3t-of-session"]},
    )
    try:
        raise RuntimeError("with s3cr3t-of-signing")
    except RuntimeError:
        log.exception("part.failed")
    return file.read_text()


def test_a_human_line_has_the_fields_of_the_event(tmp_path: Path) -> None:
    lines = written(tmp_path / "log", SETTINGS).splitlines()
    assert re.fullmatch(r'\d\d:\d\d:\d\d INFO part.scored job_id="nightly 1" part=3 seconds=0.25', lines[0])
    assert "Traceback" in lines[3]


@pytest.mark.parametrize("environ", [{"DYNO": "worker.1"}, {"LOG_FORMAT": "json"}])
def test_a_json_line_has_the_fields_of_the_event(tmp_path: Path, environ: dict[str, str]) -> None:
    first, _, failed = map(json.loads, written(tmp_path / "log", SETTINGS | environ).splitlines())
    assert (first["event"], first["level"], first["logger"]) == (
        "part.scored",
        "INFO",
        "scoreline.tasks.steps.score_part",
    )
    assert (first["job_id"], first["part"], first["seconds"]) == ("nightly 1", 3, 0.25)
    assert {"timestamp", "pid"} <= first.keys()
    assert "RuntimeError" in failed["exc_info"]


@pytest.mark.parametrize("form", ["human", "json"])
def test_no_secret_is_written_in_messages_fields_or_tracebacks(tmp_path: Path, form: str) -> None:
    text = written(tmp_path / "log", SETTINGS | {"LOG_FORMAT": form})
    assert "s3cr3t" not in text
    assert text.count("***") >= 4


def test_a_dyno_may_log_human_lines_and_an_unknown_format_is_refused(tmp_path: Path) -> None:
    assert " INFO part.scored" in written(tmp_path / "log", SETTINGS | {"DYNO": "worker.1", "LOG_FORMAT": "human"})
    with pytest.raises(InvalidSettings, match="LOG_FORMAT"):
        logs.set_up({"LOG_FORMAT": "xml"})


def test_every_event_has_a_static_name() -> None:
    names = [
        (file.relative_to(ROOT), call.strip())
        for folder in ("storage", "tasks", "worker")
        for file in (ROOT / folder).rglob("*.py")
        for call in re.findall(r"\blog\.(?:info|warning|error|exception)\(\s*([^,)]*)", file.read_text())
    ]
    assert len(names) > 40
    assert [(file, call) for file, call in names if not re.fullmatch(r'"[a-z_]+\.[a-z_]+"', call)] == []


def test_a_password_among_the_options_of_an_address_is_hidden_too() -> None:
    assert "s3cr3t/x" in logs.secrets_of({"REDIS_URL": "redis://localhost:6379/0?db=1&password=s3cr3t%2Fx"})
