"""The embedded S3 server on disk: SeaweedFS, which also checks the signatures of requests.

``python -m scoreline.worker.dev.seaweed PORT FOLDER`` serves the objects in FOLDER on a port of 127.0.0.1. The
environment variable ``R2_BUCKET`` names the bucket that may be created. ``R2_ACCESS_KEY_ID`` and
``R2_SECRET_ACCESS_KEY`` are the accepted credentials. A later server with the same FOLDER serves the same objects.

docs/explanation/embedded-s3-servers.md compares this server with the server in the module `s3`.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import sysconfig
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_GRPC_OFFSET = 10_000
"""Difference between the HTTP port and the gRPC port of SeaweedFS's administration."""
_MEMORY = "512MiB"
"""The soft memory limit of Go's garbage collector. This limit halves the memory, and takes a seventh more CPU time."""
_FOREIGN = ("AWS_", "S3_", "WEED_")
"""Prefixes of environment variables that would change the server, for example its accepted credentials."""


def serve(port: int, folder: Path) -> int:
    """Serve until SIGTERM, and return the exit code.

    At SIGTERM, the server is killed, because it would otherwise wait half a minute for idle connections. No data is
    lost, because every acknowledged write is in the server's files.
    """
    folder = folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    ports = _free_ports()
    (folder / "credentials.json").write_text(json.dumps(_identities(os.environ)))
    environ = {name: value for name, value in os.environ.items() if not name.startswith(_FOREIGN)}
    environ.setdefault("GOMEMLIMIT", _MEMORY)
    server = subprocess.Popen(_command(port, folder, ports), cwd=folder, env=environ)

    def kill(*_: Any) -> None:
        server.kill()

    signal.signal(signal.SIGTERM, kill)
    try:
        return max(0, server.wait())
    finally:
        server.kill()
        for name, number in ports.items():  # SeaweedFS may leave these socket files behind
            Path(f"/tmp/seaweedfs-{name.partition('.')[0]}-grpc-{number}.sock").unlink(missing_ok=True)


def _command(port: int, folder: Path, ports: Mapping[str, int]) -> list[str]:
    """Return the command that serves on `port`. The components of the server use `ports` among themselves."""
    return [
        str(Path(sysconfig.get_path("scripts")) / "weed"),
        "-logtostderr",
        "mini",  # `weed server` does the same, but waits three seconds before it starts
        f"-dir={folder}",
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
        f"-s3.port={port}",
        *(f"-{name}={number}" for name, number in ports.items()),
        f"-s3.config={folder / 'credentials.json'}",
        "-s3.localSocket=s3.sock",  # relative, because the path of a socket may have only 107 bytes
        "-filer.localSocket=filer.sock",
        "-s3.autoCreateBucket=false",  # as in R2, a missing bucket is an error
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        "-webdav=false",
        "-admin.ui=false",
        "-master.telemetry=false",  # by default, SeaweedFS reports statistics to its authors
    ]


def _free_ports() -> dict[str, int]:
    """Return a free port of 127.0.0.1 for each component of the server, by the name of its option."""
    ports: dict[str, int] = {}
    with contextlib.ExitStack() as held:  # keeps all ports bound until the last one is found, so that they differ

        def hold(port: int = 0) -> int:
            probe = held.enter_context(socket.socket())
            probe.bind(("127.0.0.1", port))
            return int(probe.getsockname()[1])

        for part in ("master", "volume", "filer"):
            ports |= {f"{part}.port": hold(), f"{part}.port.grpc": hold()}
        ports["s3.port.grpc"] = hold()
        while "admin.port.grpc" not in ports:
            port = hold()
            with contextlib.suppress(OSError, OverflowError):
                ports |= {"admin.port.grpc": hold(port + _GRPC_OFFSET), "admin.port": port}
    return ports


def _identities(environ: Mapping[str, str]) -> dict[str, Any]:
    """Return the accepted credentials. A request without credentials may create the bucket, as `stack` does."""
    key, secret = environ["R2_ACCESS_KEY_ID"], environ["R2_SECRET_ACCESS_KEY"]
    return {
        "identities": [
            {
                "name": "client",
                "credentials": [{"accessKey": key, "secretKey": secret}],
                "actions": ["Admin"],
            },
            {"name": "anonymous", "actions": [f"Admin:{environ['R2_BUCKET']}"]},
        ]
    }


def main() -> int:
    """Serve on the port in the first command-line argument, with the folder in the second argument."""
    return serve(int(sys.argv[1]), Path(sys.argv[2]))


if __name__ == "__main__":
    sys.exit(main())
