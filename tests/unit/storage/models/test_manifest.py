from __future__ import annotations

import json
from typing import Any

import pytest

from scoreline.storage.errors import ModelCorrupt
from scoreline.storage.models.manifest import Manifest


def manifest(**changed: Any) -> Manifest:
    fields: dict[str, Any] = {
        "name": "cat",
        "version": "v",
        "created": "",
        "artifacts": (),
        "feature_names": None,
        "n_features": 0,
        "outputs": {},
        "libraries": {},
        "memory_bytes": 0,
    }
    return Manifest(**fields | changed)


def test_a_manifest_of_a_later_format_is_refused() -> None:
    with pytest.raises(ModelCorrupt, match="has format 99, but this release reads format 1: upgrade"):
        Manifest.from_json(b'{"format": 99}', "m@v")


def test_a_number_of_features_that_an_earlier_release_took_from_catboost_is_unknown() -> None:
    # Given the manifest of an unpickled CatBoost model, which reports 0 features
    made = manifest()
    read = Manifest.from_json(made.to_json(), "cat@v")
    assert read.n_features is None
    assert json.loads(read.to_json()) == json.loads(made.to_json()) | {"n_features": None}


@pytest.mark.parametrize("size", ['"x"', "1e999", "-1", "1.5", "true", "null", "[1]", "1e3", str(1 << 60)])
def test_a_size_that_is_not_a_number_of_bytes_makes_a_manifest_unreadable(size: str) -> None:
    text = manifest(memory_bytes=77).to_json().replace(b"77", size.encode())
    with pytest.raises(ModelCorrupt, match="memory_bytes"):
        Manifest.from_json(text, "cat@v")
