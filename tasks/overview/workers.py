"""Asks the workers what they do and which models they have in memory."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from scoreline.tasks.dispatch.messages import MessageQueue
from scoreline.tasks.dispatch.queue_names import QueueNames

_WAIT_S = 1.0
_QUESTIONS = ("gauges", "jobs", "models")


@dataclass(frozen=True, kw_only=True)
class HeldModel:
    """A model in the memory of a process."""

    name: str
    bytes: int


@dataclass(frozen=True, kw_only=True)
class Process:
    """A process of a worker."""

    pid: int
    job_id: str = ""
    step: str = ""
    """What the process does; empty if it waits for work."""
    part: int | None = None
    seconds: float | None = None
    attempt: int = 1
    models: tuple[HeldModel, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Worker:
    """A worker that answers."""

    name: str
    processes: int
    """Number of its processes."""
    busy: tuple[Process, ...]
    """The processes that do something or have a model in memory."""
    cache_bytes: int
    versions: Mapping[str, str]
    """Version of Scoreline, Python and each library that models depend on; empty for workers of earlier releases."""


def ask_workers(queue: MessageQueue, names: QueueNames) -> tuple[Worker, ...]:
    """Return the workers of a deployment that answer within a second; raises `QueueUnavailable`."""
    with ThreadPoolExecutor(len(_QUESTIONS), thread_name_prefix="workers") as pool:
        replies = pool.map(lambda question: queue.ask_workers(question, _WAIT_S), _QUESTIONS)
        answers = dict(zip(_QUESTIONS, replies, strict=True))
    found = []
    for name, gauges in sorted(names.own_gauges(answers["gauges"]).items()):
        held = answers["models"].get(name)
        busy = answers["jobs"].get(name)
        found.append(
            Worker(
                name=name,
                processes=_number(gauges.get("processes")),
                busy=_processes(busy if isinstance(busy, list) else [], held if isinstance(held, Mapping) else {}),
                cache_bytes=_number(gauges.get("cache_bytes")),
                versions=_versions(gauges.get("versions")),
            )
        )
    return tuple(found)


def _processes(busy: list[Any], held: Mapping[str, Any]) -> tuple[Process, ...]:
    tasks = {_number(row.get("pid")): row for row in busy if isinstance(row, Mapping)}
    pids = sorted({*tasks, *(int(pid) for pid in held if str(pid).isdigit())})
    found = []
    for pid in pids:
        row, models = tasks.get(pid, {}), held.get(str(pid), ())
        seconds = row.get("seconds")
        found.append(
            Process(
                pid=pid,
                job_id=str(row.get("job_id") or ""),
                step=str(row.get("step") or ""),
                part=row["part"] if isinstance(row.get("part"), int) else None,
                seconds=float(seconds) if isinstance(seconds, int | float) else None,
                attempt=_number(row.get("try")) or 1,
                models=tuple(_model(model) for model in models if isinstance(model, Mapping)),
            )
        )
    return tuple(found)


def _model(raw: Mapping[str, Any]) -> HeldModel:
    ref = "@".join(filter(None, (str(raw.get("model") or ""), str(raw.get("version") or ""))))
    return HeldModel(name=ref, bytes=_number(raw.get("bytes")))


def _versions(raw: Any) -> dict[str, str]:
    return {str(name): str(version) for name, version in raw.items()} if isinstance(raw, Mapping) else {}


def _number(value: Any) -> int:
    return value if isinstance(value, int) else 0
