"""Each object of an input is listed once, and what dataset readers do not see is left out."""

from __future__ import annotations

from pathlib import Path

from scoreline.storage.objects.buckets import Buckets
from scoreline.tasks.inputs.listing import list_inputs


def listed(tmp_path: Path, *uris: str) -> list[str]:
    buckets = Buckets.from_env({"ENVIRONMENT": "development", "STORE_DIR": str(tmp_path), "R2_BUCKET": "data"})
    for key in ("in/b.csv", "in/a.csv", "in/_manifest.json", "in/.tmp/c.csv", "in/_rejected/r.parquet"):
        buckets.main.put(key, b"x\n1\n")
    return [item.key for item in list_inputs(buckets, uris)]


def test_an_object_that_several_inputs_match_is_listed_once(tmp_path: Path) -> None:
    assert listed(tmp_path, "s3://data/in/b.csv", "s3://data/in/", "s3://data/in/*.csv") == ["in/b.csv", "in/a.csv"]


def test_objects_and_folders_that_readers_skip_are_not_input(tmp_path: Path) -> None:
    assert listed(tmp_path, "s3://data/in/") == ["in/a.csv", "in/b.csv"]
    assert listed(tmp_path, "s3://data/in/*") == ["in/a.csv", "in/b.csv"]
