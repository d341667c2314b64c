"""Jobs are measured as an application runs them, not directly one after the other."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks import stand


def test_a_job_on_s3_waits_until_its_output_can_be_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[float] = []
    monkeypatch.setattr(stand, "time", SimpleNamespace(sleep=waited.append, monotonic=lambda: 100.0))
    for directory in (False, True):
        some = stand.Stand(tmp_path, directory=directory)
        some.rest()  # no job has ended yet
        some._ended = 99.25
        some.rest()
    assert waited == [0.0, 0.25]
