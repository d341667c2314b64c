"""The steps of ``scoreline demo``: train a model on half of a data set, and score rows of the other half."""

from __future__ import annotations

import io
import itertools
import secrets
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from sklearn.datasets import load_breast_cancer
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import LabelEncoder, StandardScaler

from scoreline.storage.models.manager import ModelStorageManager
from scoreline.storage.models.manifest import Manifest
from scoreline.storage.objects.base import ObjectStore

SEED = 7
FILES = 8
ALIAS = "champion"
NAME = "demo-breast-cancer"
COLUMNS = ["id", "diagnosis", "prediction", "proba_benign", "proba_malignant"]
"""The columns of the results that the demo reads and prints."""


@dataclass(frozen=True)
class Summary:
    """A summary of the results of the demo job."""

    rows: int
    ids: int
    """Number of distinct ids; equal to `rows` if each row was scored once."""
    accuracy: float
    head: pd.DataFrame


def train_and_publish(models: ModelStorageManager) -> tuple[Manifest, pd.DataFrame]:
    """Publish a model that is fitted on half of the data.

    Return the manifest of the model, and the other half of the data with labels.
    """
    data = load_breast_cancer(as_frame=True)
    features = data.data
    labels = data.target.map(dict(enumerate(data.target_names)))
    x_train, x_test, y_train, y_test = train_test_split(
        features, labels, test_size=0.5, random_state=SEED, stratify=labels
    )
    encoder = LabelEncoder().fit(labels)
    scaler = StandardScaler().fit(x_train)
    forest = RandomForestClassifier(100, random_state=SEED, n_jobs=1)
    forest.fit(scaler.transform(x_train), encoder.transform(y_train))
    manifest = models.publish(
        NAME,
        forest,
        preprocessor=scaler,
        label_encoder=encoder,
        alias=ALIAS,
        metadata={"data": "breast cancer Wisconsin", "trained_on_rows": len(x_train)},
    )
    return manifest, x_test.assign(diagnosis=y_test)


def new_folder() -> str:
    """Return a new prefix for the input of a demo.

    Each demo has a prefix of its own, because a job scores all objects below a prefix.
    """
    return f"demo/{secrets.token_hex(4)}/"


def upload(store: ObjectStore, held_out: pd.DataFrame, rows: int, folder: str) -> None:
    """Draw `rows` rows from the held-out half, add ids, and upload the rows as several Parquet files."""
    picks = np.random.default_rng(SEED).integers(0, len(held_out), rows)
    bounds = np.linspace(0, rows, FILES + 1).astype(int)
    for number, (start, stop) in enumerate(itertools.pairwise(bounds)):
        table = pa.Table.from_pandas(held_out.iloc[picks[start:stop]], preserve_index=False)
        table = table.add_column(0, "id", pa.array(np.arange(start, stop)))
        sink = io.BytesIO()
        pq.write_table(table, sink)
        store.put(f"{folder}cells-{number}.parquet", sink.getvalue())


def remove(store: ObjectStore, folder: str) -> None:
    """Delete the objects that `upload` wrote."""
    for info in store.list(folder):
        store.delete(info.key)


def summarise(store: ObjectStore, folder: str) -> Summary:
    """Summarise the results. Read one file at a time, because all results may not fit into memory."""
    ids, correct, head = [], 0, pd.DataFrame()
    for info in store.list(f"{folder}part-"):
        part = pq.read_table(io.BytesIO(store.get(info.key).data), columns=COLUMNS).to_pandas()
        ids.append(part["id"].to_numpy())
        correct += int((part["prediction"] == part["diagnosis"]).sum())
        head = part.head(5) if head.empty else head
    found = np.concatenate(ids)
    return Summary(rows=len(found), ids=len(np.unique(found)), accuracy=correct / len(found), head=head)
