"""The embedded S3 server: moto, behind a layer that is as strict as R2. It keeps everything in memory.

Moto itself keeps objects in temporary files, and reads the whole object for every ranged request. A model of 300 MB,
which is requested in ranges of 4 MiB, would be read 75 times. Here a ranged request reads only its own bytes. Moto's
usual dispatcher looks for all of its services in the file system at each request, which takes half of the request's
time. Only S3 is served here.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable
from types import SimpleNamespace

import moto.s3.models
from moto.moto_server.werkzeug_app import MotoRequestHandler, create_backend_app
from werkzeug.serving import run_simple

from scoreline.worker.dev.strict import App, StrictR2


class _InMemory(io.BytesIO):
    """Replaces the temporary file of an object. Reading all of it copies nothing."""

    def __init__(self, max_size: int = 0) -> None:
        super().__init__()

    def read(self, size: int | None = -1, /) -> bytes:
        """Return the next `size` bytes, or all remaining ones."""
        if self.tell() == 0 and (size is None or size < 0):
            return self.getvalue()
        return super().read(size)


def serve(port: int, wrap: Callable[[App], App] = StrictR2) -> None:
    """Serve on a port of 127.0.0.1 until the process ends. `wrap` returns the layer around moto."""
    vars(moto.s3.models)["tempfile"] = SimpleNamespace(SpooledTemporaryFile=_InMemory)
    os.environ["MOTO_PORT"] = str(port)
    app = create_backend_app("s3")
    run_simple("127.0.0.1", port, wrap(app), threaded=True, request_handler=MotoRequestHandler)


def main() -> None:
    """Serve on the port that the first argument names."""
    serve(int(sys.argv[1]))


if __name__ == "__main__":
    main()
