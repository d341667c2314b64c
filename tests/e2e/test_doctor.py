from __future__ import annotations

import json
from typing import Any

import pytest
from sklearn.linear_model import LinearRegression

from storage.models import signatures
from storage.models.manager import ModelStorageManager
from worker.dev.stack import Stack

CHECKS = ["settings", "redis", "bucket", "packages", "model keys", "preloaded models"]


def severities(done: Any) -> dict[str, str]:
    return {finding["check"]: finding["severity"] for finding in json.loads(done.stdout)}


def test_a_healthy_installation_has_one_warning_without_keys_and_none_with(stack: Stack, cli: Any) -> None:
    done = cli("doctor", "--json")
    assert done.returncode == 0, done.stderr
    assert severities(done) == dict.fromkeys(CHECKS, "ok") | {"model keys": "warning"}
    _, verifying = signatures.generate()
    assert set(severities(cli("doctor", "--json", MODEL_VERIFY_KEYS=verifying)).values()) == {"ok"}
    assert "MODEL_VERIFY_KEYS is not set" in " ".join(cli("doctor", COLUMNS="300").stdout.split())


@pytest.mark.parametrize(
    ("environ", "check"),
    [
        ({"ML_CLOUD_ONLY": "perhaps"}, "settings"),
        ({"PRELOAD_MODELS": "a@b@c"}, "settings"),
        ({"MODEL_SIGNING_KEY": "secret"}, "settings"),
        ({"REDIS_URL": "redis://127.0.0.1:9/0"}, "redis"),
        ({"R2_ENDPOINT_URL": "http://127.0.0.1:9"}, "bucket"),
        ({"R2_BUCKET": "no-such-bucket"}, "bucket"),
        ({"PRELOAD_MODELS": "nowhere@champion"}, "preloaded models"),
    ],
)
def test_what_is_wrong_is_an_error_with_a_remedy(cli: Any, environ: dict[str, str], check: str) -> None:
    done = cli("doctor", "--json", **environ)
    assert done.returncode == 1, done.stderr
    (found,) = [finding for finding in json.loads(done.stdout) if finding["check"] == check]
    assert (found["severity"], bool(found["remedy"])) == ("error", True)
    assert "secret" not in found["message"]


def test_preloaded_models_are_named_with_their_memory(cli: Any, models: ModelStorageManager) -> None:
    ref = models.publish("examined", LinearRegression().fit([[0.0], [1.0]], [0.0, 1.0])).ref
    done = cli("doctor", "--json", PRELOAD_MODELS=ref)
    assert json.loads(done.stdout)[-1]["message"] == "1 take 0 MiB"
