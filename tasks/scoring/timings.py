"""Where the time of parts goes.

=========  =======================================================================================================
name      what a worker process does in it
=========  =======================================================================================================
queue      between two parts of a job: counting the one, fetching the other, whatever else it works on, waiting
decode     fetches bytes of the input and decodes them, while the batch before is scored
align      features to what the estimator takes; kept columns and scores to the planned schema
predict    the estimators
encode     results to Parquet, and their digest
upload     writes the object
=========  =======================================================================================================

A part's object tells of itself what was known when it was written: `queue` and `upload` are those of the part of the
same job that the same process scored before.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections import OrderedDict
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field

TIMINGS = ("queue", "decode", "align", "predict", "encode", "upload")
_JOBS = 64
"""That a process remembers."""


@dataclass
class Timings:
    """Seconds of one part, or of many added up, by name."""

    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(TIMINGS, 0.0))
    wall: float = 0.0
    """From the model's being there to the encoded results, whatever ran beside what; without `upload`."""
    _began: float = field(default_factory=time.perf_counter)
    _uploaded: float = 0.0

    def begin(self) -> None:
        """Let `wall` begin now."""
        self._began, self._uploaded = time.perf_counter(), self.seconds["upload"]

    @contextlib.contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Add what the block takes."""
        begun = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] += time.perf_counter() - begun

    def each[T](self, name: str, items: Iterator[T]) -> Generator[T]:
        """Yield the items, and add what it takes to make them."""
        while True:
            with self(name):
                try:
                    item = next(items)
                except StopIteration:
                    return
            yield item

    def add(self, text: str) -> None:
        """Add what a part tells of itself; what is no such text counts for nothing: anybody can write an object."""
        with contextlib.suppress(ValueError, TypeError, AttributeError, RecursionError):
            told = json.loads(text)
            for name in TIMINGS:
                self.seconds[name] += _seconds(told.get(name))
            self.wall += _seconds(told.get("wall"))

    @property
    def work(self) -> float:
        """Seconds that the parts took their processes: what ran beside something else counts once, waiting does not."""
        return self.wall + self.seconds["upload"]

    def to_text(self) -> str:
        """Return the form that `add` takes; `wall` ends now."""
        wall = time.perf_counter() - self._began - (self.seconds["upload"] - self._uploaded)
        return json.dumps(self.rounded(6) | {"wall": round(wall, 6)})

    def rounded(self, digits: int) -> dict[str, float]:
        """Return seconds by name, in the order of `TIMINGS`."""
        return {name: round(self.seconds[name], digits) for name in TIMINGS}


def _seconds(told: object) -> float:
    return told if isinstance(told, (int, float)) and not isinstance(told, bool) and 0 <= told < 1e9 else 0.0


@dataclass
class PartHistory:
    """What a process remembers from one part of a job to the next."""

    _parts: OrderedDict[str, tuple[float, float]] = field(default_factory=OrderedDict)
    """By job: when its last part was written, and the seconds that this took."""

    def begin(self, job_id: str) -> Timings:
        """Return the timings of a part that begins now."""
        timings = Timings()
        if job_id in self._parts:
            ended, timings.seconds["upload"] = self._parts.pop(job_id)
            timings.seconds["queue"] = time.perf_counter() - ended
        return timings

    def end(self, job_id: str, upload_s: float) -> None:
        """Note that a part was written."""
        self._parts[job_id] = time.perf_counter(), upload_s
        while len(self._parts) > _JOBS:
            self._parts.popitem(last=False)
