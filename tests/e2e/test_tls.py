"""Redis over TLS, as managed services offer it: certificates are not verified, or verified with a CA bundle."""

from __future__ import annotations

import json
import socket
import ssl
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

import pandas as pd
import pytest
import trustme

from scoreline.storage.errors import InvalidSettings, LedgerUnavailable, QueueUnavailable
from scoreline.storage.models.manager import ModelStorageManager
from scoreline.tasks.client import Client
from scoreline.tasks.dispatch.settings import QueueSettings
from scoreline.worker.dev.stack import Stack, free_port
from scoreline.worker.doctor import examine
from tests.support.elsewhere import application
from tests.support.estimators import Paced
from tests.support.waiting import HANG_S
from tests.support.warm import run_scoreline


@dataclass
class TlsEnd:
    authority: trustme.CA
    port: int


@pytest.fixture
def end(stack: Stack, tmp_path: Path) -> Iterator[TlsEnd]:
    authority, certificate = trustme.CA(), tmp_path / "server.pem"
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(certificate))
    port, behind = free_port(), urlsplit(stack.environ["REDIS_URL"]).port
    guard = stack.run(
        [sys.executable, "-m", "tests.support.tls", str(port), str(behind), str(certificate)], tmp_path / "tls.log", {}
    )
    stack.wait("the end of TLS", lambda: listens(port), guard)
    yield TlsEnd(authority, port)
    stack.stop(guard)


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def environ(stack: Stack, end: TlsEnd) -> dict[str, str]:
    """Set the variables as Heroku does; no server listens at the address without TLS."""
    return stack.environ | {
        "REDIS_URL": "redis://:hush@127.0.0.1:9/7",
        "REDIS_TLS_URL": f"rediss://127.0.0.1:{end.port}/7",
    }


def test_broker_ledger_and_results_work_over_tls_with_a_self_signed_certificate(
    stack: Stack, environ: dict[str, str]
) -> None:
    models, client = ModelStorageManager.from_env(environ), Client.from_env(environ)
    models.publish("paced", Paced().fit(pd.DataFrame({"x": [0.0]})))
    uri = client.buckets.main.uri("tls/in.parquet")
    client.buckets.main.put("tls/in.parquet", pd.DataFrame({"x": [1.0, 2.0]}).to_parquet(index=False))
    guard = stack.start_worker(1, environ)
    try:
        # An application without Scoreline must configure the verification of the certificate itself
        url = environ["REDIS_TLS_URL"]
        unverified = {"ssl_cert_reqs": ssl.CERT_NONE}
        with application(url, url + "?ssl_cert_reqs=CERT_NONE", broker_use_ssl=unverified) as app:
            sent = app.send_task("scoreline.submit", kwargs={"model": "paced", "input": uri}, queue="scoreline")
            assert sent.get(timeout=HANG_S)["job_id"] == sent.id
            assert list(client.watch(sent.id, timeout_s=HANG_S))[-1].state == "succeeded"
            asked = app.send_task("scoreline.status", kwargs={"job_id": sent.id}, queue="scoreline.clock")
            assert asked.get(timeout=HANG_S) == replace(client.status(sent.id), submitter=None).to_dict()
        done = run_scoreline("status", sent.id, "--json", environ=environ | {"PATH": "/usr/bin:/bin"})
        assert json.loads(done.stdout)["rows"] == 2, done.stderr
    finally:
        stack.stop(guard)


def test_redis_ca_file_refuses_a_certificate_of_another_authority(
    environ: dict[str, str], end: TlsEnd, tmp_path: Path
) -> None:
    ours, theirs = tmp_path / "ours.pem", tmp_path / "theirs.pem"
    end.authority.cert_pem.write_to_path(str(ours))
    trustme.CA().cert_pem.write_to_path(str(theirs))
    good = Client.from_env(environ | {"REDIS_CA_FILE": str(ours)})
    good.ledger.ping()
    good.queue.ping()
    bad = Client.from_env(environ | {"REDIS_CA_FILE": str(theirs)})
    with pytest.raises(LedgerUnavailable, match="CERTIFICATE_VERIFY_FAILED"):
        bad.ledger.ping()
    with pytest.raises(QueueUnavailable, match="CERTIFICATE_VERIFY_FAILED"):
        bad.queue.ping()
    checked = run_scoreline("workers", environ=environ | {"REDIS_CA_FILE": str(theirs)})
    assert "CERTIFICATE_VERIFY_FAILED" in checked.stderr
    # the certificate is not signed by a public authority
    with pytest.raises(LedgerUnavailable, match="CERTIFICATE_VERIFY_FAILED"):
        Client.from_env(environ | {"REDIS_TLS_URL": environ["REDIS_TLS_URL"] + "?ssl_cert_reqs=required"}).ledger.ping()


def test_redis_ca_file_also_checks_the_name_of_the_server(environ: dict[str, str], end: TlsEnd, tmp_path: Path) -> None:
    ours = tmp_path / "ours.pem"
    end.authority.cert_pem.write_to_path(str(ours))
    elsewhere = environ | {"REDIS_TLS_URL": f"rediss://localhost:{end.port}/0", "REDIS_CA_FILE": str(ours)}
    with pytest.raises(LedgerUnavailable, match="CERTIFICATE_VERIFY_FAILED"):
        Client.from_env(elsewhere).ledger.ping()
    with pytest.raises(QueueUnavailable, match="CERTIFICATE_VERIFY_FAILED"):
        Client.from_env(elsewhere).queue.ping()


def test_doctor_says_whether_the_certificate_is_verified_and_against_which_authority(
    environ: dict[str, str], end: TlsEnd, tmp_path: Path
) -> None:
    ours, theirs = tmp_path / "ours.pem", tmp_path / "theirs.pem"
    end.authority.cert_pem.write_to_path(str(ours))
    trustme.CA().cert_pem.write_to_path(str(theirs))
    (unchecked,) = examine(environ, only=["redis"])
    (checked,) = examine(environ | {"REDIS_CA_FILE": str(ours)}, only=["redis"])
    (refused,) = examine(environ | {"REDIS_CA_FILE": str(theirs)}, only=["redis"])
    assert (unchecked.severity, checked.severity, refused.severity) == ("ok", "ok", "error")
    assert "TLS without verification (REDIS_CA_FILE is not set)" in unchecked.message
    assert ", TLS," in checked.message
    assert "REDIS_CA_FILE" in refused.remedy


@pytest.mark.parametrize(
    ("query", "checked"),
    [
        ("", False),
        ("?ssl_cert_reqs=none", False),
        ("?ssl_cert_reqs=CERT_NONE", False),
        ("?ssl_cert_reqs=CERT_REQUIRED", True),
        ("?ssl_cert_reqs=required&db=1", True),
    ],
)
def test_the_redis_url_may_say_whether_the_certificate_is_verified(query: str, checked: bool) -> None:
    settings = QueueSettings.from_env({"REDIS_URL": f"rediss://:hush@example.org:6380/0{query}"})
    assert settings.redis_tls["ssl_cert_reqs"] == (ssl.CERT_REQUIRED if checked else ssl.CERT_NONE)
    assert settings.redis_tls == settings.broker_tls
    assert "ssl" not in settings.redis_url
    assert settings.redis_url.endswith("/1" if "db=1" in query else "/0")


def test_a_wrong_certificate_option_or_file_is_named() -> None:
    with pytest.raises(InvalidSettings, match=r"ssl_cert_reqs='maybe'.*must be none or required"):
        QueueSettings.from_env({"REDIS_URL": "rediss://example.org/0?ssl_cert_reqs=maybe"})
    with pytest.raises(InvalidSettings, match=r"REDIS_CA_FILE='/nowhere.pem' is not a file"):
        QueueSettings.from_env({"REDIS_URL": "rediss://example.org/0", "REDIS_CA_FILE": "/nowhere.pem"})
