from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest
from standardwebhooks import Webhook

from scoreline.storage.errors import InvalidRequest, InvalidSettings
from scoreline.tasks.job.documents import Status
from scoreline.tasks.webhooks.delivery import check_target, notification_of, sign
from scoreline.tasks.webhooks.settings import WebhookSettings

ALLOWED = ["https://hooks.example.org/scoreline", "http://10.0.0.7:8080/"]


@pytest.mark.parametrize(
    "url",
    [
        "https://hooks.example.org/scoreline",
        "https://hooks.example.org/scoreline/a?b=c",
        "http://10.0.0.7:8080/x",
        "https://HOOKS.example.org:443/scoreline",
    ],
)
def test_a_url_under_an_allowed_address_is_accepted(url: str) -> None:
    assert check_target(url, ALLOWED) == url


@pytest.mark.parametrize(
    "url",
    [
        "https://hooks.example.org/",
        "https://hooks.example.org/scoreline-of-others",
        "https://hooks.example.org/scoreline/../admin",
        "https://hooks.example.org/scoreline/%2e%2e/admin",
        "https://hooks.example.org.evil.example/scoreline",
        "https://hooks.example.org@evil.example/scoreline",
        "https://evil.example/?https://hooks.example.org/scoreline",
        "https://hooks.example.org:8443/scoreline",
        "http://hooks.example.org/scoreline",
        "http://169.254.169.254/latest/meta-data",
        "http://10.0.0.7/",
        "file:///etc/passwd",
        "https:///scoreline",
        "https://hooks.example.org\\@evil.example/scoreline",
        "https://hooks.example.org/scoreline\r\nx: y",
        "https://[::1/scoreline",
        "",
    ],
)
def test_a_url_under_no_allowed_address_is_refused(url: str) -> None:
    with pytest.raises(InvalidRequest, match=r"^webhook "):
        check_target(url, ALLOWED)


def test_a_refusal_shows_no_secret_of_the_url() -> None:
    with pytest.raises(InvalidRequest) as refused:
        check_target("https://user:hush@elsewhere.example/services?hush", ALLOWED)
    assert "hush" not in str(refused.value)


def test_a_refusal_names_the_path_and_the_allowed_addresses_but_not_the_default_webhook() -> None:
    with pytest.raises(InvalidRequest) as refused:
        check_target(
            "https://hooks.example.org/other/x", [*ALLOWED, "https://a.example/b?hush"], "https://c.example/hush"
        )
    assert str(refused.value) == (
        "webhook 'https://hooks.example.org/other/x' is not within ALLOWED_WEBHOOKS, which allows "
        "https://hooks.example.org/scoreline, http://10.0.0.7:8080/, https://a.example/b"
    )
    with pytest.raises(InvalidRequest, match="ALLOWED_WEBHOOKS, which is not set"):
        check_target("https://hooks.example.org/other/x", [])


@pytest.mark.parametrize("secret", ["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "a key as it is, of 32 characters"])
def test_another_library_accepts_the_signature(secret: str) -> None:
    now = datetime.now(UTC)
    event = notification_of(Status(job_id="night-1", state="partial", model="m@v", output="s3://b/é/"), 2, now)
    headers = {
        "webhook-id": event.id,
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": sign(secret, event.id, int(now.timestamp()), event.body),
    }
    receiver = Webhook(secret if secret.startswith("whsec_") else secret.encode())
    payload = receiver.verify(event.body.decode(), headers)
    assert (event.id, payload["type"], payload["data"]["output"]) == ("night-1.2", "job.partial", "s3://b/é/")
    with pytest.raises(Exception, match="No matching signature"):
        receiver.verify(json.dumps({**payload, "type": "job.succeeded"}), headers)


def test_every_wrong_webhook_setting_is_named_without_its_secret() -> None:
    with pytest.raises(InvalidSettings) as refused:
        WebhookSettings.from_env(
            {
                "WEBHOOK_URL": "ftp://hooks.example.org",
                "ALLOWED_WEBHOOKS": "https://ok.example, https://u:p@no.example",
                "WEBHOOK_SECRET": "whsec_hush!",
            }
        )
    message = str(refused.value)
    assert all(name in message for name in ("WEBHOOK_URL: ", "ALLOWED_WEBHOOKS: ", "WEBHOOK_SECRET is not base64"))
    assert "hush" not in message
    with pytest.raises(InvalidSettings, match="WEBHOOK_SECRET is shorter than 16 bytes"):
        WebhookSettings.from_env({"WEBHOOK_SECRET": "short"})
    settings = WebhookSettings.from_env(
        {"WEBHOOK_URL": "https://a.example/x", "WEBHOOK_SECRET": "a-secret-of-20-chars"}
    )
    assert settings.check("https://a.example/x/y") == "https://a.example/x/y"
    assert "a-secret" not in repr(settings)
