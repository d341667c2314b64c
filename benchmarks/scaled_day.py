"""A day of `scoreline scale`, simulated: the scaler and the ledger are real, dynos and the clock are not.

Every minute of the day, the scaler reads the backlog from a ledger and asks a stand-in for Heroku's API over HTTP.
Simulated dynos need `BOOT_S` to start, and score parts of `PART_S`. `python -m benchmarks.scaled_day` draws the day as
docs/how-to/scaled-day.svg.
"""

from __future__ import annotations

import random
import tempfile
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.heroku_api import APP, KEY, FakeHeroku, Fault
from scoreline.storage import keys
from scoreline.storage.ledger.base import PartLease
from scoreline.storage.ledger.memory_ledger import MemoryLedger
from scoreline.storage.models.manifest import PinnedModel
from scoreline.storage.objects.directory import DirectoryStore
from scoreline.tasks.backlog.dynos import Policy
from scoreline.tasks.backlog.workload import Workload
from scoreline.tasks.dispatch.dispatcher import MAX_WINDOW, MIN_WINDOW, PARTS_PER_PROCESS
from scoreline.tasks.job.documents import Job
from scoreline.tasks.job.spec import JobSpec
from scoreline.worker.heroku.formation import Formation
from scoreline.worker.heroku.scaler import Scaler
from scoreline.worker.heroku.settings import HerokuSettings

MIDNIGHT = datetime(2026, 11, 25, tzinfo=UTC).timestamp()
DAY_S = 24 * 3_600
STEP_S = 5.0
LOOK_S = 60.0
BOOT_S = 45.0
WORKER_SIZE = 2
PART_S = 20.0
STEP_OF_JOB_S = 3.0
"""Seconds to plan or to finalize a job."""
ROWS_PER_S = 1_000
FINISH_WITHIN_S = 600.0
MOST_DYNOS = 10
API_DOWN = (14 * 3_600.0, 15 * 3_600.0)
LIMITED = (16 * 3_600.0, 16 * 3_600.0 + 300)
"""When another program uses up the requests of the account."""
RETRY_AFTER_S = 120


@dataclass(kw_only=True)
class SimulatedJob:
    """A job of the day. All times are seconds since midnight."""

    job_id: str
    work_s: float
    """Seconds that one process takes for its parts."""
    submitted: float
    ended: float | None = None
    deadline_s: float | None = None
    """Seconds from the submission within which it must end (``--deadline``)."""

    @property
    def parts(self) -> int:
        """Number of parts."""
        return max(1, round(self.work_s / PART_S))

    @property
    def in_time(self) -> bool:
        """Whether the job ended in time."""
        return self.ended is not None and self.ended - self.submitted <= (self.deadline_s or FINISH_WITHIN_S)


@dataclass(frozen=True, kw_only=True)
class Moment:
    """The state of the deployment at a time of the day."""

    at: float
    work_s: float
    """Seconds of work that one process would take for all jobs."""
    wanted: int
    """Number of dynos that the platform should run."""
    running: int
    """Number of dynos that have started."""


@dataclass(kw_only=True)
class _Process:
    task: tuple[str, str, int] | None = None
    until: float = 0.0


@dataclass(kw_only=True)
class _Dyno:
    ready_at: float
    processes: list[_Process] = field(default_factory=lambda: [_Process() for _ in range(WORKER_SIZE)])
    ready: bool = False


class Clock:
    """The clock of the simulated day."""

    now = MIDNIGHT

    def __call__(self) -> float:
        """Return the time."""
        return self.now


class Day:
    """A simulated day. `run` simulates it.

    Parameters
    ----------
    folder : Path
        Contains the bucket.
    """

    def __init__(self, folder: Path) -> None:
        self.clock = Clock()
        self.ledger = MemoryLedger(clock=self.clock)
        self.store = DirectoryStore(folder, "scores")
        self.jobs: dict[str, SimulatedJob] = {}
        self.moments: list[Moment] = []
        self.stopped_at_work: list[float] = []
        """When a dyno was stopped while one of its processes worked."""
        self.errors: list[str] = []
        self._queue: deque[tuple[str, str, int]] = deque()
        self._dynos: list[_Dyno] = []
        self._coming = sorted(_requests(), key=lambda job: job.submitted)
        self._nightly_due = True
        self.ledger.counters.note_pace(_job("any", MIDNIGHT).work, ROWS_PER_S)

    @property
    def at(self) -> float:
        """Seconds since midnight."""
        return self.clock.now - MIDNIGHT

    def run(self) -> FakeHeroku:
        """Simulate the day, and return the API with the requests that it has received."""
        with FakeHeroku(self.clock, worker=0) as api:
            self._api = api
            api.fault = self._fault
            settings = HerokuSettings(api_key=KEY, app=APP)
            policy = Policy(least=0, most=MOST_DYNOS, finish_within_s=FINISH_WITHIN_S)
            scaler = Scaler(
                dynos=Formation(settings, "worker", url=api.url, clock=self.clock, now=self.clock),
                main=self.store,
                ledger=self.ledger,
                waiting=lambda: len(self._queue),
                policy=policy,
                apply=True,
                tick=self.tick,
                now=self.clock,
            )
            scaler.run(LOOK_S, self._say, self._wait)
        return api

    def tick(self) -> None:
        """Submit the nightly jobs once they are due, as beat's ticks and the scaler do."""
        if self._nightly_due and self.at >= 2 * 3_600:
            self._nightly_due = False
            for number in range(2):
                self._submit(SimulatedJob(job_id=f"nightly-{number}", work_s=3_500, submitted=self.at))

    def _say(self, found: object) -> None:
        if isinstance(found, Exception):
            self.errors.append(f"{self.at:.0f} {found}")

    def _wait(self, seconds: float) -> bool:
        end = self.clock.now + seconds
        while self.clock.now < end:
            self.clock.now += STEP_S
            self._step()
        return self.at >= DAY_S

    def _fault(self) -> Fault | None:
        if API_DOWN[0] <= self.at < API_DOWN[1]:  # by turns: an error, and no answer at all
            return (Fault(status=503), Fault(status=0))[int(self.at // 60) % 2]
        if LIMITED[0] <= self.at < LIMITED[1]:
            return Fault(status=429, headers={"Retry-After": str(RETRY_AFTER_S)})
        return None

    # Work

    def _submit(self, job: SimulatedJob) -> None:
        self.jobs[job.job_id] = job
        self.store.put(keys.active(job.job_id), b"")
        self.ledger.watchlist.add([job.job_id])
        self.store.put(keys.job(job.job_id), _job(job.job_id, self.clock.now, job.deadline_s).to_json())
        self._queue.append(("plan", job.job_id, 0))

    def _step(self) -> None:
        while self._coming and self._coming[0].submitted <= self.at:
            self._submit(replace(self._coming.pop(0), submitted=self.at))
        self._start_and_stop()
        if any(dyno.ready for dyno in self._dynos):
            self.tick()
        for dyno in self._dynos:
            for process in dyno.processes if dyno.ready else ():
                self._work(process)
        running = sum(dyno.ready for dyno in self._dynos)
        left = sum(
            (job.parts - (state.parts_done if state.planned else 0)) * PART_S
            for state in self.ledger.watchlist.states()
            if (job := self.jobs[state.job_id]).ended is None
        )
        self.moments.append(Moment(at=self.at, work_s=left, wanted=self._api.formation["worker"], running=running))

    def _start_and_stop(self) -> None:
        while len(self._dynos) < self._api.formation["worker"]:
            self._dynos.append(_Dyno(ready_at=self.clock.now + BOOT_S))
        while len(self._dynos) > self._api.formation["worker"]:  # Heroku stops those with the highest numbers
            if any(process.task for process in self._dynos.pop().processes):
                self.stopped_at_work.append(self.at)
        for dyno in self._dynos:
            if not dyno.ready and dyno.ready_at <= self.clock.now:
                dyno.ready = True
                self._count_processes()

    def _count_processes(self) -> None:
        """Do what a starting worker does: count the processes, and dispatch parts to them."""
        count = WORKER_SIZE * sum(dyno.ready for dyno in self._dynos)
        self.ledger.note_processes(count, DAY_S)
        self.ledger.note_worker_size(WORKER_SIZE)
        for state in self.ledger.watchlist.states():
            if state.planned and not state.stopped:
                self._dispatch(state.job_id)

    def _dispatch(self, job_id: str) -> None:
        window = min(MAX_WINDOW, max(MIN_WINDOW, PARTS_PER_PROCESS * self.ledger.processes()))
        for part in self.ledger.dispatch(job_id, "p", window).parts:
            self._queue.append(("part", job_id, part))

    def _work(self, process: _Process) -> None:
        if process.task is not None and process.until <= self.clock.now:
            self._end(*process.task)
            process.task = None
        while process.task is None and self._queue:
            kind, job_id, part = self._queue.popleft()
            lease = PartLease(job_id=job_id, plan_sha256="p", part=part, holder="m", lease_s=600)
            if kind == "part" and self.ledger.start(lease).to_do != "run":
                continue  # the message was sent twice, because it has waited for long
            process.task = kind, job_id, part
            process.until = self.clock.now + (PART_S if kind == "part" else STEP_OF_JOB_S)

    def _end(self, kind: str, job_id: str, part: int) -> None:
        job = self.jobs[job_id]
        if kind == "plan":
            rows = int(job.parts * PART_S * ROWS_PER_S)
            made = _job(job_id, MIDNIGHT + job.submitted, job.deadline_s)
            work = Workload.of(made, rows, deadline=made.spec.deadline).text
            self.ledger.begin(job_id, "p", job.parts, budget=0, work=work)
            self._dispatch(job_id)
        elif kind == "part":
            done = self.ledger.complete(job_id, "p", part, rows=int(PART_S * ROWS_PER_S), rejected=0)
            if done.next_part is not None:
                self._queue.append(("part", job_id, done.next_part))
            if done.all_done:
                self._queue.append(("finalize", job_id, 0))
        else:
            job.ended = self.at
            self.ledger.close(job_id)
            self.store.delete(keys.active(job_id))
            self.ledger.watchlist.remove(job_id)


def _job(job_id: str, submitted: float, deadline_s: float | None = None) -> Job:
    spec = JobSpec(
        job_id=job_id,
        model="churn",
        inputs=("s3://scores/in/",),
        output="s3://scores/out/",
        deadline=None if deadline_s is None else _moment(submitted + deadline_s),
    )
    model = PinnedModel(name="churn", version="20260101T000000Z-00000", manifest_sha256="0" * 64)
    return Job(spec=spec, model=model, submitted=_moment(submitted))


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat()


def _requests() -> Iterator[SimulatedJob]:
    """Yield the jobs that applications submit: a busy morning, bursts, and quiet hours."""
    chance = random.Random(22)
    at = 8.5 * 3_600
    while at < 11 * 3_600:
        yield SimulatedJob(job_id=f"morning-{at:.0f}", work_s=chance.uniform(40, 1_200), submitted=at)
        at += chance.uniform(60, 900)
    for number in range(6):
        yield SimulatedJob(job_id=f"noon-{number}", work_s=900, submitted=12 * 3_600 + 10 * number)
    yield SimulatedJob(job_id="urgent", work_s=1_500, submitted=13.2 * 3_600, deadline_s=420)
    yield SimulatedJob(job_id="before-outage", work_s=1_900, submitted=API_DOWN[0] - 480)
    yield SimulatedJob(job_id="in-outage", work_s=2_600, submitted=API_DOWN[0] + 1_200)
    yield SimulatedJob(job_id="at-limit", work_s=1_500, submitted=LIMITED[0] + 60)
    yield SimulatedJob(job_id="evening", work_s=5_000, submitted=21.5 * 3_600)


# The picture


WIDTH, HEIGHT, LEFT, RIGHT = 960, 580, 60, 30
INK, GREY, BLUE, PALE, GREEN, RED, SAND = "#222", "#999", "#2b6cb0", "#bcd3ea", "#1f6f54", "#b03a2e", "#f3e3c3"


@dataclass(frozen=True, kw_only=True)
class _Panel:
    """A part of the picture with its own vertical axis."""

    title: str
    top: int
    most: float
    ticks: int
    height: int = 120

    def y(self, value: float) -> float:
        """Return the vertical position of a value."""
        return self.top + self.height * (1 - value / self.most)

    def frame(self) -> Iterator[str]:
        """Yield the title and the horizontal lines."""
        yield _text(LEFT, self.top - 8, self.title)
        for number in range(self.ticks + 1):
            value = self.most * number / self.ticks
            yield f'<path d="M{LEFT} {self.y(value):.1f}H{WIDTH - RIGHT}" stroke="{GREY}" stroke-width="0.4"/>'
            yield _text(LEFT - 8, self.y(value) + 4, f"{value:.0f}", anchor="end")

    def steps(self, points: Iterable[tuple[float, float]], fill: str, stroke: str) -> str:
        """Return a line that changes in steps, without points at which the value stays."""
        path, last = f"M{_x(0):.1f} {self.y(0):.1f}", 0.0
        for at, value in points:
            if value != last:
                path += f"H{_x(at):.1f}V{self.y(value):.1f}"
                last = value
        return f'<path d="{path}H{_x(DAY_S):.1f}V{self.y(0):.1f}" fill="{fill}" stroke="{stroke}" stroke-width="1.2"/>'


WORK = _Panel(title="minutes of work left, for one process", top=65, most=120, ticks=4)
DYNOS = _Panel(title="dynos: requested (line) and started (area)", top=225, most=MOST_DYNOS, ticks=5)
JOBS = _Panel(title="", top=385, most=12, ticks=4)


def draw(day: Day) -> str:
    """Return the picture of a day as SVG."""
    in_time = sum(job.in_time for job in day.jobs.values())
    jobs = replace(JOBS, title=f"minutes from submission to end: {in_time} of {len(day.jobs)} jobs in time")
    bottom = jobs.top + jobs.height
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        _text(LEFT, 24, "A simulated day of: scoreline scale --max 10 --finish-within 10m --apply --every 1m", size=15),
    ]
    for (begin, end), words in ((API_DOWN, "API down"), (LIMITED, "429")):
        area = f'x="{_x(begin):.1f}" y="{WORK.top}" width="{_x(end) - _x(begin):.1f}" height="{bottom - WORK.top}"'
        lines.append(f'<rect {area} fill="{SAND}"/>')
        lines.append(_text((_x(begin) + _x(end)) / 2, WORK.top - 4, words, anchor="middle"))
    for panel in (WORK, DYNOS, jobs):
        lines += panel.frame()
    lines.append(WORK.steps([(moment.at, moment.work_s / 60) for moment in day.moments], PALE, BLUE))
    lines.append(DYNOS.steps([(moment.at, moment.running) for moment in day.moments], PALE, "none"))
    lines.append(DYNOS.steps([(moment.at, moment.wanted) for moment in day.moments], "none", BLUE))
    for job in day.jobs.values():
        minutes = min(jobs.most, ((job.ended or DAY_S) - job.submitted) / 60)
        line = f"M{_x(job.submitted):.1f} {jobs.y(0):.1f}V{jobs.y(minutes):.1f}"
        lines.append(f'<path d="{line}" stroke="{GREEN if job.in_time else RED}" stroke-width="2.5"/>')
    deadline = jobs.y(FINISH_WITHIN_S / 60)
    lines.append(f'<path d="M{LEFT} {deadline:.1f}H{WIDTH - RIGHT}" stroke="{RED}" stroke-dasharray="5 3"/>')
    lines.append(_text(LEFT + 6, deadline - 4, "--finish-within 10m"))
    for hour in range(0, 25, 2):
        lines.append(f'<path d="M{_x(hour * 3_600):.1f} {bottom}v5" stroke="{GREY}"/>')
        lines.append(_text(_x(hour * 3_600), bottom + 19, f"{hour:02}:00", anchor="middle"))
    note = f"A dyno has {WORKER_SIZE} processes and starts in {BOOT_S:.0f} s. No dyno was stopped while it worked."
    assert not day.stopped_at_work
    lines.append(_text(LEFT, HEIGHT - 22, note))
    return "\n".join([*lines, "</svg>", ""])


def _x(at: float) -> float:
    return LEFT + at / DAY_S * (WIDTH - LEFT - RIGHT)


def _text(x: float, y: float, words: str, *, anchor: str = "start", size: int = 12) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" fill="{INK}">{words}</text>'


def main() -> None:
    """Simulate the day, print what happened, and write the picture."""
    with tempfile.TemporaryDirectory() as folder:
        day = Day(Path(folder))
        api = day.run()
    late = [job.job_id for job in day.jobs.values() if not job.in_time]
    hours = sum(moment.wanted for moment in day.moments) * STEP_S / 3_600
    print(f"{len(day.jobs)} jobs, late: {', '.join(late) or 'none'}; {hours:.1f} hours of dynos")
    print(f"{len(api.requests)} requests to the API, {sum(r.method == 'PATCH' for r in api.requests)} of them PATCH")
    path = Path(__file__).resolve().parent.parent / "docs/how-to/scaled-day.svg"
    path.write_text(draw(day))
    print(f"wrote {path.name}")


if __name__ == "__main__":
    main()
