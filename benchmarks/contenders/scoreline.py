"""Scoreline on a directory store: two worker processes, one job per model, timed from submit until the outcome.

The output also has ``job_seconds``, the duration that the job reports; ``server_cpu``, the CPU seconds that the S3
server took during the job; and ``stages``, the seconds of all parts, by timing.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.contenders.protocol import Prepare, Work, run
from benchmarks.stand import Stand
from benchmarks.work import PROCESSES, columns
from scoreline.storage import keys
from scoreline.tasks.job.uris import parse_uri


@contextlib.contextmanager
def start(folder: Path, *, directory: bool = True) -> Iterator[Prepare]:
    """Start Valkey, the store and a worker."""
    with Stand(folder / "stand", processes=PROCESSES, directory=directory) as stand:

        def prepare(name: str) -> Work:
            stand.get_ready(folder, name)

            def work(files: list[Path], out: Path) -> dict[str, object]:
                del files
                stand.rest()
                before, begun = stand.server_cpu(), time.perf_counter()
                done = stand.score(name, f"in/{name}/", features=columns(name)[1:])
                took = time.perf_counter() - begun
                used = stand.server_cpu() - before
                place = parse_uri(done.output)[1]
                for info in stand.store.list(f"{place}part-"):
                    (out / Path(info.key).name).write_bytes(stand.store.get(info.key).data)
                manifest = json.loads(stand.store.get(keys.results_manifest(place)).data)
                stages = manifest["seconds"] | {"parts": len(manifest["parts"])}
                return {"work": took, "job_seconds": done.seconds, "server_cpu": used, "stages": stages}

            return work

        yield prepare


if __name__ == "__main__":
    run("scoreline", start, rehearsed=True)
