"""Check that models are only in the cloud. Run it on your own bucket: ``python tests/test_cloud_only_mode.py``.

Publishes and loads a scaler, a label encoder and two models, and checks that no file is written. It uses the configured
R2, or else an embedded S3 server. Pytest also collects this file.
"""

from __future__ import annotations

import os
import secrets
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import LabelEncoder, StandardScaler

from scoreline.storage.models.manager import ModelStorageManager

WRITE_FLAGS = os.O_WRONLY | os.O_RDWR | os.O_CREAT


class FilesWritten:
    """Collects every file that this process opens for writing, from Python's audit events."""

    def __init__(self) -> None:
        self.paths: list[str] = []
        self.watching = False
        sys.addaudithook(self._hear)

    def _hear(self, event: str, details: tuple[Any, ...]) -> None:
        if self.watching and event == "open":
            path, mode, flags = details
            if isinstance(path, int):
                return  # a pipe, or the descriptor of a file whose opening was already recorded
            if (isinstance(mode, str) and set(mode) & set("wax+")) or (mode is None and flags & WRITE_FLAGS):
                self.paths.append(str(path))


def check(environ: dict[str, str]) -> bool:
    """Publish and load, print the result of each check, and return whether all checks pass."""
    manager = ModelStorageManager.from_env({**environ, "ML_CLOUD_ONLY": "true"})
    print(f"cloud only: {manager.cloud_only}, R2: {manager.use_r2}, bucket: {manager.bucket_name}")
    x, y = [[0.0, 1.0], [1.0, 0.0], [2.0, 5.0], [3.0, 1.0]], ["no", "yes", "no", "yes"]
    encoder = LabelEncoder().fit(y)
    scaler = StandardScaler().fit(x)
    objects = {
        "scaler": scaler,
        "label_encoder": encoder,
        "forest": RandomForestClassifier(5, random_state=0).fit(scaler.transform(x), encoder.transform(y)),
        "logistic": LogisticRegression().fit(scaler.transform(x), encoder.transform(y)),
    }
    written = FilesWritten()
    written.watching = True
    prefix = f"checks/cloud-only/{secrets.token_hex(4)}"
    good = manager.cloud_only and manager.use_r2
    try:
        for name, obj in objects.items():
            sha256 = manager.save(f"{prefix}/{name}.joblib", obj)
            loaded = manager.load_object(f"{prefix}/{name}.joblib", sha256=sha256)
            same = type(loaded) is type(obj) and loaded is not obj
            good = good and same and not written.paths
            print(f"{name}: {'from the cloud' if same else 'WRONG'}, {len(written.paths)} local files written")
        bundle_name = f"cloud-only-check-{secrets.token_hex(4)}"
        models = {"forest": objects["forest"], "logistic": objects["logistic"]}
        manifest = manager.publish(bundle_name, models, scaler, encoder)
        bundle = manager.load(manifest.ref)
        whole = set(bundle.models) == set(models) and bool(bundle.preprocessors)
        good = good and whole and not written.paths
        print(f"bundle {manifest.ref}: {'whole' if whole else 'WRONG'}, {len(written.paths)} local files written")
    finally:
        written.watching = False
    for path in written.paths:
        print(f"  written: {path}")
    return good


def test_models_come_from_the_cloud_and_no_file_is_written(stack: Any) -> None:
    assert check(stack.environ)


def test_the_watch_sees_a_file_that_is_written(tmp_path: Path) -> None:
    written = FilesWritten()
    written.watching = True
    (tmp_path / "model.joblib").write_bytes(b"")
    written.watching = False
    assert written.paths == [str(tmp_path / "model.joblib")]


def main() -> int:
    """Check the configured R2, or an embedded S3 server."""
    with ExitStack() as services:
        environ = dict(os.environ)
        if not (environ.get("R2_ENDPOINT_URL") or environ.get("R2_ACCOUNT_ID")):
            from scoreline.worker.dev.stack import Stack

            folder = Path(services.enter_context(tempfile.TemporaryDirectory()))
            environ |= services.enter_context(Stack(folder)).environ
            print("no R2 is configured: using an embedded S3 server")
        good = check(environ)
    print("ok" if good else "FAILED")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
