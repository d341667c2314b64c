"""Writes a local file that appears when it is complete."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterator
from pathlib import Path

from scoreline.storage.errors import InvalidRequest


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Provide the path of a temporary file, which becomes the file at the end of the block.

    If the block raises an error, a file of this name stays as it was. Raises `InvalidRequest` if there is no such
    folder.
    """
    if not path.parent.is_dir():
        raise InvalidRequest(f"{path.parent} is no folder: create it first")
    shortened = path.name[:50]  # of up to four bytes each: a name may have 255 bytes
    temporary = path.with_name(f".{shortened}.{secrets.token_hex(4)}.part")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
