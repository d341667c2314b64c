"""The embedded S3 server: moto's, which forgets everything at its end.

Moto keeps objects in temporary files and reads the whole object for every range that is asked for, so that a model of
300 MB in ranges of 4 MiB is read 75 times. Here objects stay in memory, and a range costs its own bytes.
"""

from __future__ import annotations

import io
import sys
from types import SimpleNamespace

import moto.s3.models
import moto.server


class _InMemory(io.BytesIO):
    """Stands in for the temporary file of an object; reading all of it copies nothing."""

    def __init__(self, max_size: int = 0) -> None:
        super().__init__()

    def read(self, size: int | None = -1, /) -> bytes:
        """Return the next `size` bytes, or what is left."""
        if self.tell() == 0 and (size is None or size < 0):
            return self.getvalue()
        return super().read(size)


def main() -> None:
    """Serve on the port that is the first argument, of 127.0.0.1."""
    vars(moto.s3.models)["tempfile"] = SimpleNamespace(SpooledTemporaryFile=_InMemory)
    moto.server.main(["-H", "127.0.0.1", "-p", sys.argv[1]])


if __name__ == "__main__":
    main()
