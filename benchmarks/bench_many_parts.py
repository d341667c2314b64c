"""Measure a job of a million parts: how it is planned, dispatched, recovered, finalized and looked at.

Planner, reconciler, finalizer and commands are the real code, each in a fresh process. Only scoring is left out: a
store that needs no memory answers as if it contained the results of the parts, with the receipts that workers would
write. A tenth of the parts has a rejected row. A second, smaller job is scored for real, and its Redis commands are
counted.

Claims: each process takes at most 400 MiB of memory, and a part takes at most 20 Redis commands.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import resource
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import redis
from sklearn.linear_model import LinearRegression

from benchmarks.counted import PAGE_KEYS
from benchmarks.measure import in_fresh_process, positive
from scoreline.storage import keys
from scoreline.storage.errors import ObjectNotFound, StepUnfinished
from scoreline.storage.hashing import sha256_hex
from scoreline.storage.ledger.redis_ledger import RedisLedger
from scoreline.storage.models.manager import ModelStorageManager
from scoreline.storage.objects.base import ObjectInfo
from scoreline.storage.objects.buckets import Buckets
from scoreline.storage.objects.directory import DirectoryStore
from scoreline.tasks.client import Client
from scoreline.tasks.dispatch.memory_queue import MemoryQueue
from scoreline.tasks.dispatch.reconcile import reconcile_job
from scoreline.tasks.job.documents import read_outcome
from scoreline.tasks.job.plan_file import PlanFile
from scoreline.tasks.job.receipt import Receipt
from scoreline.tasks.steps.eager import LoadedModels
from scoreline.tasks.steps.engine import Engine
from scoreline.tasks.steps.finalize import finalize
from scoreline.tasks.steps.planner import plan_job
from scoreline.worker.dev.stack import Stack

PARTS, SCORED_PARTS, GROUPS = 1_000_000, 2_000, 100
"""Number of parts of the large job, number of parts of the job that is scored, and number of row groups in each object
of the input."""
LIMIT_MIB, LIMIT_COMMANDS = 400.0, 20.0
JOB, SMALL = "many", "scored"
FOLDER = f"out/job_id={JOB}/"
REJECTED_EVERY = 10
OWN_COMMANDS = {"info", "config", "ping", "client", "hello", "script"}

requests: Counter[str] = Counter()


def count_requests() -> None:
    """Count the requests of this process to the store. A listing of 2,500 keys counts as three."""
    for name in ("get", "head", "put", "delete"):
        setattr(DirectoryStore, name, _counted(name, getattr(DirectoryStore, name)))
    real = DirectoryStore.list

    def listed(self: DirectoryStore, prefix: str) -> Iterator[ObjectInfo]:
        number = -1
        for number, info in enumerate(real(self, prefix)):
            requests["list"] += number % PAGE_KEYS == 0
            yield info
        requests["list"] += number < 0

    DirectoryStore.list = listed  # type: ignore[method-assign]


def _counted(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
    def call(self: DirectoryStore, *arguments: Any, **options: Any) -> Any:
        requests[name] += 1
        return method(self, *arguments, **options)

    return call


def answer_for_results(parts: int, plan_sha256: str) -> None:
    """Make the store answer as if all parts of the large job were written, without storing anything."""
    head, real = DirectoryStore.head, DirectoryStore.list

    def receipt(number: int, *, results: bool) -> dict[str, str]:
        rejected = int(number % REJECTED_EVERY == 0)
        return Receipt(
            plan_sha256=plan_sha256,
            part=number,
            rows=1 - rejected,
            rejected=rejected,
            sha256=sha256_hex(b"%d" % number) if results else _rejects_digest(number),
            rejects_sha256=_rejects_digest(number) if results and rejected else "",
            seconds="fetch=0.012 decode=0.003 predict=0.041 encode=0.002 write=0.085" if results else "",
        ).to_metadata()

    def info(number: int, *, results: bool, metadata: bool) -> ObjectInfo:
        key = keys.result_part(FOLDER, number) if results else _rejects_key(number)
        found = receipt(number, results=results) if metadata else {}
        return ObjectInfo(key=key, size=900 + number % 97, etag=sha256_hex(key.encode())[:32], metadata=found)

    def answered(self: DirectoryStore, key: str) -> ObjectInfo:
        if not key.startswith(FOLDER) or (number := keys.part_number(key)) is None:
            return head(self, key)
        results = key == keys.result_part(FOLDER, number)
        if not results and (number % REJECTED_EVERY or key != _rejects_key(number)):
            raise ObjectNotFound(f"no object {key}")
        return info(number, results=results, metadata=True)

    def listed(self: DirectoryStore, prefix: str) -> Iterator[ObjectInfo]:
        if prefix == f"{FOLDER}part-":
            yield from (info(number, results=True, metadata=False) for number in _in_order_of_names(parts))
        elif prefix == keys.rejected_folder(FOLDER):
            numbers = (number for number in _in_order_of_names(parts) if number % REJECTED_EVERY == 0)
            yield from (info(number, results=False, metadata=False) for number in numbers)
        else:
            yield from real(self, prefix)

    DirectoryStore.head = answered  # type: ignore[method-assign]
    DirectoryStore.list = listed  # type: ignore[method-assign]


def _rejects_digest(number: int) -> str:
    return sha256_hex(b"rejected %d" % number)


def _rejects_key(number: int) -> str:
    return keys.rejected_part(FOLDER, number, _rejects_digest(number))


def _in_order_of_names(parts: int) -> Iterator[int]:
    """Yield the numbers of up to a million parts as a store lists their names: 10000, 100000 to 100009, 10001."""
    for number in range(min(parts, 100_000)):
        yield number
        if number >= 10_000:
            yield from range(10 * number, min(10 * number + 10, parts))


def engine_of(environ: dict[str, str]) -> Engine:
    """Return an engine as a worker process has it, without a queue."""
    buckets = Buckets.from_env(environ)
    ledger = RedisLedger(environ["REDIS_URL"], namespace=buckets.main.bucket)
    models = LoadedModels(models=ModelStorageManager.from_env(environ), counters=ledger.counters)
    return Engine(buckets=buckets, ledger=ledger, send=lambda *_, **__: None, models=models)


def do_stage(stage: str, environ: dict[str, str]) -> dict[str, Any]:
    """Do a stage in this process, and return its figures."""
    engine = engine_of(environ)
    said: Any = None
    if stage not in ("plan", "score"):
        plan = PlanFile(engine.buckets.main, JOB)
        answer_for_results(plan.parts, plan.sha256)
    count_requests()
    begun, cpu = time.perf_counter(), time.process_time()
    client = Client(engine.buckets, MemoryQueue(lambda _: None, at_once=False), engine.ledger)
    match stage:
        case "plan":
            plan_job(engine, JOB)
        case "recover":
            engine.ledger.forget(JOB)
            said = reconcile_job(engine, JOB)
        case "finalize":
            said = _finalize(engine)
        case "status":
            said = client.status(JOB).to_dict()
        case "jobs":
            said = [found.job_id for found in client.jobs(limit=20)]
        case "read":
            said = _read_manifest(engine)
        case _:
            raise ValueError(stage)
    return {
        "seconds": time.perf_counter() - begun,
        "cpu": time.process_time() - cpu,
        "mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "requests": dict(requests),
        "said": said,
    }


def _finalize(engine: Engine) -> int:
    """Finalize the large job, and return the number of attempts."""
    for attempt in range(1, 31):
        try:
            finalize(engine, JOB)
        except StepUnfinished:
            continue
        outcome = read_outcome(engine.buckets.main, JOB)
        if outcome is None or outcome.state != "partial":
            raise SystemExit(f"the job does not end as expected: {outcome}")
        return attempt
    raise SystemExit("the job does not end")


def _read_manifest(engine: Engine) -> int:
    """Read the manifest line by line, as a user can, and return the number of its parts."""
    root = Path(os.environ["STORE_DIR"]) / engine.buckets.main.bucket
    count = 0
    with (root / FOLDER / "_manifest.json").open() as lines:
        head = json.loads(next(lines).rstrip() + "]}")
        for line in lines:
            if not line.startswith("]"):
                entry = json.loads(line.rstrip().rstrip(","))
                assert entry["key"] == keys.result_part(FOLDER, count), entry
                count += 1
    assert head["rows"] + head["rejected"] == count, head
    return count


def prepare(environ: dict[str, str], parts: int) -> None:
    """Publish a model, write the objects of the input, and submit the large job."""
    client = Client(Buckets.from_env(environ), MemoryQueue(lambda _: None, at_once=False), engine_of(environ).ledger)
    ModelStorageManager.from_env(environ).publish(
        "line", LinearRegression().fit(pd.DataFrame({"x": [0.0, 1.0]}), [0.0, 1.0])
    )
    sink = io.BytesIO()
    pq.write_table(pa.table({"x": [float(n) for n in range(GROUPS)]}), sink, row_group_size=1)
    folder = Path(environ["STORE_DIR"]) / environ["R2_BUCKET"] / "in"
    folder.mkdir(parents=True)
    first = folder / "000000.parquet"
    first.write_bytes(sink.getvalue())
    for number in range(1, parts // GROUPS):
        os.link(first, folder / f"{number:06}.parquet")
    bucket = environ["R2_BUCKET"]
    client.submit(
        "line", f"s3://{bucket}/in/", output=f"s3://{bucket}/out/", job_id=JOB, part_rows=1, max_rejected="50%"
    )


def main() -> None:
    """Measure and print."""
    if len(sys.argv) == 3 and sys.argv[1] == "stage":
        print(json.dumps(do_stage(sys.argv[2], dict(os.environ))))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", type=positive, default=PARTS)
    parser.add_argument("--stages", default="plan,recover,finalize,status,jobs,read")
    asked = parser.parse_args()
    print("| stage | MiB | CPU s | s | requests to the store |")
    print("|---|---|---|---|---|")
    with tempfile.TemporaryDirectory(dir=".scoreline") as folder, Stack(Path(".scoreline")) as stack:
        environ = {
            "ENVIRONMENT": "development",
            "STORE_DIR": folder,
            "R2_BUCKET": "scoreline",
            "REDIS_URL": stack.environ["REDIS_URL"],
        }
        prepare(environ, asked.parts)
        for stage in asked.stages.split(","):
            with redis.Redis.from_url(environ["REDIS_URL"]) as connection:
                connection.config_resetstat()
                found = in_fresh_process("benchmarks.bench_many_parts", environ, "stage", stage)
                stats: Any = connection.info("commandstats")
            commands = {
                name.removeprefix("cmdstat_"): row["calls"]
                for name, row in stats.items()
                if name.removeprefix("cmdstat_").split("|")[0] not in OWN_COMMANDS
            }
            figures = [f"{found['mib']:.0f}", f"{found['cpu']:.1f}", f"{found['seconds']:.1f}", str(found["requests"])]
            print("|", stage, "|", " | ".join(figures), "|")
            print(f"    {str(found['said'])[:200]} {sum(commands.values())} commands: {commands}", flush=True)


if __name__ == "__main__":
    main()
