"""Encode Arrow schemas as text, so that they can be stored in JSON documents."""

from __future__ import annotations

import base64
import functools

import pyarrow as pa


def to_text(schema: pa.Schema) -> str:
    """Encode a schema as Arrow IPC in base64."""
    return base64.b64encode(schema.serialize().to_pybytes()).decode()


@functools.lru_cache(maxsize=8)  # each part of a job decodes two schemas several times
def from_text(text: str) -> pa.Schema:
    """Decode a schema that `to_text` encoded. An empty text stands for a schema without columns."""
    return pa.ipc.read_schema(pa.py_buffer(base64.b64decode(text))) if text else pa.schema([])
