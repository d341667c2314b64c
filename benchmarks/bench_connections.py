"""Count the connections to Redis of a worker and of beat: idle, under work, and idle again.

The table has one line for each number of pool processes and each of these three states. The connections of ``CLIENT
LIST`` are grouped by the process that opened them. ``--list`` prints each connection with its last command.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import redis

from benchmarks import work
from benchmarks.stand import Stand
from scoreline.storage import keys
from scoreline.storage.objects.base import exists

ROWS, PART_ROWS = 2_000_000, 10_000


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, nargs="*", default=[2, 8])
    parser.add_argument("--idle-s", type=float, default=45.0, help="how long to wait after the work")
    parser.add_argument("--list", action="store_true", dest="listed", help="print each connection")
    options = parser.parse_args()
    print("| processes | moment | main process | processes of the pool | beat | together |\n|---|---|---|---|---|---|")
    for processes in options.processes:
        for moment, found in _moments(processes, options.idle_s):
            by = Counter(owner for owner, _ in found)
            shown = " | ".join(str(by[owner]) for owner in ("main", "pool", "beat"))
            print(f"| {processes} | {moment} | {shown} | {by.total()} |", flush=True)
            for owner, item in found if options.listed else ():
                print("   ", owner, {name: item[name] for name in ("id", "lib-name", "cmd", "idle", "psub", "multi")})


def _moments(processes: int, idle_s: float) -> Iterator[tuple[str, list[tuple[str, dict[str, Any]]]]]:
    random = np.random.default_rng(3)
    with Stand(Path(".scoreline"), processes=processes) as stand:
        stand.start_beat()
        stand.publish("logistic", work.logistic(random))
        stand.put("in/many.parquet", work.numbers(random, ROWS), row_group_size=PART_ROWS)
        with redis.Redis.from_url(stand.environ["REDIS_URL"]) as connection:
            time.sleep(10)
            yield "idle", _connections(stand, connection)
            most: list[tuple[str, dict[str, Any]]] = []
            uri = stand.store.uri("in/many.parquet")
            job = stand.client.submit("logistic@bench", uri, part_rows=PART_ROWS, features=work.COLUMNS)
            while not exists(stand.store, keys.outcome(job.job_id)):
                most = max(most, _connections(stand, connection), key=len)
            yield "under work, at most", most
            yield "work done", _connections(stand, connection)
            most, until = [], time.monotonic() + idle_s
            while time.monotonic() < until:
                time.sleep(1)
            yield f"idle for {idle_s:g} s", _connections(stand, connection)
            until = time.monotonic() + 65
            while time.monotonic() < until:
                most = max(most, _connections(stand, connection), key=len)
                time.sleep(0.02)
            yield "idle, at most in the next 65 s", most


def _connections(stand: Stand, connection: redis.Redis) -> list[tuple[str, dict[str, Any]]]:
    """Return the entries of ``CLIENT LIST`` for the connections of the worker and of beat."""
    clients: Any = connection.client_list()
    owners: dict[int, str] = {}
    for owner, processes in stand.processes_by_role().items():
        for process in processes:
            try:
                owners |= {item.laddr.port: owner for item in process.net_connections("tcp") if item.raddr}
            except psutil.NoSuchProcess:
                continue
    by_port = ((owners.get(int(item["addr"].rpartition(":")[2])), item) for item in clients)
    return sorted(((owner, item) for owner, item in by_port if owner), key=lambda found: found[0])


if __name__ == "__main__":
    main()
