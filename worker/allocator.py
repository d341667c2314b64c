"""Makes Arrow, NumPy and every thread of a worker allocate from one heap."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import MutableMapping

_M_ARENA_MAX = -8
"""The constant of this name in glibc's ``malloc.h``."""


def use_one_heap(environ: MutableMapping[str, str]) -> None:
    """Make Arrow use the C library's allocator, and glibc use a single arena. Call it before pyarrow is imported.

    Arrow's own allocator, mimalloc, keeps freed memory apart from the memory that glibc keeps for NumPy, and glibc has
    an arena for each thread. Memory that one batch frees in one arena cannot be used by the next batch in another. A
    process that scores millions of rows was measured to take 350 MB with separate heaps, and 282 MB with one heap,
    which also causes fewer page faults. ``ARROW_DEFAULT_MEMORY_POOL`` and ``MALLOC_ARENA_MAX`` take precedence if they
    are set.
    """
    environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
    if "MALLOC_ARENA_MAX" not in environ:
        with contextlib.suppress(OSError, AttributeError):  # not the GNU C library
            ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)
