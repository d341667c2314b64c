"""Measures how the time spent on parts is divided among activities.

=========  =======================================================================================================
name       what a worker process does
=========  =======================================================================================================
queue      counts the previous part of the job, receives the message of the next, works on other jobs, or waits
decode     fetches bytes of the input and decodes them, while the previous batch is scored
align      converts features for the estimator, and kept columns and scores to the planned schema
predict    calls the estimators
encode     writes the results as Parquet into memory and computes their digest
upload     writes the object
=========  =======================================================================================================

A part's receipt contains the timings that were known when its object was written. At that time, `queue` and `upload` of
the part are not known yet. The receipt therefore has those two timings of the previous part that the same process
scored in the same job.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections import OrderedDict
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field

TIMINGS = ("queue", "decode", "align", "predict", "encode", "upload")
_MAX_JOBS = 64
"""Maximum number of jobs for which a process keeps the time of the last part."""


@dataclass
class Timings:
    """Seconds spent on one part, by activity, or the sum over many parts."""

    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(TIMINGS, 0.0))
    wall: float = 0.0
    """Elapsed seconds from when the model is loaded until the results are encoded, without `upload`."""
    compiled: float = 0.0
    """Seconds of `predict` in which compiled ensembles of trees, text vectorizers or scalers were used."""
    search: float = 0.0
    """Seconds of `predict` that finding rejected rows took, in addition to scoring the others in one call per batch."""
    class_a: int = 0
    class_b: int = 0
    """Numbers of requests to object stores, by the classes of `scoreline.storage.objects.requests`."""
    _began: float = field(default_factory=time.perf_counter)
    _uploaded: float = 0.0

    def begin(self) -> None:
        """Start measuring `wall`."""
        self._began, self._uploaded = time.perf_counter(), self.seconds["upload"]

    def pause(self, seconds: float) -> None:
        """Count `seconds` that the process just spent on other jobs as `queue`, and not as part of `wall`."""
        self.seconds["queue"] += seconds
        self._began += seconds

    @contextlib.contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Add the seconds that the block takes."""
        begun = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] += time.perf_counter() - begun

    @contextlib.contextmanager
    def predicting(self, compiled: object) -> Iterator[None]:
        """Add the seconds of the block to `predict`, and to `compiled` if the argument is true at the end."""
        before = self.seconds["predict"]
        try:
            with self("predict"):
                yield
        finally:
            if compiled:
                self.compiled += self.seconds["predict"] - before

    @contextlib.contextmanager
    def searching(self) -> Iterator[None]:
        """Add the seconds of the block to `search`."""
        begun = time.perf_counter()
        try:
            yield
        finally:
            self.search += time.perf_counter() - begun

    def each[T](self, name: str, items: Iterator[T]) -> Generator[T]:
        """Yield the items, and add the seconds that producing them takes."""
        while True:
            with self(name):
                try:
                    item = next(items)
                except StopIteration:
                    return
            yield item

    def add(self, text: str) -> None:
        """Add the timings in a receipt. Malformed text counts as zero, because other programs can write such text."""
        with contextlib.suppress(ValueError, TypeError, AttributeError, RecursionError):
            values = json.loads(text)
            for name in TIMINGS:
                self.seconds[name] += _seconds(values.get(name))
            self.wall += _seconds(values.get("wall"))
            self.search += _seconds(values.get("search"))
            self.compiled += _seconds(values.get("compiled"))
            self.class_a += int(_seconds(values.get("class_a")))
            self.class_b += int(_seconds(values.get("class_b")))

    @property
    def work(self) -> float:
        """Seconds that processes spent on the parts. Concurrent work is counted once, and waiting is not counted."""
        return self.wall + self.seconds["upload"]

    @property
    def scoring(self) -> float:
        """Seconds of `work` without those spent on finding rejected rows."""
        return max(0.0, self.work - self.search)

    @property
    def scoring_alone(self) -> float:
        """Seconds of `align`, `predict` and `encode`, without `search`."""
        return max(0.0, sum(self.seconds[name] for name in ("align", "predict", "encode")) - self.search)

    def to_text(self) -> str:
        """Return the timings as the text that `add` reads. `wall` is measured up to this call."""
        wall = time.perf_counter() - self._began - (self.seconds["upload"] - self._uploaded)
        counts = {"class_a": self.class_a, "class_b": self.class_b}
        return json.dumps(self.rounded(6) | {"wall": round(wall, 6), "search": round(self.search, 6)} | counts)

    def rounded(self, digits: int) -> dict[str, float]:
        """Return the rounded seconds by name, in the order of `TIMINGS`, and then `compiled` if it is not 0."""
        rounded = {name: round(self.seconds[name], digits) for name in TIMINGS}
        return rounded | ({"compiled": round(self.compiled, digits)} if self.compiled else {})


def _seconds(value: object) -> float:
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < 1e9 else 0.0


@dataclass
class PartHistory:
    """Records when a process wrote its last part of each job, and how long its upload took."""

    _parts: OrderedDict[str, tuple[float, float]] = field(default_factory=OrderedDict)
    """When the last part was written, and the seconds that its upload took, by job id."""

    def begin(self, job_id: str) -> Timings:
        """Return new timings for a part that begins now, with the `queue` and `upload` of the previous part."""
        timings = Timings()
        if job_id in self._parts:
            ended, timings.seconds["upload"] = self._parts.pop(job_id)
            timings.seconds["queue"] = time.perf_counter() - ended
        return timings

    def end(self, job_id: str, upload_s: float) -> None:
        """Record that a part was written now, and that its upload took `upload_s` seconds."""
        self._parts[job_id] = time.perf_counter(), upload_s
        while len(self._parts) > _MAX_JOBS:
            self._parts.popitem(last=False)
