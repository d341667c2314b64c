"""`make bench` runs every benchmark."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]


def test_make_bench_runs_every_benchmark() -> None:
    script = (ROOT / "scripts" / "bench").read_text()
    (listed,) = re.findall(r"for name in ([\w\s\\]+); do", script)
    run = {*re.findall(r"\brun (\w+)", script), *listed.replace("\\", "").split()}
    assert run == {file.stem.removeprefix("bench_") for file in (ROOT / "benchmarks").glob("bench_*.py")}
