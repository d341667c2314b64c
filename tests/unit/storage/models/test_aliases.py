"""No change of an alias is lost or made twice, and an alias never names a version that workers would refuse."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from sklearn.linear_model import LinearRegression

from scoreline.storage.errors import ModelUntrusted, PreconditionFailed
from scoreline.storage.models import aliases, signatures
from scoreline.storage.models.aliases import Alias
from scoreline.storage.models.bundle import dump
from scoreline.storage.models.manifest import PinnedModel
from scoreline.storage.models.publisher import Publisher
from scoreline.storage.models.registry import ModelRegistry
from scoreline.storage.models.trial_load import NewArtifact
from scoreline.storage.objects.base import ObjectInfo
from scoreline.storage.objects.directory import DirectoryStore

MINE, THEIRS = "20260101T000000Z-aaaaa", "20260101T000000Z-bbbbb"


def pinned(version: str) -> PinnedModel:
    return PinnedModel(name="m", version=version, manifest_sha256="d" * 64)


def test_if_two_processes_move_an_alias_at_once_no_change_is_lost(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path, "data")
    others = [lambda: aliases.move(store, "m", "champion", lambda _: pinned(THEIRS))]

    def choose(current: Alias | None) -> PinnedModel:
        if others:
            others.pop()()
        return pinned(MINE)

    moved = aliases.move(store, "m", "champion", choose)
    assert [(change.seq, change.version) for change in moved.history] == [(1, THEIRS), (2, MINE)]


class LosingAnswers(DirectoryStore):
    """A store that reports the first write as refused, although the write has taken effect."""

    refusals = 1

    def put(self, key: str, data: bytes, **options: Any) -> ObjectInfo:
        info = super().put(key, data, **options)
        if self.refusals:
            self.refusals -= 1
            raise PreconditionFailed("412")
        return info


def test_a_change_whose_answer_was_lost_is_made_once(tmp_path: Path) -> None:
    store = LosingAnswers(tmp_path, "data")
    moved = aliases.move(store, "m", "champion", lambda _: pinned(MINE))
    assert [(change.seq, change.version) for change in moved.history] == [(1, MINE)]


def test_an_alias_cannot_be_set_to_a_version_that_workers_refuse(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path, "data")
    data = dump(LinearRegression().fit([[0.0], [1.0]], [0.0, 2.0]))
    made = Publisher(store, try_here=True).publish("m", [NewArtifact(role="model", name="model", data=data)], {})
    registry = ModelRegistry(store, verify_keys=[signatures.generate_keys()[1]])
    with pytest.raises(ModelUntrusted, match="is not signed"):
        registry.alias("m", "champion", made.version)
    assert registry.find_alias("m", "champion") is None
