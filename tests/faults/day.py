"""Run a day of schedules in MINUTES, on a fast clock: ``python -m tests.faults.day [MINUTES] [SEED]``, or ``make day``.

The workers and the beats are real. Up to two beats run and are killed at random, and Redis is emptied now and then. The
simulated day has 25 hours, because Berlin's clocks go back. In the end there must be one job for each slot, and each
job must be complete; otherwise the exit status is 1.
"""

from __future__ import annotations

import os
import random
import sys
import tempfile
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

from scoreline.storage import keys
from scoreline.tasks.schedules.scheduler import Scheduler
from tests.support.rig import Rig

BERLIN = ZoneInfo("Europe/Berlin")
START = datetime(2026, 10, 25, 0, 0, tzinfo=BERLIN).astimezone(UTC)
HOURS = 25
SCHEDULES = """
[quarterly]
cron = "*/15 * * * *"
zone = "Europe/Berlin"
model = "paced"
input = "s3://scoreline/in/"
catch_up = "all"
overlap = "queue"

[hourly]
cron = "0 * * * *"
zone = "America/Sao_Paulo"
model = "paced@champion"
input = "s3://scoreline/in/"
output = "s3://scoreline/hourly/{slot:%Y-%m-%d}/"
catch_up = "all"
overlap = "queue"

[nightly]
cron = "30 2 * * *"
zone = "Europe/Berlin"
model = "paced"
input = "s3://scoreline/in/"
only_new = true
"""


def main(minutes: float = 4, seed: int = 1) -> int:
    chance = random.Random(seed)
    speed = HOURS * 60 / minutes
    fast = {
        "FAST_FROM": (START - timedelta(minutes=1)).isoformat(),
        "FAST_SINCE": str(time.time() + 8),
        "FAST_BY": str(speed),
    }
    os.environ |= fast
    from tests.support.fastclock import fast_now

    happened: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(dir=".scoreline") as folder, Rig(Path(folder)) as rig:
        rig.publish(seconds=0.0)
        rig.client.registry.alias("paced", "champion", rig.client.registry.resolve("paced").version)
        rig.put_input(2)
        rig.store.put(keys.SCHEDULES, SCHEDULES.encode())
        # this first tick registers the schedules
        Scheduler(rig.client, Path("none")).tick(START - timedelta(minutes=1))
        rig.start_worker(2, "tests.support.fastclock", **fast)
        rig.start_beat(TICK_SECONDS="1")
        happened["beats started"] += 1
        end = START + timedelta(hours=HOURS)
        said = START
        while fast_now() < end + timedelta(minutes=30):
            time.sleep(chance.uniform(1, 4))
            running = rig.clocks()
            match chance.choice(["kill", "kill", "start", "start", "flush", "nothing"]):
                case "kill" if running:
                    chance.choice(running).kill()
                    happened["beats killed"] += 1
                case "start" if len(running) < 2:
                    rig.start_beat(TICK_SECONDS="1")
                    happened["beats started"] += 1
                case "flush" if chance.random() < 0.3:
                    rig.redis.flushall()
                    happened["Redis emptied"] += 1
            happened[f"seconds with {min(len(running), 2)} beats"] += 1
            if fast_now() - said > timedelta(hours=3):
                said = fast_now()
                print(f"{said.astimezone(BERLIN):%d %b %H:%M %Z}: {sum(1 for _ in rig.client.jobs())} jobs", flush=True)
        return verify(rig, happened)


def verify(rig: Rig, happened: Counter[str]) -> int:
    expected = {f"quarterly-{START + timedelta(minutes=15 * n):%Y%m%dT%H%M%SZ}" for n in range(4 * HOURS)}
    expected |= {f"hourly-{START + timedelta(hours=n):%Y%m%dT%H%M%SZ}" for n in range(HOURS)}
    expected |= {"nightly-20261025T003000Z"}
    if not rig.clocks():
        rig.start_beat(TICK_SECONDS="1")
    deadline = time.monotonic() + 120
    while True:
        done = {job.job_id: job for job in rig.client.jobs()}
        if expected <= done.keys() and all(done[name].ended for name in expected):
            break
        if time.monotonic() > deadline:
            break
        time.sleep(1)
    missing = sorted(expected - done.keys())
    wrong = [job for name, job in done.items() if name in expected and (job.state, job.rows) != ("succeeded", rig.rows)]
    extra = sorted(name for name in done.keys() - expected if slot_of(name) < START + timedelta(hours=HOURS))
    print(dict(happened))
    jobs = len(expected & done.keys())
    print(f"{len(expected)} slots, {jobs} jobs; missing {missing}, wrong {wrong}, beside them {extra}")
    return 1 if missing or wrong or extra else 0


def slot_of(job_id: str) -> datetime:
    return datetime.strptime(job_id.rpartition("-")[2], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)


if __name__ == "__main__":
    minutes, *seed = sys.argv[1:] or ["4"]
    sys.exit(main(float(minutes), *map(int, seed)))
