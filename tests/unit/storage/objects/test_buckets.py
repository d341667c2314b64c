from __future__ import annotations

from pathlib import Path

import pytest

from scoreline.storage.errors import BucketNotAllowed
from scoreline.storage.objects.buckets import Buckets


def test_only_the_buckets_that_the_settings_name_can_be_opened(tmp_path: Path) -> None:
    settings = {
        "ENVIRONMENT": "development",
        "STORE_DIR": str(tmp_path),
        "R2_BUCKET": "mine",
        "ALLOWED_BUCKETS": "lake",
    }
    buckets = Buckets.from_env(settings)
    assert [buckets[name].bucket for name in ("mine", "lake")] == ["mine", "lake"]
    for store in (buckets, buckets.caching(set())):
        with pytest.raises(BucketNotAllowed, match=r"'theirs' is not in ALLOWED_BUCKETS \(lake, mine\)"):
            store["theirs"]
