from __future__ import annotations

import json

from scoreline.storage.models.manifest import Manifest


def test_a_number_of_features_that_an_earlier_release_took_from_catboost_is_unknown() -> None:
    # Given the manifest of a CatBoost model, which says that it has 0 features once it is unpickled
    made = Manifest(
        name="cat",
        version="v",
        created="",
        artifacts=(),
        feature_names=None,
        n_features=0,
        outputs={},
        libraries={},
        memory_bytes=0,
    )
    read = Manifest.from_json(made.to_json(), "cat@v")
    assert read.n_features is None
    assert json.loads(read.to_json()) == json.loads(made.to_json()) | {"n_features": None}
