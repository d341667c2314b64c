"""Tries a job before it is submitted: what it would read, which model it would use, and its first results.

Models are loaded in a process of their own, which ends afterwards, so that the process of the pages stays small.
Without the packages of a worker, the request is checked and its objects are counted, and no row is scored.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from scoreline.storage.errors import InvalidRequest, ScorelineError
from scoreline.storage.objects.buckets import Buckets
from scoreline.storage.wording import plural
from scoreline.tasks.backlog.time_left import duration
from scoreline.tasks.client import Client, stand_in_client
from scoreline.tasks.job.submit_options import SubmitOptions
from scoreline.tasks.job.uris import literal_prefix, names, parse_uri
from scoreline.tasks.quality.checks.checks_of import check_text

_TIMEOUT_S = 120
_TURN_S = 5.0
"""Seconds that a trial waits for another one."""
_MOST_OBJECTS = 20_000
_one_at_a_time = threading.Semaphore(1)


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What a job would do."""

    facts: tuple[tuple[str, str], ...]
    columns: tuple[str, ...] = ()
    rows: tuple[tuple[Any, ...], ...] = ()
    """The first results."""
    notes: tuple[str, ...] = ()


def try_job(
    client: Client, environ: Mapping[str, str], model: str, inputs: Sequence[str], options: SubmitOptions
) -> Trial:
    """Return what a job would do.

    Raises
    ------
    InvalidRequest
        The job would be refused, or it would fail.
    ScorelineError
        A service does not answer.
    """
    spec = client.submission.spec(model, list(inputs), options)
    check_text(spec.checks)
    client.submission.check(spec, options.get("webhook"))
    pinned = client.registry.resolve(spec.model)
    if not _has_worker_packages():
        objects, size, whole = _count(client.buckets, inputs)
        if not objects:
            raise InvalidRequest(f"no object matches {', '.join(inputs)}")
        facts = (
            ("Model", pinned.ref),
            ("Input", f"{plural(objects, 'object')}{'' if whole else ' or more'}, {_size(size)}"),
            ("Output", spec.output),
        )
        note = "No row was scored, because the packages of ml-requirements.txt are not installed here."
        return Trial(facts=facts, notes=(note,))
    if stand_in_client() is not None:
        return _of(client.preflight(model, list(inputs), **options).to_dict())
    if not _one_at_a_time.acquire(timeout=_TURN_S):  # the threads of the process serve the pages, too
        raise InvalidRequest("another job is being tried out: try again in a minute")
    try:
        return _of(_in_process_of_its_own(environ, {"model": model, "inputs": list(inputs), "options": options}))
    finally:
        _one_at_a_time.release()


def _in_process_of_its_own(environ: Mapping[str, str], request: Mapping[str, Any]) -> Mapping[str, Any]:
    try:
        done = subprocess.run(
            [sys.executable, "-m", __name__],
            input=json.dumps(request),
            capture_output=True,
            text=True,
            env=dict(environ),
            timeout=_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise InvalidRequest(
            f"trying out the job took more than {_TIMEOUT_S} s: use `scoreline submit --dry-run` in a shell"
        ) from None
    try:
        answer = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        raise ScorelineError(f"trying out the job failed: {done.stderr.strip()[-500:]}") from None
    if "error" in answer:
        raise InvalidRequest(answer["error"])
    return cast("Mapping[str, Any]", answer["found"])


def _of(found: Mapping[str, Any]) -> Trial:
    sample = found["sample"]
    columns = tuple(sample[0]) if sample else ()
    expected = found.get("expected") or {}
    facts = [
        ("Model", found["model"]),
        ("Input", f"{plural(found['objects'], 'object')}, {_size(found['object_bytes'])}, {found['rows']:,} rows"),
        ("Parts", f"{found['parts']:,} of up to {found['largest_part_rows']:,} rows"),
        ("Features", _listed(found["features"])),
        ("Copied columns", _listed(found["kept"])),
        ("Unused columns", _listed(found["unused"])),
        ("Output", found["output"]),
    ]
    work_s = expected.get("work_s")
    if isinstance(work_s, int | float):
        facts.insert(3, ("Work", f"{duration(work_s)} of one process"))
    return Trial(
        facts=tuple(facts),
        columns=columns,
        rows=tuple(tuple(row.get(column) for column in columns) for row in sample),
        notes=tuple(found["warnings"]),
    )


def _listed(given: Iterable[str], most: int = 20) -> str:
    listed = list(given)
    more = f" and {len(listed) - most:,} more" if len(listed) > most else ""
    return ", ".join(listed[:most]) + more or "none"


def _size(size: int) -> str:
    return f"{size / (1 << 20):,.1f} MiB"


def _count(buckets: Buckets, inputs: Sequence[str]) -> tuple[int, int, bool]:
    """Return how many objects match the inputs, their size, and whether all of them were counted."""
    objects = size = 0
    for uri in inputs:
        bucket, pattern = parse_uri(uri)
        for info in buckets[bucket].list(literal_prefix(pattern)):
            if names(pattern, info.key):
                objects, size = objects + 1, size + info.size
                if objects == _MOST_OBJECTS:
                    return objects, size, False
    return objects, size, True


def _has_worker_packages() -> bool:
    return all(importlib.util.find_spec(name) is not None for name in ("pyarrow", "sklearn", "psutil"))


def main() -> None:
    """Try the job on standard input, and print what was found as JSON."""
    request = json.load(sys.stdin)
    try:
        found = Client.from_env().preflight(request["model"], request["inputs"], **request["options"])
        answer: dict[str, Any] = {"found": found.to_dict()}
    except ScorelineError as error:
        answer = {"error": str(error)}
    sys.stdout.write(f"\n{json.dumps(answer, default=str)}\n")


if __name__ == "__main__":
    main()
