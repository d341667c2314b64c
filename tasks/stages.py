"""Where the time of parts goes.

=========  =======================================================================================================
stage      what a worker process does in it
=========  =======================================================================================================
queue      between two parts of a job: counting the one, fetching the other, whatever else it works on, waiting
decode     fetches bytes of the input and decodes them, while the batch before is scored
align      features to what the estimator takes; kept columns and scores to the planned schema
predict    the estimators
encode     results to Parquet, and their digest
upload     writes the object
=========  =======================================================================================================

A part's object tells of itself what was known when it was written: `queue` and `upload` are those of the part before it
in the same process.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field

STAGES = ("queue", "decode", "align", "predict", "encode", "upload")


@dataclass
class Stages:
    """Seconds of one part, or of many added up, by stage."""

    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))

    @contextlib.contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Add what the block takes."""
        begun = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] += time.perf_counter() - begun

    def each[T](self, stage: str, items: Iterator[T]) -> Generator[T]:
        """Yield the items, and add what it takes to make them."""
        while True:
            with self(stage):
                try:
                    item = next(items)
                except StopIteration:
                    return
            yield item

    def add(self, text: str) -> None:
        """Add what a part tells of itself; what is no such text counts for nothing: anybody can write an object."""
        with contextlib.suppress(ValueError, TypeError, AttributeError, RecursionError):
            told = json.loads(text)
            for stage in STAGES:
                value = told.get(stage, 0)
                if type(value) in (int, float) and 0 <= value < 1e9:
                    self.seconds[stage] += value

    @property
    def work(self) -> float:
        """Seconds that the parts took: those beside which others ran count once, and waiting does not."""
        at = self.seconds
        return max(at["decode"], at["align"] + at["predict"]) + at["encode"] + at["upload"]

    def to_text(self) -> str:
        """Return the form that `add` takes."""
        return json.dumps(self.rounded(6))

    def rounded(self, digits: int) -> dict[str, float]:
        """Return seconds by stage, in the order of `STAGES`."""
        return {stage: round(self.seconds[stage], digits) for stage in STAGES}


@dataclass
class Between:
    """What a process remembers from one part of a job to the next."""

    _job_id: str = ""
    _ended: float = 0.0
    _upload_s: float = 0.0

    def begin(self, job_id: str) -> Stages:
        """Return the stages of a part that begins now."""
        stages = Stages()
        if job_id == self._job_id:
            stages.seconds["queue"] = time.perf_counter() - self._ended
            stages.seconds["upload"] = self._upload_s
        self._job_id = ""
        return stages

    def end(self, job_id: str, upload_s: float) -> None:
        """Note that a part was written."""
        self._job_id, self._ended, self._upload_s = job_id, time.perf_counter(), upload_s
