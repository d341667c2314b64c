"""Copies the folder of a `DirectoryStore`, so that a module prepares objects once and each test changes its own."""

from __future__ import annotations

import os
import shutil
from pathlib import Path


def copy_objects(source: Path, target: Path) -> None:
    """Link all files of `source` below `target`.

    The ETag of an object consists of the inode of its file and other properties, and its metadata is found by the ETag,
    so a copy of the bytes would be another object. A store never changes a file: it puts another one in its place.
    """
    shutil.copytree(source, target, copy_function=os.link, dirs_exist_ok=True)
