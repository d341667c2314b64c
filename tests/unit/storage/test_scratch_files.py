"""Files for data that would take too much memory."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from scoreline.storage import scratch_files


def mounts(folder: Path, kind: str) -> Path:
    """Write a list of mounts on which the device of the folder has a file system of this kind."""
    device = folder.stat().st_dev
    name = f"{os.major(device)}:{os.minor(device)}"
    file = folder / "mountinfo"
    file.write_text(
        f"21 1 0:99999 / / rw,relatime shared:1 - tmpfs other rw\n22 1 {name} / /t rw,relatime - {kind} /dev/x rw\n"
    )
    return file


def test_a_file_may_take_half_of_the_free_space_of_a_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(scratch_files, "MOST_BYTES", 1 << 60)
    monkeypatch.setattr(scratch_files, "_MOUNTS", mounts(tmp_path, "ext4"))
    free = os.statvfs(tmp_path)
    assert scratch_files.room() == pytest.approx(free.f_bavail * free.f_frsize / 2, rel=0.05)
    monkeypatch.setattr(scratch_files, "MOST_BYTES", 1_000)
    assert scratch_files.room() == 1_000
    monkeypatch.setattr(scratch_files, "_MOUNTS", tmp_path / "none")  # as on other systems than Linux
    assert scratch_files.room() == 1_000


@pytest.mark.parametrize("kind", ["tmpfs", "ramfs"])
def test_a_folder_in_memory_has_no_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(scratch_files, "_MOUNTS", mounts(tmp_path, kind))
    assert scratch_files.room() == 0


def test_a_missing_folder_has_no_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
    assert scratch_files.room() == 0
