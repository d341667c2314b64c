"""The memory of a container is read from its control groups, version 1 or 2."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from scoreline.storage.container_memory import available_bytes, limit_bytes

MIB, GIB = 1 << 20, 1 << 30


@pytest.mark.parametrize(
    ("cgroup", "file", "text", "expected"),
    [
        ("0::/", "memory.max", "536870912\n", 512 * MIB),
        ("0::/app/dyno", "app/memory.max", "1073741824\n", GIB),
        ("0::/", "memory.max", "max\n", None),
        ("5:cpu:/\n4:memory:/lxc/dyno", "memory/lxc/dyno/memory.limit_in_bytes", "536870912\n", 512 * MIB),
        ("4:memory:/not/visible/in/here", "memory/memory.limit_in_bytes", "536870912\n", 512 * MIB),
        ("4:memory:/", "memory/memory.limit_in_bytes", "9223372036854771712\n", None),
        ("", "memory.max", "1\n", None),
    ],
)
def test_the_limit_of_the_control_group_is_found(
    tmp_path: Path, cgroup: str, file: str, text: str, expected: int | None
) -> None:
    machine = limit_bytes(tmp_path / "nothing")
    assert machine > 512 * MIB
    write(tmp_path / "proc/self/cgroup", cgroup)
    write(tmp_path / "sys/fs/cgroup" / file, text)
    assert limit_bytes(tmp_path) == min(expected or machine, machine)


def test_the_lowest_limit_of_nested_control_groups_counts(tmp_path: Path) -> None:
    write(tmp_path / "proc/self/cgroup", "0::/a/b")
    write(tmp_path / "sys/fs/cgroup/a/memory.max", str(600 * MIB))
    write(tmp_path / "sys/fs/cgroup/a/b/memory.max", str(700 * MIB))
    assert limit_bytes(tmp_path) == 600 * MIB


@pytest.mark.parametrize(
    ("cgroup", "folder", "files"),
    [
        ("0::/job", "job", {"memory.max": 900, "memory.current": 850, "memory.stat": "inactive_file"}),
        (
            "4:memory:/job",
            "memory/job",
            {"memory.limit_in_bytes": 900, "memory.usage_in_bytes": 850, "memory.stat": "total_inactive_file"},
        ),
    ],
)
def test_memory_that_only_caches_files_is_available(
    tmp_path: Path, cgroup: str, folder: str, files: dict[str, int | str]
) -> None:
    write(tmp_path / "proc/self/cgroup", cgroup)
    for name, value in files.items():
        text = str(value * MIB) if isinstance(value, int) else f"anon 1\n{value} {200 * MIB}\n"
        write(tmp_path / "sys/fs/cgroup" / folder / name, text)
    # Given a limit of 900 MiB, and 850 MiB in use, of which 200 MiB are cached files
    assert available_bytes(tmp_path) == 250 * MIB
    # When more memory is used than the limit, then 0 bytes are available
    (tmp_path / "sys/fs/cgroup" / folder / "memory.stat").write_text("")
    for name in ("memory.current", "memory.usage_in_bytes"):
        if name in files:
            write(tmp_path / "sys/fs/cgroup" / folder / name, str(901 * MIB))
    assert available_bytes(tmp_path) == 0


def test_the_memory_of_the_machine_is_available_where_there_is_no_limit(tmp_path: Path) -> None:
    write(tmp_path / "proc/self/cgroup", "0::/")
    write(tmp_path / "sys/fs/cgroup/memory.max", "max")
    assert 0 < available_bytes(tmp_path) <= psutil.virtual_memory().total


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
