"""The SeaweedFS that `scoreline dev` starts: where it listens, what it accepts, and what remains when it ends."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil

from scoreline.storage.objects.r2 import R2Store
from scoreline.storage.settings import R2Settings
from scoreline.worker.dev.stack import ROOT, SEAWEED, free_port, make_bucket
from tests.support.waiting import HANG_S, wait_until

CREDENTIALS = {"R2_BUCKET": "scoreline", "R2_ACCESS_KEY_ID": "mine", "R2_SECRET_ACCESS_KEY": "secret"}
FOREIGN = {"AWS_ACCESS_KEY_ID": "theirs", "AWS_SECRET_ACCESS_KEY": "theirs", "S3_BUCKET": "another-bucket"}


def sockets_of(weed: psutil.Process) -> list[Path]:
    """Return the sockets that SeaweedFS made outside of its folder."""
    paths = [Path(str(found.laddr)) for found in weed.net_connections("unix") if found.laddr]
    return [path for path in paths if path.is_absolute()]


@contextlib.contextmanager
def served(folder: Path) -> Iterator[tuple[psutil.Popen, R2Store]]:
    """Run a server on a free port, and kill its remaining processes at the end."""
    port = free_port()
    with (folder.parent / "s3.log").open("ab") as log:
        server = psutil.Popen(
            [sys.executable, "-m", SEAWEED, str(port), folder.name],
            cwd=folder.parent,
            env=os.environ | CREDENTIALS | FOREIGN | {"PYTHONPATH": str(ROOT)},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        wait_until(lambda: make_bucket(port, "scoreline"), "SeaweedFS", (folder.parent / "s3.log").read_text)
        settings = R2Settings(endpoint_url=f"http://127.0.0.1:{port}", access_key_id="mine", secret_access_key="secret")
        yield server, R2Store(settings, "scoreline")
    finally:
        left = [path for weed in server.children() for path in sockets_of(weed)] if server.is_running() else []
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        server.wait(HANG_S)
        for path in left:
            path.unlink(missing_ok=True)


def test_objects_outlive_the_server_and_nothing_else_does(tmp_path: Path) -> None:
    folder = tmp_path / "s3"
    # Given a SeaweedFS server that was killed right after it had acknowledged two writes
    with served(folder) as (_, store):
        small, large = store.put("a/small", b"1", metadata={"rows": "3"}), store.always_multipart().put("large", b"22")
    # When another server starts on the same folder
    with served(folder) as (server, store):
        # Then the new server has the same objects
        assert [store.head(info.key) for info in store.list("")] == [small, large]
        assert (store.get("a/small").data, store.get("large").data) == (b"1", b"22")
        # And it accepts connections from this machine only
        (weed,) = server.children()
        listening = [found for found in weed.net_connections("tcp") if found.status == psutil.CONN_LISTEN]
        assert {found.laddr.ip for found in listening} == {"127.0.0.1"}
        # And on SIGTERM, the server ends and removes the sockets outside of its folder
        assert (sockets := sockets_of(weed))
        server.terminate()
        assert server.wait(HANG_S) == 0
        assert not weed.is_running()
        assert [path for path in sockets if path.exists()] == []
