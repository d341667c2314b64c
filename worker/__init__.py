"""The process: Celery app, model cache, control commands, command line."""

import os

# Read when pyarrow is imported. Arrow's own default, mimalloc, keeps what was freed apart from what glibc keeps for
# NumPy: a process that scores 10 million rows was measured at 335 MiB with it, and at 254 with one allocator for both.
os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
