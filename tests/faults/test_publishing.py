"""Publishing a large model is stopped in the middle: no version appears, and no upload is left open by SIGTERM."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LinearRegression

from scoreline.storage import keys
from scoreline.tasks.publishing import ModelStorageManager
from tests.support.rig import Rig
from tests.support.waiting import HANG_S


def _started(command: list[str], environ: dict[str, str]) -> subprocess.Popen[bytes]:
    """Start a command that SIGINT interrupts, even if the tests run in the background, where SIGINT is ignored."""

    def heed_interrupts() -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    return subprocess.Popen(
        command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=heed_interrupts
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_publishing_that_is_stopped_leaves_no_version(rig: Rig, tmp_path: Path, number: signal.Signals) -> None:
    # Given a model of 40 MB, the upload of whose second part hangs
    model = LinearRegression().fit([[0.0], [1.0]], [0.0, 2.0])
    model.payload = np.random.default_rng(0).bytes(40_000_000)
    joblib.dump(model, tmp_path / "m.joblib")
    rig.chaos(hold="partNumber=2")
    command = [sys.executable, "-m", "scoreline", "models", "publish", "m", "--model", str(tmp_path / "m.joblib")]
    environ = os.environ | rig.stack.environ | {"R2_TIMEOUT_SECONDS": "1200"}
    with _started(command, environ) as publishing:
        rig.wait(lambda: rig.held() and rig.open_uploads(), "an upload under way")
        # When the command is stopped
        publishing.send_signal(number)
        if number != signal.SIGKILL:
            rig.wait(lambda: rig.open_uploads() == [], "the end of the upload")
        rig.chaos()
        publishing.communicate(timeout=HANG_S)
    # Then there is no object of the model, and the exit code says how the command ended
    assert publishing.returncode == {signal.SIGTERM: 143, signal.SIGINT: 130, signal.SIGKILL: -9}[number]
    assert list(rig.store.list(keys.model_folder("m"))) == []
    # And the model can be published again
    models = ModelStorageManager.from_env(rig.environ)
    with (tmp_path / "m.joblib").open("rb") as file:
        assert models.load(models.publish("m", joblib.load(file)).ref).models


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize("held", ["baseline.json.gz", "data.txt", "manifest.json"])
def test_no_version_lacks_its_attachments_wherever_publishing_is_stopped(
    rig: Rig, tmp_path: Path, held: str, number: signal.Signals
) -> None:
    # Given a publishing with a baseline, which hangs while it stores an object of the version
    rows = pd.DataFrame({"x": np.arange(50.0), "y": np.arange(50.0) * 2})
    joblib.dump(LinearRegression().fit(rows[["x"]], rows["y"]), tmp_path / "m.joblib")
    rows.to_csv(tmp_path / "train.csv", index=False)
    rig.chaos(hold=f"{held}? PUT")
    command = [sys.executable, "-m", "scoreline", "models", "publish", "m", "--model", str(tmp_path / "m.joblib")]
    command += ["--baseline", str(tmp_path / "train.csv"), "--target", "y"]
    environ = os.environ | rig.stack.environ | {"R2_TIMEOUT_SECONDS": "1200"}
    with _started(command, environ) as publishing:
        rig.wait(rig.held, "the request that is held")
        # When the command is stopped there, and the request is carried out after all
        publishing.send_signal(number)
        publishing.communicate(timeout=HANG_S)
        rig.chaos()
        rig.wait(lambda: not rig.held(), "the end of the request")
    # Then there is no version, or a complete one
    models = ModelStorageManager.from_env(rig.environ)
    versions = models.registry.versions("m")
    assert len(versions) <= (held == "manifest.json")
    for version in versions:
        manifest, _ = models.verify(f"m@{version}")
        assert models.registry.attachment(manifest, "baseline.json.gz")
    # And the model can be published again
    again = ModelStorageManager.from_env(rig.environ).publish(
        "m", joblib.load(tmp_path / "m.joblib"), baseline=tmp_path / "train.csv"
    )
    assert models.verify(again.ref)[0] == again
