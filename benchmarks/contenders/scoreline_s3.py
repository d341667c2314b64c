"""Scoreline on the embedded S3 server, otherwise like the contender `scoreline`."""

from __future__ import annotations

import functools

from benchmarks.contenders.protocol import run
from benchmarks.contenders.scoreline import start

if __name__ == "__main__":
    run("scoreline_s3", functools.partial(start, directory=False), rehearsed=True)
