"""The kinds of rounds. Each kind is a generator that submits jobs, yields while faults occur, and checks results."""

from __future__ import annotations

import random
from collections.abc import Callable, Generator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from scoreline.storage import keys
from scoreline.storage.errors import NothingToResume, ScorelineError
from scoreline.tasks.job.documents import Status
from scoreline.tasks.schedules.scheduler import Scheduler
from tests.faults.soak.inputs import PART_ROWS, Input, put_input
from tests.faults.soak.place import Place

type Steps[T] = Generator[None, None, T]
"""Yields whenever something may go wrong, and returns a value."""
type Round = Steps[None]


@dataclass(kw_only=True)
class Scene:
    """The objects that a round can use."""

    ours: Place
    neighbour: Place
    chance: random.Random
    name: str
    """A name that differs from that of any other round."""

    def put(self, place: Place | None = None, folder: str = "in", **options: Any) -> Input:
        place = place or self.ours
        return put_input(place.store, self.chance, f"{folder}-{self.name}", **{"parts": 40} | options)

    def submit(self, made: Input, model: str = "line", place: Place | None = None, **options: Any) -> Steps[str]:
        """Submit a job, repeatedly if errors are transient, and return its id."""
        job_id = str(options.pop("job_id", self.name))
        client = (place or self.ours).client
        filled: dict[str, Any] = {
            "part_rows": PART_ROWS,
            "max_attempts": 50,
            "max_rejected": "100%",
            "keep": "id",
        } | options
        yield from insist(lambda: client.submit(model, made.uri, job_id=job_id, **filled))
        return job_id


def insist[T](call: Callable[[], T]) -> Steps[T | None]:
    """Call a function until it raises no transient error, as the documentation tells users to do."""
    failed = False
    while True:
        try:
            return call()
        except NothingToResume:
            if not failed:
                raise
            return None
        except ScorelineError as error:
            if not error.transient:
                raise
        failed = True
        yield


def wait_for_end(place: Place, job_id: str) -> Steps[Status]:
    """Wait until a job has ended, and return its status."""
    while True:
        status = yield from insist(lambda: place.client.status(job_id))
        if status is not None and status.ended:
            return status
        yield


def pause(chance: random.Random, most: int) -> Steps[None]:
    for _ in range(chance.randrange(most)):
        yield


def plain(scene: Scene) -> Round:
    """A job whose rows can all be scored."""
    made = scene.put()
    job_id = yield from scene.submit(made, scene.chance.choice(["line", "steep"]))
    scene.ours.check_results((yield from wait_for_end(scene.ours, job_id)), made)


def rejects(scene: Scene) -> Round:
    """A job with rows that cannot be scored, for various reasons. In some rounds, the results of the job go into one
    file."""
    made = scene.put(faulty=scene.chance.randrange(1, 60))
    job_id = yield from scene.submit(made, gather=scene.chance.random() < 0.3)
    scene.ours.check_results((yield from wait_for_end(scene.ours, job_id)), made)


def over_budget(scene: Scene) -> Round:
    """A job that rejects one row more than its budget allows, and is resumed with a sufficient budget."""
    faulty = scene.chance.randrange(1, 40)
    made = scene.put(faulty=faulty)
    job_id = yield from scene.submit(made, max_rejected=faulty - 1)
    status = yield from wait_for_end(scene.ours, job_id)
    assert (status.state, status.reason) == ("failed", "rejected"), status
    yield from insist(lambda: scene.ours.client.resume(job_id, max_rejected=faulty))
    scene.ours.check_results((yield from wait_for_end(scene.ours, job_id)), made)


def resume(scene: Scene) -> Round:
    """A job that is cancelled and resumed, up to three times."""
    made = scene.put(faulty=scene.chance.choice([0, 20]))
    job_id = yield from scene.submit(made)
    for _ in range(scene.chance.randrange(1, 4)):
        yield from pause(scene.chance, 20)
        yield from insist(lambda: scene.ours.client.cancel(job_id))
        status = yield from wait_for_end(scene.ours, job_id)
        if status.state != "cancelled":
            break
        yield from insist(lambda: scene.ours.client.resume(job_id))
    scene.ours.check_results((yield from wait_for_end(scene.ours, job_id)), made)


def rescore(scene: Scene) -> Round:
    """A job that scores the rejected rows of another job, by a model that accepts them."""
    made = scene.put(faulty=scene.chance.randrange(1, 40))
    job_id = yield from scene.submit(made)
    scene.ours.check_results((yield from wait_for_end(scene.ours, job_id)), made)
    yield from insist(lambda: scene.ours.client.resume_rejected(job_id, model="tolerant"))
    later = [status.job_id for status in scene.ours.client.jobs() if status.job_id.startswith(f"{job_id}-rejected-")]
    assert len(later) == 1, f"asking once to score the rejected rows again made {later}"
    scene.ours.check_results((yield from wait_for_end(scene.ours, later[0])), made, only=made.faults)


def cancel(scene: Scene) -> Round:
    """A job that is cancelled while other processes may be ending it."""
    made = scene.put(parts=scene.chance.choice([2, 8, 40]))
    job_id = yield from scene.submit(made, gather=scene.chance.random() < 0.3)
    yield from pause(scene.chance, 30)
    yield from insist(lambda: scene.ours.client.cancel(job_id))
    status = yield from wait_for_end(scene.ours, job_id)
    if status.state != "cancelled":
        scene.ours.check_results(status, made)


def two_models(scene: Scene) -> Round:
    """Jobs of several models over the same input, while an alias is moved."""
    made = scene.put(parts=16, faulty=10)
    place, versions = scene.ours, list(scene.ours.factor_of_version)
    job_ids: list[str] = []
    for number, model in enumerate(("line", "steep", "moving@champion", "moving@champion")):
        job_ids.append((yield from scene.submit(made, model, job_id=f"{scene.name}-{number}")))
        yield from pause(scene.chance, 4)
        version = scene.chance.choice(versions)
        yield from insist(lambda version=version: place.client.registry.alias("moving", "champion", version))  # type: ignore[misc]
    for job_id in job_ids:
        place.check_results((yield from wait_for_end(place, job_id)), made)


def neighbours(scene: Scene) -> Round:
    """Jobs with the same id in two deployments that share a Redis."""
    places = (scene.ours, scene.neighbour)
    inputs = [scene.put(place, parts=20, faulty=scene.chance.randrange(20)) for place in places]
    for place, made, model in zip(places, inputs, ("line", "steep"), strict=True):
        yield from scene.submit(made, model, place)
    for place, made in zip(places, inputs, strict=True):
        place.check_results((yield from wait_for_end(place, scene.name)), made)


def records(scene: Scene) -> Round:
    """A job of records in memory, either few enough for one message, or many."""
    count = scene.chance.choice([1, 20, 500])
    rows = [{"id": id_, "x": None if id_ % 7 == 3 else float(id_)} for id_ in range(count)]
    client = scene.ours.client
    job: Any = yield from insist(lambda: client.submit_records("steep", rows, job_id=scene.name))
    status = yield from wait_for_end(scene.ours, scene.name)
    expected = [id_ for id_ in range(count) if id_ % 7 != 3]
    assert (status.rows, status.rejected) == (len(expected), count - len(expected)), status
    answer: Any = yield from insist(job.wait)
    assert [row["id"] for row in answer] == expected
    assert all(row["prediction"] == 5 * row["id"] + 1 for row in answer)


def schedule(scene: Scene) -> Round:
    """A schedule with `only_new`, whose ticks die or run twice, and whose jobs are cancelled and resumed."""
    place, name = scene.ours, f"s{scene.name}"
    folder = f"new-{scene.name}"
    text = f'[{name}]\ncron = "0 * * * *"\nmodel = "steep"\ninput = "s3://{place.store.bucket}/{folder}/"\n'
    text += 'only_new = true\ncatch_up = "all"\noverlap = "queue"\nkeep = "id"\npart_rows = 100\nmax_attempts = 50\n'
    place.store.put(keys.SCHEDULES, text.encode())
    scheduler, now = Scheduler(place.client, Path("none")), datetime(2026, 11, 25, 0, 30, tzinfo=UTC)

    def tick() -> Steps[object]:
        return (yield from insist(lambda: scheduler.tick(now)))

    yield from tick()
    slots = scene.chance.randrange(2, 5)
    for slot in range(slots):
        put_input(place.store, scene.chance, f"{folder}/{slot}", parts=scene.chance.randrange(1, 9))
        now += timedelta(hours=1)
        job_id = f"{name}-{now.replace(minute=0):%Y%m%dT%H%M%SZ}"
        while not place.has_job(job_id):
            yield from tick()
            yield
        if scene.chance.random() < 0.4:
            yield from pause(scene.chance, 10)
            yield from insist(lambda job_id=job_id: place.client.cancel(job_id))  # type: ignore[misc]
            if scene.chance.random() < 0.5:
                yield from tick()
            if (yield from wait_for_end(place, job_id)).state == "cancelled":
                yield from insist(lambda job_id=job_id: place.client.resume(job_id))  # type: ignore[misc]
        status = yield from wait_for_end(place, job_id)
        assert (status.state, status.error) == ("succeeded", ""), status
        yield from tick()
    scored: dict[str, list[str]] = {}
    for status in place.client.jobs():
        if status.job_id.startswith(name):
            for uri in place.objects_of(status):
                scored.setdefault(uri, []).append(status.job_id)
    objects = {place.store.uri(info.key) for info in place.store.list(f"{folder}/")}
    assert scored.keys() == objects, f"{objects - scored.keys()} were not scored"
    twice = {uri: by for uri, by in scored.items() if len(by) > 1}
    assert not twice, f"scored twice: {twice}"


KINDS: dict[str, Callable[[Scene], Round]] = {
    "plain": plain,
    "rejects": rejects,
    "over budget": over_budget,
    "resume": resume,
    "rescore": rescore,
    "cancel": cancel,
    "two models": two_models,
    "neighbours": neighbours,
    "records": records,
    "schedule": schedule,
}
