"""Lets tests publish without loading each model in a fresh process, because loading takes seconds for each model."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import pytest

from scoreline.storage.models import publisher, trial_load


def _prove_here(
    name: str, files: Sequence[trial_load.NewArtifact], *, allow_version_skew: bool = False
) -> trial_load.Trial:
    return trial_load.TrialHere(name, files, allow_version_skew=allow_version_skew)


@contextlib.contextmanager
def proved_here() -> Iterator[None]:
    """Load published models on trial in this process; only the tests of publishing use a fresh process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(publisher, "open_trial", _prove_here)
        yield


def try_loading(name: str, files: Sequence[trial_load.NewArtifact]) -> trial_load.TrialLoad:
    """Load a bundle in a fresh process, without publishing it, and return the result."""
    with contextlib.closing(trial_load.open_trial(name, files)) as trial:
        for item in files:
            item.content.copy_to(trial.send)
            trial.end_file()
        return trial.result()
