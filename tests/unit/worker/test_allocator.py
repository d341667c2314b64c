"""In a worker, Arrow, NumPy and all threads allocate memory from one heap."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

CODE = """
import ctypes, os, threading
from scoreline.worker import allocator
allocator.use_one_heap(os.environ)
import pyarrow
threads = [threading.Thread(target=lambda: bytearray(100_000)) for _ in range(4)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
print(pyarrow.default_memory_pool().backend_name, flush=True)
libc = ctypes.CDLL(None)
libc.fdopen.restype = ctypes.c_void_p
libc.malloc_info(0, ctypes.c_void_p(out := libc.fdopen(1, b"w")))
libc.fflush(ctypes.c_void_p(out))
"""


@pytest.mark.parametrize(
    ("asked", "pool", "one_heap"),
    [({}, "system", True), ({"ARROW_DEFAULT_MEMORY_POOL": "mimalloc", "MALLOC_ARENA_MAX": "4"}, "mimalloc", False)],
)
def test_arrow_and_all_threads_share_one_heap_unless_the_environment_says_otherwise(
    asked: dict[str, str], pool: str, one_heap: bool
) -> None:
    done = subprocess.run([sys.executable, "-c", CODE], env=asked, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[0] == pool
    heaps = re.findall(r"<heap nr=", done.stdout)
    assert (len(heaps) == 1) is one_heap, done.stdout
