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


@pytest.mark.parametrize("form", ["human", "json"])
@pytest.mark.parametrize("secret", ['s3cr3t"quoted', "s3cr3t\\slashed", "s3cr3t-schlüssel", "s3cr3t'of\"both\\kinds"])
def test_a_secret_is_hidden_however_a_log_quotes_it(tmp_path: Path, secret: str, form: str) -> None:
    logs.set_up({"R2_SECRET_ACCESS_KEY": secret, "LOG_FORMAT": form}, file=str(tmp_path / "log"))
    log = logging.getLogger("scoreline.tasks.steps.score_part")
    log.info("%s %r", secret, secret, extra={"value": secret, "values": [secret], "quoted": repr(secret)})
    text = (tmp_path / "log").read_text()
    assert "s3cr3t" not in text
    assert text.count("***") == 5


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


FORGED = "x\n12:30:05 INFO job.ended state=succeeded"


def human(message: str, *args: object, raised: BaseException | None = None, **extra: object) -> str:
    info = (type(raised), raised, None) if raised else None
    record = logging.LogRecord("scoreline", logging.INFO, "", 0, message, args, info)
    vars(record).update(extra)
    return logs.HumanLines(()).format(record)


@pytest.mark.parametrize("end", ["\n", "\r", "\r\n", "\v", "\f", "\x1c", "\x85", "\u2028", "\u2029"])
def test_no_value_and_no_message_can_forge_a_line(end: str) -> None:
    forged = FORGED.replace("\n", end)
    shown = [
        human("part.failed", error=forged, job_id="j"),
        human("part.failed", errors=[forged]),
        human("unknown task %s", forged),
        human("part.failed", value=None, exc=forged),
        human("failed", raised=RuntimeError(forged)),
    ]
    for text in shown:
        first, *rest = text.splitlines()
        assert re.match(r"\d\d:\d\d:\d\d INFO (part|unknown|failed)", first)
        assert all(line.startswith("| ") for line in rest)
    assert len(shown[0].splitlines()) == len(shown[1].splitlines()) == 1


@pytest.mark.parametrize(
    "command", ["\x1b[2J", "\x9b2J", "\x1b]0;title\x07", "\x08\x08", "\u202egnp.exe", "\x00", "\udc80"]
)
def test_no_value_commands_the_terminal(command: str) -> None:
    for text in (human("e.f", key=command), human("e %s", command), human("e", raised=RuntimeError(command))):
        assert command not in text
        assert not any(ord(char) < 32 for char in text.replace("\n", ""))
        text.encode()


def test_a_value_is_one_word_so_that_it_cannot_pass_for_another_field() -> None:
    text = human("e.f", key='a state="b" c', other='"', empty="", plain="a=b/c", tab="a\tb", number=5)
    assert text.endswith(r' key="a state=\"b\" c" other="\"" empty="" plain=a=b/c tab="a\tb" number=5')


@pytest.mark.parametrize(
    ("name", "value", "secret"),
    [
        ("WEBHOOK_URL", "https://hooks.example.org/services/T0/s3cr3t", "services/T0/s3cr3t"),
        ("WEBHOOK_URL", "https://hooks.example.org/services/T0/s3cr3t", "https://hooks.example.org/services/T0/s3cr3t"),
        ("WEBHOOK_URL", "https://example.org/?key=s3cr3t", "?key=s3cr3t"),
        ("SENTRY_DSN", "https://s3cr3t@o1.example.org/5", "s3cr3t"),
        ("REDIS_TLS_URL", "rediss://:s3cr3t@host:6380", "s3cr3t"),
        ("CELERY_BROKER_URL", "amqp://me:s3cr3t@host//", "s3cr3t"),
        ("R2_ENDPOINT_URL", "https://me:s3cr3t@store.example.org", "s3cr3t"),
        ("DATABASE_URL", "postgres://me:s3cr3t@host/db", "s3cr3t"),
        ("HTTPS_PROXY", "http://s3cr3t@proxy:3128", "s3cr3t"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "api-key=s3cr3t,other=x", "s3cr3t"),
        ("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "authorization=Basic%20s3cr3t", "Basic s3cr3t"),
        ("AWS_CONTAINER_AUTHORIZATION_TOKEN", "s3cr3t", "s3cr3t"),
    ],
)
def test_every_secret_of_the_settings_is_hidden(name: str, value: str, secret: str) -> None:
    assert "s3cr3t" not in logs.redact(f"cannot reach {secret} now", logs.secrets_of({name: value}))


def test_users_and_places_are_not_hidden() -> None:
    environ = {"REDIS_URL": "redis://default@redis.example.org:6379/0", "ENVIRONMENT": "production", "HOME": "/home/me"}
    assert logs.secrets_of(environ) == ()
