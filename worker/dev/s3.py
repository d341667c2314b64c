"""The embedded S3 server in memory: moto, behind a layer that is as strict as R2.

By default, moto stores objects in temporary files, and reads the whole object for every ranged request. If a model of
300 MB is requested in ranges of 4 MiB, moto reads the model 75 times. With this module, a ranged request reads only the
requested bytes. Moto's own server also looks for all of its services in the file system at each request. This search
takes half of the time of a request. This module serves S3 alone, without such a search.
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
    """Replaces the temporary file of an object. Reading the whole object copies no bytes."""

    def __init__(self, max_size: int = 0) -> None:
        super().__init__()

    def read(self, size: int | None = -1, /) -> bytes:
        """Return the next `size` bytes, or all remaining bytes."""
        if self.tell() == 0 and (size is None or size < 0):
            return self.getvalue()
        return super().read(size)


def serve(port: int, wrap: Callable[[App], App] = StrictR2) -> None:
    """Serve on a port of 127.0.0.1 until the process ends. The function `wrap` adds a layer around moto."""
    vars(moto.s3.models)["tempfile"] = SimpleNamespace(SpooledTemporaryFile=_InMemory)
    os.environ["MOTO_PORT"] = str(port)
    app = create_backend_app("s3")
    run_simple("127.0.0.1", port, wrap(app), threaded=True, request_handler=MotoRequestHandler)


def main() -> None:
    """Serve on the port in the first command-line argument."""
    serve(int(sys.argv[1]))


if __name__ == "__main__":
    main()
