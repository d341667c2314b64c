"""Control commands, which run in the parent of a worker; whoever asks needs their names alone, hence the late imports.

::

    celery -A worker inspect models
    celery -A worker control evict_models
"""

from __future__ import annotations

from typing import Any

from celery.worker.control import control_command, inspect_command


@inspect_command()
def models(state: Any) -> dict[str, Any]:
    """Models that each process of the pool holds: name, version, bytes, hits, load seconds."""
    from worker import lifecycle

    return {str(pid): held for pid, held in lifecycle.models().items()}


@control_command()
def evict_models(state: Any) -> dict[str, str]:
    """Let every process of the pool forget its models; the next part loads again."""
    from worker import lifecycle

    return {"ok": f"evicting the models of {lifecycle.evict_models()} processes"}
