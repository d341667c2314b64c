"""Makes Arrow, NumPy and every thread of a worker allocate from one heap."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import MutableMapping

_M_ARENA_MAX = -8
"""The constant ``M_ARENA_MAX`` in glibc's ``malloc.h``."""


def use_one_heap(environ: MutableMapping[str, str]) -> None:
    """Make Arrow use the C library's allocator, and glibc a single arena. Call this before pyarrow is imported.

    By default, Arrow uses a heap of its own (mimalloc), and glibc uses one arena for each thread. If a batch frees
    memory in one arena, the next batch cannot use this memory in another arena. With separate heaps, a process that
    scored millions of rows took 350 MB. With one heap, the process took 282 MB and had fewer page faults. The
    environment variables ``ARROW_DEFAULT_MEMORY_POOL`` and ``MALLOC_ARENA_MAX`` take precedence.
    """
    environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
    if "MALLOC_ARENA_MAX" not in environ:
        with contextlib.suppress(OSError, AttributeError):  # the C library is not glibc
            ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)
