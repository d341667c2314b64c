"""The embedded S3 server: moto's behind a layer that is as strict as R2; it forgets everything at its end.

Moto keeps objects in temporary files and reads the whole object for every range that is asked for, so that a model of
300 MB in ranges of 4 MiB is read 75 times. Here objects stay in memory, and a range costs its own bytes.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable
from types import SimpleNamespace

import moto.s3.models
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from werkzeug.serving import run_simple

from scoreline.worker.dev.strict import App, StrictR2


class _InMemory(io.BytesIO):
    """Stands in for the temporary file of an object; reading all of it copies nothing."""

    def __init__(self, max_size: int = 0) -> None:
        super().__init__()

    def read(self, size: int | None = -1, /) -> bytes:
        """Return the next `size` bytes, or what is left."""
        if self.tell() == 0 and (size is None or size < 0):
            return self.getvalue()
        return super().read(size)


def serve(port: int, wrap: Callable[[App], App] = StrictR2) -> None:
    """Serve on a port of 127.0.0.1 until the process ends; `wrap` puts a layer around moto."""
    vars(moto.s3.models)["tempfile"] = SimpleNamespace(SpooledTemporaryFile=_InMemory)
    os.environ["MOTO_PORT"] = str(port)
    app = DomainDispatcherApplication(create_backend_app)
    run_simple("127.0.0.1", port, wrap(app), threaded=True, request_handler=MotoRequestHandler)


def main() -> None:
    """Serve on the port that is the first argument."""
    serve(int(sys.argv[1]))


if __name__ == "__main__":
    main()
